#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: one failed I/O of what is below fails one request, whatever failed and
# however it comes back; the status, the events and the log say what it was, and
# a merge waits to be started again.
# Method: real devices that fail, vanish, are full or are cut, and are mended.
# Disks: vda old image (base), vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# read_at DEVICE MIB - one MiB, not from any cache.
read_at() {
  drop_caches
  dd if="$1" of=/run/read bs=1M count=1 skip="$2" iflag=direct
}
# write_at DEVICE MIB FILE - and through all caches: what a write leaves in the
# cache of the backing device fails at the flush, as on a disk with a cache.
write_at() { dd if="$3" of="$1" bs=1M count=1 seek="$2" oflag=direct conv=fsync; }
good() { "$@" 2>/run/dd.log || fail "'$*' failed: $(cat /run/dd.log)"; }
bad() { ! "$@" 2>/run/dd.log || fail "'$*' did not fail"; }

# says NAME TEXT... - all of them are in the device's status.
says() {
  local name=$1 text
  shift
  dmuserctl status "$name" --json >/run/status.json
  for text; do
    grep -qF -- "$text" /run/status.json ||
      fail "status of $name has no $text: $(cat /run/status.json)"
  done
}

# error_count NAME - requests of the device that failed.
error_count() {
  dmuserctl status "$1" --json | sed -n 's/.*"errors": \([0-9]*\).*/\1/p'
}

# becomes NAME TABLE - another table for a device that stays open.
becomes() {
  dmsetup reload "$1" --table "$2"
  dmsetup suspend --noflush "$1"
  dmsetup resume "$1"
}

mkdir -p /run/disks
mount -t tmpfs -o size=64M tmpfs /run/disks
modprobe brd rd_nr=2 rd_size=16384
head -c 1048576 /dev/urandom >/run/mib
start_daemon

# 1. The backing device fails, and comes back behind the same open file.
sectors=$((16384 * 2))
dmsetup create below --table "0 $sectors linear /dev/ram0 0"
dmsetup mknodes below
dmuserctl map f --quiet --file /dev/mapper/below
dmuserctl map other --quiet --file /dev/ram1
good write_at /dev/mapper/f 3 /run/mib
exec 8< <(exec dmuserctl status f --watch --json 2>/dev/null)
read -r first <&8
[[ $first != *last_error* ]] || fail "an error before the first: $first"
becomes below "0 $sectors error"
bad read_at /dev/mapper/f 3
good read_at /dev/mapper/other 3
says f '"class": "io"' '/dev/mapper/below' 'Input/output error' \
  '"errno": 5' '"op": "read"'
read -r event <&8
[[ $event == *'"last_error":{"text":"read of '* ]] || fail "event: $event"
bad write_at /dev/mapper/f 3 /run/mib
[ "$(error_count other)" -eq 0 ] || fail "another device has errors"
becomes below "0 $sectors linear /dev/ram0 0"
good read_at /dev/mapper/f 3
cmp /run/read /run/mib || fail "what came back is not what was there"
before=$(error_count f)
good write_at /dev/mapper/f 5 /run/mib
[ "$(error_count f)" -eq "$before" ] || fail "errors after it came back"
exec 8<&-
grep -q 'f: read of .* I/O error: /dev/mapper/below' /run/dmuserd.log ||
  fail "the log: $(cat /run/dmuserd.log)"
# 2 MiB in pieces of 64 KiB failed, and the log has not a line for each.
lines=$(grep -c 'I/O error' /run/dmuserd.log)
[ "$lines" -le 20 ] || fail "$lines lines for one broken disk"
dmuserctl unmap f
dmsetup remove below

# 2. The backing device is pulled.
modprobe null_blk nr_devices=0
mount -t configfs none /sys/kernel/config
null=/sys/kernel/config/nullb/pulled
mkdir "$null"
echo 16 >"$null/size"
echo 1 >"$null/memory_backed"
echo 1 >"$null/power"
node=/dev/pulled
[ -b "$node" ] || fail "no $node: $(ls /sys/block)"
dmuserctl map f --quiet --file "$node"
good write_at /dev/mapper/f 1 /run/mib
good read_at /dev/mapper/f 1
echo 0 >"$null/power"
bad read_at /dev/mapper/f 1
says f '"class": "gone"' '"op": "read"' "$node" 'No such device'
bad write_at /dev/mapper/f 2 /run/mib
says f '"class": "gone"' '"op": "write"'
# What takes its place is another disk: not touched until it is mapped.
echo 1 >"$null/power"
bad read_at /dev/mapper/f 1
dmuserctl unmap f
dmuserctl map f --quiet --file "$node"
good read_at /dev/mapper/f 1
dmuserctl unmap f

# 3. No space, and space again.
mkdir /run/small
mount -t tmpfs -o size=2M tmpfs /run/small
truncate -s 8M /run/small/file
dmuserctl map f --quiet --file /run/small/file
good write_at /dev/mapper/f 0 /run/mib
bad dd if=/dev/zero of=/dev/mapper/f bs=1M seek=1 count=4 oflag=direct
says f '"class": "no_space"' '/run/small/file' 'No space left on device'
good read_at /dev/mapper/f 0
cmp /run/read /run/mib || fail "the full file lost what it had"
mount -o remount,size=16M /run/small
good write_at /dev/mapper/f 4 /run/mib
good read_at /dev/mapper/f 4
cmp /run/read /run/mib || fail "what was written with space again"
dmuserctl unmap f
umount /run/small

# 4. The COW file is cut under the device, and put right again.
cp /dev/vda /run/disks/base
cp /dev/vdb /run/disks/cow
dmuserctl map s --quiet --cow /run/disks/cow --base /run/disks/base
cp /run/disks/cow /run/disks/whole
truncate -s 2200000 /run/disks/cow
drop_caches
bad dd if=/dev/mapper/s of=/dev/null bs=1M iflag=direct
says s '"class": "short"' '/run/disks/cow' '"state": "serving"'
grep -q 's: read of .* cut short: /run/disks/cow' /run/dmuserd.log ||
  fail "the log: $(tail -5 /run/dmuserd.log)"
cat /run/disks/whole >/run/disks/cow
same /dev/mapper/s /dev/vdc
dmuserctl unmap s

# 5. No space for the undo log of a merge: its room, taken at the start, is
# given away behind its back.
old=$(sha256sum </dev/vda)
mount -t tmpfs -o size=80M tmpfs /run/small
log=/run/small/undo.log
dmuserctl map s --quiet --cow /dev/vdb --base /dev/vda
dmuserctl merge s --undo-log "$log" --rate 4M
wait_merged_bytes s 1
dmuserctl merge s --pause
until dmuserctl status s --json | grep -q '"state": "idle"'; do :; done
room=$(stat -c %s "$log")
truncate -s "$(status_number undo_log_bytes)" "$log"
truncate -s "$room" "$log"
! dd if=/dev/zero of=/run/small/fill bs=64k 2>/dev/null || fail "not full"
expect 7 'No space left on device' dmuserctl merge s --rate none --wait --quiet
says s '"state": "failed"' "$log" '"state": "serving"'
same /dev/mapper/s /dev/vdc
[ "$(error_count s)" -eq 0 ] || fail "a request failed for the undo log's error"
rm /run/small/fill
dmuserctl merge s --wait --quiet
same /dev/mapper/s /dev/vdc
dmuserctl unmap s
dmuserctl merge undo /dev/vdb --base /dev/vda --undo-log "$log" --quiet
[ "$(sha256sum </dev/vda)" = "$old" ] || fail "the merge cannot be taken back"
umount /run/small

# 6. A merge whose base cannot be written, then not be read either.
sectors=$(blockdev --getsz /dev/vda)
dmsetup create base --table "0 $sectors linear /dev/vda 0"
dmsetup mknodes base
dmuserctl map s --quiet --cow /dev/vdb --base /dev/mapper/base
becomes base "0 $sectors flakey /dev/vda 0 0 3600 1 error_writes"
expect 7 'Input/output error' dmuserctl merge s --wait --quiet
says s '"state": "failed"' '/dev/mapper/base' '"state": "serving"'
same /dev/mapper/s /dev/vdc
[ "$(error_count s)" -eq 0 ] || fail "a request failed for the merge's error"
becomes base "0 $sectors error"
expect 7 'Input/output error' dmuserctl merge s --wait --quiet
bad read_at /dev/mapper/s 0
becomes base "0 $sectors linear /dev/vda 0"
same /dev/mapper/s /dev/vdc
dmuserctl merge s --wait --quiet
same /dev/mapper/s /dev/vdc
same /dev/vda /dev/vdc

# The times of all this, for people and machines.
dmuserctl status s --latency >/run/status
grep -qE '^  read +[1-9]' /run/status || fail "latency: $(cat /run/status)"
dmuserctl metrics >/run/metrics
grep -q '^dmuserd_device_request_duration_seconds_count{device="s",op="read"} [1-9]' \
  /run/metrics || fail "metrics: $(cat /run/metrics)"
grep -q '^dmuserd_merge_state{device="s",state="done"} 1' /run/metrics ||
  fail "metrics: $(cat /run/metrics)"
dmuserctl unmap s
dmuserctl unmap other
stop_daemon

# The journal, when standard error is it: a line's fields, and none in stderr.
mkdir -p /run/systemd/journal
exec 8< <(exec journal_listen /run/systemd/journal/socket)
listener=$!
read -r first <&8
[ "$first" = ready ] || fail "journal_listen: $first"
touch /run/journal.stream
rm -f /run/dmuserd.ready
mkfifo /run/dmuserd.ready
stream=$(stat -c %d:%i /run/journal.stream)
JOURNAL_STREAM=$stream dmuserd --ready-fd 3 \
  3>/run/dmuserd.ready 2>>/run/journal.stream &
DAEMON_PID=$!
read -r </run/dmuserd.ready || fail "dmuserd ended"
# journal START - the next line of it that begins so, as `line`.
journal() {
  local tries
  for ((tries = 0; tries < 8; tries++)); do
    IFS= read -r line <&8
    [[ $line != "$1"* ]] || return 0
  done
  fail "the journal has no '$1', last: $line"
}
dmuserctl map j --quiet --file /dev/ram1 --read-only
journal 'MESSAGE=j: channel '
journal 'MESSAGE=j: serving'
[[ $line == 'MESSAGE=j: serving PRIORITY=6 '*' DM_USER_DEVICE=j '* ]] ||
  fail "the journal: $line"
rm /run/disks/base
truncate -s 1M /run/disks/base
dmuserctl map c --quiet --file /run/disks/base
truncate -s 4096 /run/disks/base
bad read_at /dev/mapper/c 0
journal 'MESSAGE=c: read of '
[[ $line == 'MESSAGE=c: read of '*' PRIORITY=3 '*' DM_USER_OP=read '* &&
  $line == *' DM_USER_SECTOR='*' DM_USER_DEVICE=c '* ]] ||
  fail "the journal: $line"
[ ! -s /run/journal.stream ] || fail "stderr: $(cat /run/journal.stream)"
dmuserctl unmap c
dmuserctl unmap j
stop_daemon
kill "$listener"
exec 8<&-

# The kernel's log, where there is no other.
start_daemon --log kmsg
dmuserctl map k --quiet --null 1048576
dmesg | grep -q 'dmuserd: k: serving' || fail "dmesg: $(dmesg | tail -5)"
dmuserctl unmap k
stop_daemon
