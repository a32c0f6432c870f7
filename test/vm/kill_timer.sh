#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: kill -9 of dmuserd every 200 ms under load: no I/O fails, none reads back
# wrong, and the kernel's counters show that requests were given back.
# Method: fio writes and verifies with md5; its options are explained in
# kernel_fio.sh.
#
# Usage: kill_timer.sh [SECONDS]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SECONDS_WANTED=${1:-15} PERIOD_MS=200 SIZE_MIB=32
# However long a start takes on a busy machine, some work is done between kills.
readonly SERVE_MS=50

modprobe brd rd_nr=1 rd_size=$((SIZE_MIB * 1024))
start_daemon
dmuserctl map f --quiet --file /dev/ram0 --orphan-timeout forever
fio --name=timer --filename=/dev/mapper/f --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-64k --blockalign=512 --size=100% \
  --io_size=1T --runtime="$SECONDS_WANTED" --verify=md5 --verify_fatal=1 \
  --verify_backlog=64 --eta=never --output=/run/fio.out &
fio_pid=$!
kills=0
first_ms=$(now_ms)
last_ms=$first_ms
while kill -0 "$fio_pid" 2>/dev/null; do
  left_ms=$((last_ms + PERIOD_MS - $(now_ms)))
  pause_ms $((left_ms > SERVE_MS ? left_ms : SERVE_MS))
  # Most kills hit anywhere; the first hits a daemon with requests in its hands.
  ((kills)) || stop_daemon_in_hand f
  kill_daemon
  last_ms=$(now_ms)
  kills=$((kills + 1))
  start_daemon
done
wait "$fio_pid" || fail_with_fio f "fio ended with $?"
check_fio f
echo "$kills kills, one every $(((last_ms - first_ms) / kills)) ms"
grep -a -E '^ +(read|write):' /run/fio.out
dmsetup status f
dmuserctl unmap f
stop_daemon
