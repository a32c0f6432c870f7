#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a snapshot is mounted, merged and finished - its table put on the base -
# while it is read, and nobody notices; then neither daemon nor transport holds
# anything of it. Too early, or on what cannot be finished, nothing changes.
# usage: finish.sh TRANSPORT
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=24
transport=$1
[ "$transport" != ublk ] || modprobe ublk_drv
modprobe brd rd_nr=1 rd_size=$((SIZE_MIB * 1024))
modprobe ext4

# An old and a new file system, and what leads from one to the other.
mkdir -p /tmp/image /tmp/mounted
mkfs.ext4 -q -b 4096 /dev/ram0
mount /dev/ram0 /tmp/image
head -c 6000000 /dev/urandom >/tmp/image/data
(cd /tmp/image && sha256sum data) >/tmp/image/sums
umount /tmp/image
cp /dev/ram0 /tmp/old.img
mount /dev/ram0 /tmp/image
head -c 8000000 /dev/urandom >/tmp/image/data
(cd /tmp/image && sha256sum data) >/tmp/image/sums
umount /tmp/image
cp /dev/ram0 /tmp/new.img
cp /tmp/old.img /dev/ram0
dmuserctl cow create /tmp/old.img /tmp/new.img -o /tmp/update.cow --quiet

start_daemon
dmuserctl map m --cow /tmp/update.cow --base /dev/ram0 --transport "$transport"
dmuserctl map n --null 1048576 --quiet --transport "$transport"
mount -o ro /dev/mapper/m /tmp/mounted
expect 5 'ops are merged' dmuserctl finish m
expect 2 'is no snapshot' dmuserctl finish n
expect 9 'no such device' dmuserctl finish nobody

# Reads the disk, not the cache, until it is told to end.
(
  trap 'exit 0' TERM
  while :; do
    drop_caches
    (cd /tmp/mounted && sha256sum --quiet -c sums)
    : >/run/read.once
  done
) &
reader_pid=$!
# once more: the reader has begun and ended a whole round since.
round() {
  local n
  for n in 1 2; do
    rm -f /run/read.once
    until [ -e /run/read.once ]; do
      kill -0 "$reader_pid" 2>/dev/null || fail "the reader failed"
    done
    : "$n"
  done
}

round
dmuserctl merge m --wait --quiet
round
dmuserctl finish m
dmsetup table m | grep -q "linear 1:0 0" || fail "$(dmsetup table m)"
dmuserctl list
round
# Again, as after an interruption: it has nothing left to do.
dmuserctl finish m
expect 9 '' dmuserctl status m
[ "$(ls /run/dm-user/state)" = n ] || fail "a record is left"
# Without any daemon.
dmuserctl unmap n
kill_daemon
[ -z "$(ls /dev/ublkb* /dev/ublkc* 2>/dev/null)" ] || fail "$(ls /dev/ublk*)"
round
kill "$reader_pid"
wait "$reader_pid"
mount -o remount,rw /tmp/mounted
echo written >/tmp/mounted/more
umount /tmp/mounted
dmuserctl unmap m
mount -o ro /dev/ram0 /tmp/mounted
[ "$(cat /tmp/mounted/more)" = written ] || fail "the write is not in the base"
(cd /tmp/mounted && sha256sum --quiet -c sums)
umount /tmp/mounted
echo "finished over $transport"
