#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# One boot of qemu_kill_test.sh, which kills the machine in the midst of it:
# checks what the last kill left, goes on merging, and says on the console what
# the daemon and the disks are doing, for the host to choose its moment.
# Its argument is how slow flushes are, in ms: the slower, the more kills hit one,
# the faster, the more hit what is written between them.
# Disks: vda base, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly TRACE=/sys/kernel/debug/tracing

read -r up _ </proc/uptime
echo "up $up"
for disk in base:vda cow:vdb; do
  device=/dev/${disk#*:}
  slow_flushes "${disk%:*}" "$device" 0 "$(blockdev --getsz "$device")" \
    "$1"
done
start_daemon
dmuserctl map m --quiet --cow /dev/mapper/cow --base /dev/mapper/base
same /dev/mapper/m /dev/vdc
read -r up _ </proc/uptime
echo "right $up"

# Every write and flush that a disk has completed, a line each.
echo nocontext-info >"$TRACE/trace_options"
echo 'rwbs ~ "*W*" || rwbs ~ "*F*"' \
  >"$TRACE/events/block/block_rq_complete/filter"
echo 1 >"$TRACE/events/block/block_rq_complete/enable"
cat "$TRACE/trace_pipe" &
tracer=$!
dmuserctl merge m
dmuserctl status m --watch --json
kill "$tracer"

same /dev/mapper/m /dev/vdc
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
dmuserctl unmap m
stop_daemon
dmsetup remove base
dmsetup remove cow
same /dev/vda /dev/vdc
echo "merged"
