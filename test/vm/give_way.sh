#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: on one processor the daemon gives way to who sends it many requests, and is
# an ordinary task again as soon as that is over.
# Method: a machine whose time is a count of instructions (tools/vm --count), so that
# it comes as often in each run as in the one before, however slow the host is.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly USUAL=0 BATCH=3 # SCHED_OTHER, SCHED_BATCH

# is_policy NUMBER - what the daemon is to the scheduler.
is_policy() {
  local line
  line=$(<"/proc/$DAEMON_PID/stat")
  read -r -a line <<<"${line##*) }"
  [ "${line[38]}" -eq "$1" ]
}

modprobe brd rd_nr=1 rd_size=4096
start_daemon
dmuserctl map d --file /dev/ram0 --direct-io remap --quiet
dd if=/dev/mapper/d of=/dev/null bs=4k iflag=direct status=none
is_policy $USUAL || fail "no load, and it gives way"
fio --name=load --filename=/dev/mapper/d --direct=1 --ioengine=libaio --iodepth=4 \
  --rw=randread --bs=4k --size=4M --io_size=64G --runtime=20 --time_based \
  --eta=never --output=/run/fio.out &
load=$!
# It is tried every second at the least.
until is_policy $BATCH; do
  kill -0 "$load" 2>/dev/null || fail "it never gave way: $(cat /run/fio.out)"
  pause_ms 20
done
kill "$load"
wait "$load" || true
# The next request is late, for a busy daemon, and the end of it.
dd if=/dev/mapper/d of=/dev/null bs=4k count=1 iflag=direct status=none
for ((tries = 0; tries < 100; tries++)); do
  ! is_policy $USUAL || break
  pause_ms 20
done
is_policy $USUAL || fail "the load is over, and it gives way"
dmuserctl unmap d
stop_daemon
echo "gave way"
