#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: daemons take live devices over from each other, under load and in the
# midst of a merge, and no I/O fails.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=32 HAND_OVERS=8
modprobe brd rd_nr=1 rd_size=$((SIZE_MIB * 1024))
start_daemon
dmuserctl map f --file /dev/ram0 --quiet
dmuserctl map m --cow /dev/vdb --base /dev/vda --quiet
dmuserctl merge m --rate 3M
fio --name=load --filename=/dev/mapper/f --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-96k --bs_unaligned=0 \
  --size=${SIZE_MIB}M --io_size=64G --verify=md5 --verify_fatal=1 \
  --do_verify=1 --verify_backlog=64 --eta=never --output=/run/fio.out &
fio_pid=$!
for ((n = 1; n <= HAND_OVERS; n++)); do
  # Somewhere in the load, seen by the counter of this daemon.
  goal=$((50 + RANDOM % 200))
  while kill -0 "$fio_pid" 2>/dev/null && [ "$(status_number reads)" -lt "$goal" ]; do
    :
  done
  kill -0 "$fio_pid" 2>/dev/null || fail "the load ended after $n hand-overs"
  old=$DAEMON_PID
  start_daemon --take-over
  wait "$old" || fail "the old daemon ended with $?"
  [ "$(status_number pid)" -eq "$DAEMON_PID" ] || fail "who serves?"
done
kill "$fio_pid" 2>/dev/null || true
wait "$fio_pid" || true
grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
for name in f m; do
  # Requests that ended with an error, as the kernel counts them.
  read -r -a status < <(dmsetup status "$name")
  [ "${status[12]}" -eq 0 ] || fail "$name: ${status[*]}"
done
dmuserctl merge m --rate none --wait --quiet
same /dev/mapper/m /dev/vdc
dmuserctl unmap m
dmuserctl unmap f
cmp /dev/vda /dev/vdc || fail "the base is not the new image"
stop_daemon
# Nobody there to take over from: it starts as ever.
start_daemon --take-over
stop_daemon
echo "$HAND_OVERS hand-overs"
