#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: under load the daemon moves many requests in a system call.
# Method: the kernel counts the reads and writes of a process (syscr, syscw), and
# traces its calls to io_uring; a null device needs none for itself, so all of them
# are for messages.
# usage: calls.sh [--channel=WAY]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly IOS=20000

readonly TRACE=/sys/kernel/tracing
readonly ENTER=$TRACE/events/syscalls/sys_enter_io_uring_enter
calls() {
  cat "/proc/$DAEMON_PID/io" "$ENTER/hist" |
    awk '/^syscr|^syscw/ { n += $2 } /Hits:/ { n += $2 } END { print n }'
}

start_daemon
[ -e "$TRACE/trace" ] || mount -t tracefs tracefs "$TRACE"
echo "$DAEMON_PID" >"$TRACE/set_event_pid"
echo "hist:keys=common_pid:vals=hitcount if common_pid == $DAEMON_PID" >"$ENTER/trigger"
dmuserctl map n --null 1073741824 --quiet
# load DEPTH TOGETHER: fio with so many requests under way, submitted and reaped
# so many at a time; sets `thousandth`.
load() {
  local before
  before=$(calls)
  fio --name=load --filename=/dev/mapper/n --direct=1 --ioengine=libaio \
    --iodepth="$1" --iodepth_batch_submit="$2" --iodepth_batch_complete_min="$2" \
    --rw=randread --bs=4k --number_ios="$IOS" --eta=never \
    --output=/run/fio.out || fail "fio: $(cat /run/fio.out)"
  grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
  thousandth=$((($(calls) - before) * 1000 / IOS))
  echo "depth $1, $2 at a time: $thousandth/1000 calls for a request"
}

load 1 1
# A read and a write, or one command and, where that finds nothing, its answer.
[ "$thousandth" -le 2100 ] || fail "$thousandth calls for a thousand requests"
# How many the daemon finds when it wakes is the scheduler's choice.
load 32 1
load 32 16

# Where they are there together, they are moved together: the daemon stands
# still until all are queued.
readonly QUEUED=32
kill -STOP "$DAEMON_PID"
fio --name=queue --filename=/dev/mapper/n --direct=1 --ioengine=libaio \
  --iodepth="$QUEUED" --rw=randread --bs=4k --number_ios="$QUEUED" \
  --eta=never --output=/run/fio.out &
fio_pid=$!
until dmsetup status n | grep -q " live [0-9]* [0-9]* $QUEUED "; do
  kill -0 "$fio_pid" || fail "fio: $(cat /run/fio.out)"
done
before=$(calls)
kill -CONT "$DAEMON_PID"
wait "$fio_pid" || fail "fio: $(cat /run/fio.out)"
taken=$(($(calls) - before))
echo "$QUEUED requests at once: $taken calls"
[ "$taken" -lt $((QUEUED / 4)) ] || fail "$taken calls for $QUEUED requests"
dmuserctl unmap n
stop_daemon
