#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: suspend, resume and reload, in each of their forms, under load: nothing is
# lost, nothing fails, nothing hangs. A device under load is not removed, and one
# that is removed by force fails its I/O and no more.
# Method: fio verifies one device, a load with copies in memory the file system on
# another, while both go through all forms in turn. With --channel dmuserd serves
# them, else a small daemon for each.
#
# Usage: suspend_load.sh [--channel=WAY] [SECONDS]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/vm/tap.sh
source /vm/tap.sh

readonly SECONDS_WANTED=${1:-10} SECTORS=65536
rounds=0

# device NAME - and its daemon.
device() {
  truncate -s $((SECTORS * 512)) "/tmp/$1"
  if [ "${#DAEMON_FLAGS[@]}" -gt 0 ]; then
    [ -n "$DAEMON_PID" ] || start_daemon
    dmuserctl map "$1" --file "/tmp/$1" --quiet
    return
  fi
  dmsetup create "$1" --table "0 $SECTORS user 0 $SECTORS $1" || return 1
  ram_daemon "$1" "/tmp/$1" &
  # The table waits four seconds for it, and a machine may be slow.
  local fields
  until read -r -a fields < <(dmsetup status "$1") && [ "${fields[6]}" -gt 0 ]; do
    pause_ms 20
  done
}
table() {
  dmsetup load "$1" --table "0 $SECTORS user 0 $SECTORS $1 $2"
}
# once NAME FORM - the flags of the suspend, and whether a table is loaded before.
once() {
  case $((rounds % 8)) in
    0) dmsetup suspend "$1" ;;
    1) dmsetup suspend --nolockfs "$1" ;;
    2) dmsetup suspend --noflush "$1" ;;
    3) dmsetup suspend --noflush --nolockfs "$1" ;;
    4) table "$1" "2 stuck_ms 60000" && dmsetup suspend "$1" ;;
    5) table "$1" "1 discard" && dmsetup suspend --nolockfs "$1" ;;
    6) table "$1" "2 orphan_ms forever" && dmsetup suspend --noflush "$1" ;;
    7) table "$1" "" && dmsetup suspend --noflush --nolockfs "$1" ;;
  esac && dmsetup resume "$1"
}
# suspended NAME COMMAND... - the command, and suspends until it ends.
suspended() {
  local name=$1
  shift
  "$@" &
  local command=$!
  while kill -0 "$command" 2>/dev/null; do
    once "$name" || return 1
    rounds=$((rounds + 1))
  done
  wait "$command" || {
    dmsetup status --noflush "$name"
    return 1
  }
  echo "$rounds suspends: $(dmsetup status "$name")"
}
# Rounds that each end before the next begins: see kernel_fio.sh.
verify() {
  fio --name=verify --filename="/dev/mapper/$1" --direct=1 --ioengine=libaio \
    --iodepth=16 --rw=randrw --bsrange=512-64k --blockalign=512 --size=100% \
    --io_size=1T --runtime="$2" --verify=md5 --verify_fatal=1 \
    --verify_backlog=64 --eta=never
}
no_errors() {
  local fields
  read -r -a fields < <(dmsetup status "$1")
  [ "${fields[12]}" -eq 0 ]
}
served_requests() {
  local fields
  read -r -a fields < <(dmsetup status "$1")
  echo "${fields[11]}"
}
removed_under_load() {
  local before fio_pid status=0
  before=$(served_requests raw)
  verify raw 60 >/run/fio.out 2>&1 &
  fio_pid=$!
  # What was served was asked by who has the device open, and goes on asking.
  until [ "$(served_requests raw)" -gt "$before" ]; do
    kill -0 "$fio_pid" || return 1
    pause_ms 20
  done
  if dmsetup remove raw; then
    echo "a device in use was removed"
    return 1
  fi
  # Fails because it is in use; what it holds is the error target then.
  dmsetup remove --force raw || true
  wait "$fio_pid" || status=$?
  dmsetup remove --retry raw 2>/dev/null || true
  [ "$status" -ne 0 ] && grep -a -q 'Input/output error' /run/fio.out
}

modprobe ext4
mkdir -p /mnt/f
step "a device" device raw
step "suspends under fio" suspended raw verify raw "$SECONDS_WANTED"
grep -a -E 'suspends:|read:|write:' /run/step.out | sed 's/^ */# /'
step "no error counted" no_errors raw
rounds=0
step "a device for a file system" device fs
step "mkfs" mkfs.ext4 -q /dev/mapper/fs
step "mount" mount -t ext4 /dev/mapper/fs /mnt/f
step "suspends under a file system" suspended fs fs_load /mnt/f \
  "$SECONDS_WANTED" "$RANDOM" 2
step_said
step "umount" umount /mnt/f
step "fsck" e2fsck -fn /dev/mapper/fs
step "no error counted" no_errors fs
step "removed by force under fio" removed_under_load
step "remove" dmsetup remove fs
[ -z "$DAEMON_PID" ] || step "the daemon ends" stop_daemon
wait
step "unload" rmmod dm_user
tap_end
