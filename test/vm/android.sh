#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the steps of Android's libsnapshot, with its commands and its devices,
# lead from the old image to the new one, through a killed daemon.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SOCKET=/dev/socket/snapuserd

# ask ANSWER COMMAND
ask() {
  local got
  got=$(android_client "$SOCKET" "$2")
  [ "$got" = "$1" ] || fail "'$2' is answered '$got', not '$1'"
  echo "ok: $2: $got"
}

# make_device NAME TABLE
make_device() {
  dmsetup create "$1" --table "$2"
  dmsetup mknodes "$1"
}

sectors=$(blockdev --getsz /dev/vdc)
# As on a phone: the partition's old extents, and those it has now.
make_device base "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
make_device src "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0"
start_daemon --android-socket "$SOCKET" --merge-rate 4096
[ "$(stat -c %a "$SOCKET")" = 600 ] || fail "the socket is open to others"

ask active query
ask fail "start,new"
ask fail "init,new,/dev/vdb,/dev/mapper/src"
ask fail "init,new,/dev/vdc,/dev/mapper/src,/dev/mapper/base"
ask "success,$sectors" "init,new,/dev/vdb,/dev/mapper/src,/dev/mapper/base"
ask fail "start,new" # no node yet
ask snapshot "getstatus,new"
make_device new "0 $sectors user 0 $sectors new"
ask success "start,new"
ask fail "start,new"
same /dev/mapper/new /dev/vdc
dmuserctl status new --json | grep -q '"source": "/dev/mapper/src"' ||
  fail "$(dmuserctl status new --json)"

ask success "initiate_merge,new"
ask snapshot-merge "getstatus,new"
wait_merged_bytes new 1000000
ask success pause_merge
ask snapshot "getstatus,new"
ask success resume_merge
wait_merged_bytes new 2000000
kill_daemon
start_daemon --android-socket "$SOCKET" --merge-rate 4096
# Nobody has to begin anew.
ask snapshot-merge "getstatus,new"
percent=$(android_client "$SOCKET" merge_percent)
[[ $percent =~ ^[0-9]+\.[0-9]{6}$ && $percent != 0.000000 ]] ||
  fail "merge_percent: $percent"
same /dev/mapper/new /dev/vdc
dmuserctl throttle --rate none --quiet
dmuserctl status new --watch >/dev/null
ask snapshot-merge-complete "getstatus,new"
ask 100.000000 merge_percent
same /dev/mapper/base /dev/vdc

# The device's table becomes the partition itself, under whoever has it open.
exec 4</dev/mapper/new
dmsetup load new --table "0 $sectors linear /dev/vda 0"
dmsetup suspend new
dmsetup resume new
ask success "delete,new"
ask snapshot-merge-failed "getstatus,new"
ask 100.000000 merge_percent
same /dev/mapper/new /dev/vdc
exec 4<&-
[ ! -e /run/dm-user/state/new ] || fail "a record is left"

# Several commands on one connection; the end comes with the last device.
dmsetup remove new
answers=$(android_client "$SOCKET" query supports,ublk \
  "init,late,/dev/vdb,/dev/mapper/src,/dev/mapper/base" fly query)
[ "$answers" = "active
fail
success,$sectors
fail
(closed)" ] || fail "$answers"
make_device late "0 $sectors user 0 $sectors late"
ask success "start,late"
android_client "$SOCKET" detach
ask passive query
same /dev/mapper/late /dev/vdc
dmsetup remove late
wait "$DAEMON_PID" || fail "dmuserd ended with $?"
[ ! -e "$SOCKET" ] || fail "the socket is left behind"
