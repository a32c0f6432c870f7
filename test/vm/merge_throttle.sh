#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: two merges of one daemon share it: one waits while the other goes on,
# both are held while the machine is busy with something else, and both end.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# until_status TEXT - asks until the daemon says so of some device; not for ever:
# the machine has a time limit.
until_status() {
  until dmuserctl status --json | grep -qF "$1"; do
    dmuserctl status --json | grep -q '"state": "running"' ||
      fail "no merge goes on, and none said '$1'"
  done
}

mkdir -p /run/disks
mount -t tmpfs -o size=90% tmpfs /run/disks
for name in a b; do
  cp /dev/vda "/run/disks/$name.base"
  cp /dev/vdb "/run/disks/$name.cow"
done
start_daemon --merges 1 --merge-rate 4096
expect 0 '4.0 MiB/s; held never; 1 at once' dmuserctl throttle
expect 2 'no value for --rate' dmuserctl throttle --rate fast
expect 2 'merges at once are 1 to 64' dmuserctl throttle --merges 0
for name in a b; do
  dmuserctl map "$name" --quiet --cow "/run/disks/$name.cow" \
    --base "/run/disks/$name.base"
  dmuserctl merge "$name"
done
until_status '"waits_for": "its turn"'
until_status '"waits_for": "its rate"'
echo "one goes on, the other waits"

# A reader of a disk whose reads take 100 ms stalls nearly all of the time.
modprobe dm_delay
dmsetup create slow --table \
  "0 $(blockdev --getsz /dev/vda) delay /dev/vda 0 100"
dmsetup mknodes slow
(while :; do
  dd if=/dev/mapper/slow of=/dev/null bs=4k count=64 iflag=direct 2>/dev/null
done) &
load=$!
dmuserctl throttle --pressure 30 --rate none --quiet
until_status '"waits_for": "the machine to be less busy"'
echo "both are held"
kill "$load"
wait "$load" 2>/dev/null || true

dmuserctl throttle --pressure none --quiet
for name in a b; do
  dmuserctl merge "$name" --wait --quiet
  same "/dev/mapper/$name" /dev/vdc
  dmuserctl unmap "$name"
  cmp "/run/disks/$name.base" /dev/vdc || fail "$name: the base is not new"
done
stop_daemon
