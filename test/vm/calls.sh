#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: under load the daemon moves many requests in a system call.
# Method: the kernel counts the reads and writes of a process (syscr, syscw); a
# null device needs none for itself, so all of them are for messages.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly IOS=20000

calls() {
  awk '/^syscr|^syscw/ { n += $2 } END { print n }' "/proc/$DAEMON_PID/io"
}

start_daemon
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
  echo "depth $1, $2 at a time: $thousandth/1000 reads and writes for a request"
}

load 1 1
[ "$thousandth" -le 2100 ] || fail "one request takes a read and a write"
# The daemon wakes for the first of them and finds a few: how many is the
# scheduler's choice. One message a call would be two calls and more.
load 32 1
[ "$thousandth" -lt 1000 ] || fail "$thousandth/1000 at depth 32"
load 32 16
[ "$thousandth" -lt 800 ] || fail "$thousandth/1000 at depth 32"
dmuserctl unmap n
stop_daemon
