#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a device whose data goes straight to the one below it is that device, block
# for block, with its limits, its discards, its flushes and its errors; the daemon
# sees each request and holds no data. What cannot be served so is refused in a
# sentence and leaves nothing behind.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=16 MEMORY_BYTES=$((1536 << 10))

# figure INDEX: a number of the kernel's status line of the device d.
figure() {
  local -a status
  read -r -a status < <(dmsetup status --noflush d)
  # Behind start, length and target.
  echo "${status[$((3 + $1))]}"
}
served() { figure 8; }
redirected() { figure 14; }
remapped() { figure 16; }

# says TEXT... - all of them are in the status of d.
says() {
  local text
  dmuserctl status d --json >/run/status.json
  for text; do
    grep -qF -- "$text" /run/status.json ||
      fail "status of d has no $text: $(cat /run/status.json)"
  done
}

# queue NODE NAME - a figure of the block device's queue.
queue() { cat "/sys/dev/block/$((0x$(stat -c %t "$1"))):$((0x$(stat -c %T "$1")))/queue/$2"; }

# flushes NODE - that were sent to it and are done.
flushes() {
  local -a figures
  read -r -a figures <"/sys/block/$(basename "$1")/stat"
  echo "${figures[15]}"
}

# verify BLOCK_BYTES ENGINE [FLAG...] - more at a time than there are slots, longer
# than a buffer, and than what the device below takes in one piece.
verify() {
  local block_bytes=$1 engine=$2
  shift 2
  fio --name=remap --filename=/dev/mapper/d --direct=1 --ioengine="$engine" \
    "$@" --iodepth=96 --rw=randrw --bsrange="$block_bytes-160k" \
    --blockalign="$block_bytes" --bs_unaligned=0 --size=${SIZE_MIB}M \
    --io_size=${SIZE_MIB}M --fsync=64 --verify=md5 --verify_fatal=1 \
    --do_verify=1 --verify_backlog=64 --eta=never --output=/run/fio.out ||
    fail_with_fio d "fio ended with $?"
  grep -a -q 'err= 0' /run/fio.out || fail_with_fio d "fio has seen an error"
}

# same_below DEVICE - both are the same from end to end, past all caches.
same_below() {
  drop_caches
  cmp -n $((SIZE_MIB << 20)) /dev/mapper/d "$1" || fail "d and $1 differ"
}

# make_null NAME SETTING... - a null_blk device with such settings of its own.
readonly NULLS=/sys/kernel/config/nullb
make_null() {
  local name=$1 setting
  shift
  mkdir "$NULLS/$name"
  for setting in size=$SIZE_MIB memory_backed=1 "$@" power=1; do
    echo "${setting#*=}" >"$NULLS/$name/${setting%=*}"
  done
  [ -b "/dev/$name" ] || fail "no /dev/$name: $(ls /sys/block)"
}
remove_null() {
  echo 0 >"$NULLS/$1/power"
  rmdir "$NULLS/$1"
}

modprobe null_blk nr_devices=0
modprobe brd rd_nr=2 rd_size=$((SIZE_MIB * 1024))
mount -t configfs none /sys/kernel/config
start_daemon

# 1. One to one, with the limits of what is below.
for block_bytes in 512 4096; do
  make_null below blocksize=$block_bytes discard=$((block_bytes / 4096)) poll_queues=1
  dd if=/dev/urandom of=/dev/below bs=1M count=$SIZE_MIB oflag=direct status=none
  dmuserctl map d --file /dev/below --direct-io remap --quiet
  says '"remap": true' '"direct_io": true' '"channel": "'
  same_below /dev/below
  for limit in logical_block_size physical_block_size max_sectors_kb \
    max_hw_sectors_kb max_segments; do
    [ "$(queue /dev/mapper/d $limit)" -eq "$(queue /dev/below $limit)" ] ||
      fail "$limit is $(queue /dev/mapper/d $limit), below $(queue /dev/below $limit)"
  done
  # io_uring submits so as not to wait, and may poll for the end.
  [ "$(queue /dev/mapper/d io_poll)" -eq 1 ] || fail "cannot be polled"
  for engine in libaio io_uring "io_uring --hipri"; do
    before=$(remapped)
    # shellcheck disable=SC2086 # words
    verify "$block_bytes" $engine
    [ "$(remapped)" -gt "$before" ] || fail "nothing went by place"
  done
  [ "$(redirected)" -eq 0 ] || fail "redirected: $(dmsetup status d)"
  [ "$(remapped)" -eq "$(served)" ] || fail "not all by place: $(dmsetup status d)"
  same_below /dev/below
  # Only where the device below knows it.
  if [ "$block_bytes" -eq 512 ]; then
    [ "$(queue /dev/mapper/d discard_max_bytes)" -eq 0 ] || fail "discards"
    if blkdiscard -l 65536 /dev/mapper/d 2>/dev/null; then
      fail "what is below knows no discard"
    fi
  else
    [ "$(queue /dev/mapper/d discard_max_bytes)" -gt 0 ] || fail "no discard"
    before=$(remapped)
    blkdiscard -o 1048576 -l 1048576 /dev/mapper/d
    [ "$(remapped)" -gt "$before" ] || fail "a discard without a place"
    drop_caches
    cmp -n 1048576 -i 1048576:0 /dev/below /dev/zero || fail "not discarded"
    [ "$(status_number other_requests)" -gt 0 ] || fail "no discard was counted"
  fi
  same_below /dev/below
  [ "$(status_number threads)" -eq 1 ] || fail "more than one thread"
  [ "$(status_number errors)" -eq 0 ] || fail "requests failed: $(dmuserctl status d)"
  dmuserctl unmap d
  remove_null below
done
echo "one to one"

# 2. Read only.
yes remap | tr -d '\n' | head -c 4096 >/run/data || true
dd if=/dev/urandom of=/dev/ram0 bs=1M count=$SIZE_MIB oflag=direct status=none
sum=$(sha256sum </dev/ram0)
dmuserctl map d --file /dev/ram0 --direct-io remap --read-only --quiet
same_below /dev/ram0
says '"read_only": true' '"remap": true'
if dd if=/run/data of=/dev/mapper/d bs=4k oflag=direct conv=notrunc 2>/dev/null; then
  fail "written, and read only"
fi
[ "$(remapped)" -gt 0 ] || fail "not read by place"
dmuserctl unmap d
[ "$(sha256sum </dev/ram0)" = "$sum" ] || fail "changed, and read only"
echo "read only"

# 3. A flush reaches the device below: what came before it outlives the power.
make_null below cache_size=4
dmuserctl map d --file /dev/below --direct-io remap --quiet
# power_cut: what the cache of the device below holds is lost.
power_cut() {
  dmuserctl unmap d
  echo 0 >"$NULLS/below/power"
  echo 1 >"$NULLS/below/power"
  dmuserctl map d --file /dev/below --direct-io remap --quiet
}
# is_data BLOCK - what was written is there.
is_data() {
  dd if=/dev/mapper/d bs=4k count=1 skip="$1" iflag=direct status=none |
    cmp -s - /run/data
}
before=$(flushes /dev/below)
dd if=/run/data of=/dev/mapper/d bs=4k seek=1 oflag=direct conv=notrunc,fsync status=none
[ "$(flushes /dev/below)" -gt "$before" ] || fail "fsync, and no flush below"
# A write that is to be there when it is over; by FUA, or with a flush.
fio --name=sync --filename=/dev/mapper/d --direct=1 --sync=1 --rw=write --bs=4k \
  --offset=8k --size=4k --buffer_pattern='"remap"' --output=/run/fio.out
dd if=/run/data of=/dev/mapper/d bs=4k seek=3 oflag=direct conv=notrunc status=none
for block in 1 2 3; do is_data $block || fail "block $block was not written"; done
power_cut
is_data 1 || fail "what was flushed is lost"
is_data 2 || fail "what was written to stay is lost"
if is_data 3; then fail "nothing was lost: the cut shows nothing"; fi
dmuserctl unmap d
remove_null below
echo "flushes"

# 4. No data in the daemon, however long the requests.
dmuserctl map d --file /dev/ram0 --direct-io remap --quiet
fio --name=long --filename=/dev/mapper/d --direct=1 --ioengine=libaio \
  --iodepth=32 --rw=randrw --bs=1M --size=${SIZE_MIB}M --io_size=512M \
  --eta=never --output=/run/fio.out &
load=$!
most=0
while kill -0 "$load" 2>/dev/null; do
  now=$(status_number anonymous_bytes)
  [ "$now" -le "$most" ] || most=$now
done
wait "$load" || fail_with_fio d "fio ended with $?"
echo "anonymous memory at most: $((most / 1024)) KiB"
[ "$most" -gt 0 ] || fail "nothing was measured"
[ "$most" -le "$MEMORY_BYTES" ] || fail "$most bytes of memory"
dmuserctl unmap d

# 5. An error of what is below goes to who asked, and to nobody else.
readonly SECTORS=$((SIZE_MIB * 2048))
becomes() {
  dmsetup reload "$1" --table "$2"
  dmsetup suspend --noflush "$1"
  dmsetup resume "$1"
}
read_d() { dd if=/dev/mapper/d of=/dev/null bs=64k count=4 iflag=direct; }
write_d() { dd if=/run/data of=/dev/mapper/d bs=4k oflag=direct conv=notrunc; }
dmsetup create part --table "0 $SECTORS linear /dev/ram0 0"
dmsetup mknodes part
dmuserctl map d --file /dev/mapper/part --direct-io remap --quiet
dmuserctl map other --file /dev/ram1 --direct-io remap --quiet
becomes part "0 $SECTORS error"
expect 1 "Input/output error" read_d
expect 1 "Input/output error" write_d
dd if=/dev/mapper/other of=/dev/null bs=64k iflag=direct status=none
says '"state": "serving"'
# The request was over for the daemon when it had said where.
[ "$(status_number errors)" -eq 0 ] || fail "$(dmuserctl status)"
becomes part "0 $SECTORS linear /dev/ram0 0"
read_d 2>/dev/null || fail "it does not read again"
write_d 2>/dev/null || fail "it does not write again"
drop_caches
cmp -n 4096 /dev/ram0 /run/data || fail "what was written is not below"
dmuserctl unmap d
dmuserctl unmap other
dmsetup remove part
echo "errors"

# 6. What cannot be.
nothing_left() {
  if dmsetup info d >/dev/null 2>&1; then fail "a device is left: $(dmsetup ls)"; fi
  [ ! -e /run/dm-user/state/d ] || fail "a record is left"
}
truncate -s 1M /run/file
expect 2 "/run/file: is no block device, and the kernel can send requests to one \
only; map it from a loop device (losetup), or without --direct-io remap" \
  dmuserctl map d --file /run/file --direct-io remap
nothing_left
mkfs.ext4 -q /dev/ram1
mkdir /run/mounted
mount /dev/ram1 /run/mounted
expect 5 "/dev/ram1: is in use (mounted, or held by another device); release it first" \
  dmuserctl map d --file /dev/ram1 --direct-io remap
nothing_left
umount /run/mounted
expect 2 "expected auto, on, off or remap" \
  dmuserctl map d --file /dev/ram1 --direct-io place
nothing_left
if modprobe ublk_drv 2>/dev/null; then
  expect 2 "--direct-io remap needs dm-user.ko: ublk has no answers by place" \
    dmuserctl map d --file /dev/ram1 --direct-io remap --transport ublk
  nothing_left
fi
stop_daemon
# shellcheck disable=SC2034 # read by start_daemon
DAEMON_FLAGS=()
start_daemon --channel stream
expect 4 "/dev/dm-user/d: answers by place need --channel uring or batch" \
  dmuserctl map d --file /dev/ram1 --direct-io remap
nothing_left
stop_daemon
start_daemon --channel batch
dmuserctl map d --file /dev/ram1 --direct-io remap --quiet
says '"channel": "batch"'
dmuserctl unmap d
stop_daemon
echo "a device below, block for block"
