#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a disk that does not answer holds up its own device and nothing else:
# other devices answer in time, a merge goes to its end, the control socket is
# there. When the disk is back, all that waited is done, and right.
# Method: the disks below two devices are suspended while these are read, written
# in whole blocks and in parts, flushed and zeroed.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# What a machine in software needs at its worst, and far from for ever.
readonly SIZE_MIB=64 LATENCY_MS=1000
modprobe brd rd_nr=3 rd_size=$((SIZE_MIB * 1024))
start_daemon "$@"
# Through the daemon's page cache, and past it where the kernel can.
for kind in off auto; do
  ram=/dev/ram$([ "$kind" = off ] && echo 0 || echo 2)
  dmsetup create "below-$kind" --table "0 $((SIZE_MIB * 2048)) linear $ram 0"
  dmsetup mknodes "below-$kind"
  head -c $((SIZE_MIB << 20)) /dev/urandom >"$ram"
  dmuserctl map "stuck-$kind" --file "/dev/mapper/below-$kind" --quiet \
    --direct-io "$kind" --orphan-timeout forever
done
dmuserctl map well --file /dev/ram1 --quiet
dmuserctl map m --cow /dev/vdb --base /dev/vda --quiet

# What the other devices do, of which each step ends: `before` says when.
others() {
  local before=$1 began
  fio --name="$before" --filename=/dev/mapper/well --direct=1 \
    --ioengine=libaio --iodepth=4 --rw=randrw --bsrange=512-64k \
    --bs_unaligned=0 --size=8M --io_size=8M --fsync=32 --verify=md5 \
    --verify_fatal=1 --do_verify=1 --verify_backlog=64 --eta=never \
    --lat_percentiles=1 --output=/run/fio.out || fail "fio: $(cat /run/fio.out)"
  grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
  # "lat (usec): min=1, max=2," for reads and for writes, in any unit.
  awk -v limit_ms="$LATENCY_MS" '$1 == "lat" && $2 ~ /^\(.sec\):$/ {
    match($0, /max= *[0-9.]+k?/)
    max = substr($0, RSTART + 4, RLENGTH - 4)
    if (max ~ /k$/) { sub(/k/, "", max); max *= 1000 }
    if ($2 ~ /nsec/) max /= 1000000
    if ($2 ~ /usec/) max /= 1000
    print "longest: " max " ms"
    if (max > limit_ms) exit 1
  }' /run/fio.out || fail "too long: $(cat /run/fio.out)"
  began=${EPOCHREALTIME/./}
  dmuserctl status --json >/dev/null
  echo "$before: status took $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
}

others healthy
# Flushes, and reads that the cache does not have, take no thread. (A suspended
# disk below drops what is read ahead, so that the kernel takes a thread there.)
[ "$(status_number threads)" -eq 1 ] || fail "more than one thread"
# Written and not flushed, so that a flush has something to wait for.
for kind in off auto; do
  dd if=/dev/zero of="/dev/mapper/stuck-$kind" bs=64k count=16 oflag=direct 2>/dev/null
done
dd if=/dev/urandom of=/run/part bs=512 count=1 2>/dev/null
drop_caches
waiting=()
in_background() {
  "$@" &
  waiting+=($!)
}
for kind in off auto; do
  dmsetup suspend --noflush --nolockfs "below-$kind"
  stuck=/dev/mapper/stuck-$kind
  in_background dd if="$stuck" of="/run/read-$kind" bs=64k skip=512 count=4 \
    iflag=direct
  in_background dd if="$stuck" of=/dev/null bs=4k skip=12000 count=1 iflag=direct
  in_background dd if=/run/part of="$stuck" bs=512 seek=100001 count=1 \
    oflag=direct conv=notrunc
  # More than there are buffers.
  in_background fio --name="writer-$kind" --filename="$stuck" --direct=1 \
    --ioengine=libaio --iodepth=64 --rw=write --bs=64k --size=24M --offset=4M \
    --eta=never --output="/run/writer-$kind.out"
  in_background dd if=/dev/zero of="$stuck" bs=4k seek=4000 count=1 \
    oflag=direct conv=notrunc,fsync
done
others stuck
dmuserctl merge m --wait --quiet
same /dev/mapper/m /dev/vdc
for pid in "${waiting[@]}"; do
  kill -0 "$pid" 2>/dev/null || fail "the disk answered while it was suspended"
done
for kind in off auto; do dmsetup resume "below-$kind"; done
for pid in "${waiting[@]}"; do
  wait "$pid" || fail "one that waited ended with $?: $(cat /run/writer-*.out)"
done
# A write is where the daemon's disk is only when it has been flushed.
for kind in off auto; do
  dd if=/dev/null of="/dev/mapper/stuck-$kind" bs=4k count=0 conv=notrunc,fsync \
    2>/dev/null
done
others well-again
drop_caches
for kind in off auto; do
  ram=/dev/ram$([ "$kind" = off ] && echo 0 || echo 2)
  cmp -n $((256 << 10)) -i $((32 << 20)):0 "$ram" "/run/read-$kind" ||
    fail "$kind: what was read is not what is there"
  cmp -n 512 -i $((100001 * 512)):0 "$ram" /run/part ||
    fail "$kind: the part of a page is not there"
done
for name in stuck-off stuck-auto well m; do dmuserctl unmap "$name"; done
stop_daemon
for kind in off auto; do dmsetup remove --retry "below-$kind"; done
