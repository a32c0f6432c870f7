#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: requests that go past the daemon's page cache: on which storage they do by
# themselves and on which when told to; what is read is what was written; and a
# write that a killed daemon has under way lands before the next one serves. A disk
# that stays in use is waited for, and in nobody's way.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

modprobe brd rd_nr=3 rd_size=65536
mkfs.ext4 -q /dev/ram1
mkdir -p /run/files
mount -t ext4 /dev/ram1 /run/files
truncate -s 16M /run/files/image
truncate -s 1M /run/in-memory
start_daemon

# is_direct NAME yes|no
is_direct() {
  local word=false
  [ "$2" = no ] || word=true
  dmuserctl status "$1" --json | grep -q "\"direct_io\": $word" ||
    fail "$1: $(dmuserctl status "$1" --json | grep direct_io)"
}

# verify NAME BLOCK_BYTES - more at a time than there are slots and buffers.
verify() {
  fio --name="$1" --filename="/dev/mapper/$1" --direct=1 --ioengine=libaio \
    --iodepth=96 --rw=randrw --bsrange="$2-160k" --blockalign="$2" \
    --bs_unaligned=0 --size=8M --io_size=16M --fsync=64 \
    --verify=md5 --verify_fatal=1 --do_verify=1 --verify_backlog=64 \
    --eta=never --output=/run/fio.out || fail_with_fio "$1" "fio ended with $?"
  grep -a -q 'err= 0' /run/fio.out || fail_with_fio "$1" "fio has seen an error"
}

# A block device, by itself; with blocks of its own size.
for block_bytes in 512 4096; do
  modprobe null_blk memory_backed=1 bs="$block_bytes" gb=1
  dmuserctl map d --file /dev/nullb0 --quiet
  is_direct d yes
  [ "$(blockdev --getss /dev/mapper/d)" -eq "$block_bytes" ] ||
    fail "blocks of $(blockdev --getss /dev/mapper/d) bytes"
  verify d "$block_bytes"
  [ "$(status_number threads)" -eq 1 ] || fail "more than one thread"
  dmuserctl unmap d
  dmuserctl map d --file /dev/nullb0 --direct-io off --quiet
  is_direct d no
  verify d "$block_bytes"
  dmuserctl unmap d
  rmmod null_blk
done

# A file, when told to.
dmuserctl map file --file /run/files/image --quiet
is_direct file no
dmuserctl unmap file
dmuserctl map file --file /run/files/image --direct-io on --quiet
is_direct file yes
verify file 512
kill_daemon
start_daemon
is_direct file yes
dmuserctl unmap file
expect 2 "cannot tell what I/O past the cache it takes" \
  dmuserctl map memory --file /run/in-memory --direct-io on
[ ! -e /dev/mapper/memory ] || fail "a device that was refused is there"
expect 2 "expected auto, on, off or remap" \
  dmuserctl map memory --file /run/in-memory --direct-io maybe

# A late write: on its way until the disk below it gets another table.
head -c 4096 /dev/urandom >/run/data
modprobe dm_delay
slow_table() { echo "0 2048 delay /dev/ram0 0 0 /dev/ram0 0 $1"; }
dmsetup create slow --table "$(slow_table 1000000)"
dmsetup mknodes slow
dmuserctl map late --file /dev/mapper/slow --direct-io on --quiet \
  --orphan-timeout forever
dd if=/run/data of=/dev/mapper/late bs=4k count=1 oflag=direct conv=notrunc &
writer=$!
until read -r -a fields < <(dmsetup status --noflush slow) && [ "${fields[4]}" -eq 1 ]
do :; done
kill_daemon
landed() {
  dd if=/dev/ram0 bs=4k count=1 iflag=direct status=none | cmp -s - /run/data
}
dmuserd 2>>/run/dmuserd.log &
DAEMON_PID=$!
# state_of NAME - as the daemon sees it, once there is one.
state_of() {
  dmuserctl status "$1" --json 2>/dev/null | sed -n 's/.*"state": "\(.*\)".*/\1/p'
}
until [[ $(state_of late) == [sw]* ]]; do :; done
[ "$(state_of late)" = waiting ] ||
  fail "served while a write of the daemon before was on its way"
if landed; then fail "it was not on its way"; fi
dmsetup load slow --table "$(slow_table 0)"
dmsetup resume slow
landed || fail "the late write is lost"
wait "$writer" || fail "the write ended with $?"
landed || fail "what was written is not there"
[ "$(state_of late)" = serving ] || fail "$(dmuserctl status late)"
dmuserctl unmap late
dmsetup remove slow

# Disks in use, as those of a killed daemon are whose I/O is stuck.
for disk in ram0 ram2; do
  dmuserctl map "on-$disk" --file "/dev/$disk" --orphan-timeout forever --quiet
done
dmuserctl map other --file /run/files/image --quiet
kill_daemon
for disk in ram0 ram2; do
  # It is ours when the last of what the daemon had open is closed.
  until dmsetup create "hold-$disk" --table "0 2048 linear /dev/$disk 0" \
    2>/dev/null; do :; done
done
head -c 4096 /dev/urandom >/run/data
dd if=/run/data of=/dev/mapper/on-ram0 bs=4k count=1 oflag=direct conv=notrunc &
writer=$!
waits() { [ "$(state_of "$1")" = waiting ]; }
dmuserd 2>>/run/dmuserd.log &
first=$!
until waits on-ram0 && waits on-ram2; do :; done
dmuserctl status on-ram0 --json | grep -q '"waits_for": "/dev/ram0: is in use' ||
  fail "waits for what? $(dmuserctl status on-ram0 --json)"
dmuserctl status on-ram0 | grep -q 'waits /dev/ram0: is in use' ||
  fail "waits for what? $(dmuserctl status on-ram0)"
start_daemon --take-over
wait "$first" || fail "a daemon that waits ended with $? when it was taken over"
# Ready is who has waited for what is in use for a while, and serves the others.
waits on-ram0 || fail "$(dmuserctl status on-ram0)"
dd if=/dev/mapper/other of=/dev/null bs=4k count=1 iflag=direct
dmuserctl unmap on-ram2
expect 9 "serves no such device" dmuserctl status on-ram2
dmsetup remove hold-ram0
wait "$writer" || fail "the write ended with $?"
landed || fail "what was written is not there"
[ "$(state_of on-ram0)" = serving ] ||
  fail "$(dmuserctl status on-ram0)"
if dmuserctl status on-ram0 --json | grep -q waits_for; then
  fail "still waits: $(dmuserctl status on-ram0)"
fi
for device in ram0 ram2; do
  lines=$(grep -c "on-$device: waits until it is free" /run/dmuserd.log)
  [ "$lines" -eq 2 ] || fail "$lines lines of the log that it waits"
done
grep -q 'on-ram0: what was in use is free, after [0-9]* ms' /run/dmuserd.log ||
  fail "no line that it is over"
dmuserctl unmap on-ram0
dmuserctl unmap other
stop_daemon
echo "past the cache and right"
