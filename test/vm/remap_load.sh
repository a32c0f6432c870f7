#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: devices whose data goes straight below stay right and alive while their
# daemons are killed, stopped and handed over under load; one that is busy, hung,
# stopped or gone is in nobody's way, though the daemon's loop may sleep in its
# channel: not in that of other devices, a merge's or the control socket's.
# Every wait is for an event; a thing that does not come is the machine's time out.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=16 DAEMONS=6
readonly NAMES=(a b c d)
LOADS=()

# load NAME - writes the device and reads it back, with checksums, until it is
# told to end.
load() {
  fio --name="$1" --filename="/dev/mapper/$1" --direct=1 --ioengine=libaio \
    --iodepth=16 --rw=randrw --bsrange=512-96k --bs_unaligned=0 --fsync=128 \
    --size=${SIZE_MIB}M --io_size=64G --verify=md5 --verify_fatal=1 \
    --do_verify=1 --verify_backlog=64 --eta=never --output="/run/$1.out" &
  LOADS+=($!)
}

# end_load INDEX NAME - and see that no I/O of it has failed.
end_load() {
  kill "${LOADS[$1]}" 2>/dev/null || fail "$2: the load ended: $(cat "/run/$2.out")"
  wait "${LOADS[$1]}" || true
  grep -a -q 'err= 0' "/run/$2.out" || fail "$2: fio: $(cat "/run/$2.out")"
}

# remapped NAME - requests answered with a place, as the kernel counts them.
remapped() {
  local -a status
  read -r -a status < <(dmsetup status --noflush "$1")
  echo "${status[19]}"
}

# goes_on NAME... - each of them gets so many more answers.
goes_on() {
  local name goal
  for name; do
    goal=$(($(remapped "$name") + 20 + RANDOM % 40))
    until [ "$(remapped "$name")" -ge "$goal" ]; do :; done
  done
}

# no_errors NAME... - the kernel has seen no request fail.
no_errors() {
  local name
  local -a status
  for name; do
    read -r -a status < <(dmsetup status --noflush "$name")
    [ "${status[12]}" -eq 0 ] || fail "$name: ${status[*]}"
  done
}

# same_below NAME DEVICE - past all caches.
same_below() {
  drop_caches
  cmp -n $((SIZE_MIB << 20)) "/dev/mapper/$1" "$2" || fail "$1 and $2 differ"
}

# has_open NAME - whether the daemon has the device's channel.
has_open() {
  local file
  for file in "/proc/$DAEMON_PID/fd"/*; do
    [ "$(readlink "$file")" != "/dev/dm-user/$1" ] || return 0
  done
  return 1
}

# goes_away NAME - is taken away under the daemon, who closes what it has of it.
goes_away() {
  has_open "$1" || fail "$1 is not served"
  # Who has it open sees errors, and it stays until that one lets go.
  dmsetup remove --force "$1" 2>/dev/null || true
  while has_open "$1"; do :; done
  until dmsetup remove "$1" 2>/dev/null || ! dmsetup info "$1" >/dev/null 2>&1; do :; done
  expect 9 "serves no such device" dmuserctl status "$1"
}

# policy - the daemon's, as the scheduler has it: 0 usual, 3 batch.
policy() {
  local line
  line=$(<"/proc/$DAEMON_PID/stat")
  read -r -a line <<<"${line##*) }"
  echo "${line[38]}"
}

modprobe brd rd_nr=4 rd_size=$((SIZE_MIB * 1024))
start_daemon
[ "$(policy)" -eq 0 ] || fail "the daemon starts with policy $(policy)"

# 1. One device: daemons are killed, stopped and handed over under load.
dmuserctl map a --file /dev/ram0 --direct-io remap --quiet --orphan-timeout forever
load a
for ((n = 0; n < DAEMONS; n++)); do
  goes_on a
  dmuserctl status a --json | grep -q '"remap": true' || fail "$(dmuserctl status a)"
  expect 5 "a: is in use" dmuserctl unmap a
  goes_on a
  case $((n % 3)) in
    0) kill_daemon ;;
    1) stop_daemon ;;
    2)
      old=$DAEMON_PID
      start_daemon --take-over
      wait "$old" || fail "the old daemon ended with $?"
      continue
      ;;
  esac
  start_daemon
done
goes_on a
end_load 0 a
no_errors a
same_below a /dev/ram0
grep -h 'a: channel' /run/dmuserd.log | sort | uniq -c
echo "$DAEMONS daemons went, no I/O failed"

# 2. A merge beside a busy device comes to its end, and so do commands.
load a
goes_on a
dmuserctl map m --cow /dev/vdb --base /dev/vda --quiet
dmuserctl merge m --wait --quiet
goes_on a
same /dev/mapper/m /dev/vdc
dmuserctl unmap m
same /dev/vda /dev/vdc
echo "merged beside a busy device"

# 3. Taken away when nothing comes for it any more: the loop sleeps in its channel
# then, which no poll tells of, and no command wakes it.
end_load 1 a
goes_away a
echo "gone from under a loop that slept"

# 4. Two busy devices, then four; one of them goes, one is taken away busy.
for i in 0 1 2 3; do
  disk=/dev/ram$i
  if [ "$i" -eq 3 ]; then
    disk=/dev/mapper/below
    dmsetup create below --table "0 $((SIZE_MIB * 2048)) linear /dev/ram3 0"
    dmsetup mknodes below
  fi
  dmuserctl map "${NAMES[i]}" --file "$disk" --direct-io remap --quiet \
    --orphan-timeout forever
  load "${NAMES[i]}"
  goes_on "${NAMES[@]:0:i+1}"
done
end_load 3 b
dmuserctl unmap b
goes_on a c d
goes_away c
if wait "${LOADS[4]}"; then fail "c: no I/O failed, and its table is gone"; fi
goes_on a d
echo "went, and was taken away"

# 5. Storage that hangs with all that its device was asked: in nobody's way, not
# even in that of the daemon's end and of the next one.
dmsetup suspend --noflush --nolockfs below
fio --name=more --filename=/dev/mapper/d --direct=1 --ioengine=libaio \
  --iodepth=300 --rw=randread --bs=4k --size=${SIZE_MIB}M --io_size=4M \
  --eta=never --output=/run/more.out &
more=$!
goes_on a
dmuserctl status >/dev/null
stop_daemon
start_daemon
goes_on a
dmuserctl status d --json | grep -q '"state": "serving"' || fail "$(dmuserctl status d)"
kill -0 "$more" || fail "read from a disk that hangs: $(cat /run/more.out)"
dmsetup resume below
wait "$more" || fail "what waited for the disk: $(cat /run/more.out)"
goes_on a d
echo "hung, and came back"

# 6. The end.
end_load 5 d
end_load 2 a
no_errors a d
same_below a /dev/ram0
same_below d /dev/ram3
dmuserctl unmap a
dmuserctl unmap d
stop_daemon
echo "others went on"
