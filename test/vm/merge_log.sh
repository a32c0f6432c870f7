#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a log of all that a merge does to its disks, for merge_log_test.sh.
# Method: base and COW lie on one disk, so that one log has the order of the
# writes to both; each is reached by a dm-delay, which keeps the place of a
# flush, as dm-linear does not on newer kernels. The daemon is killed on the
# way, so that the log also has what goes on from such a state.
# Disks: vda old image and COW, vdb the log, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly KILLS=3
readonly FLUSH_MS=100
RANDOM=$1

modprobe dm_log_writes
base_sectors=$(blockdev --getsz /dev/vdc)
sectors=$(blockdev --getsz /dev/vda)
dmsetup create logged --table "0 $sectors log-writes /dev/vda /dev/vdb"
dmsetup mknodes logged
slow_flushes base /dev/mapper/logged 0 "$base_sectors" "$FLUSH_MS"
slow_flushes cow /dev/mapper/logged "$base_sectors" \
  $((sectors - base_sectors)) "$FLUSH_MS"

start_daemon
dmuserctl map m --quiet --cow /dev/mapper/cow --base /dev/mapper/base
same /dev/mapper/m /dev/vdc
total=$(status_number total_bytes)
done_bytes=0
for ((kill = 1; kill <= KILLS; kill++)); do
  dmuserctl merge m
  stretch=$(((total - done_bytes) / (KILLS - kill + 2)))
  wait_merged_bytes m $((done_bytes + stretch * (RANDOM % 1000) / 1000))
  kill_daemon
  start_daemon
  done_bytes=$(status_number merged_bytes)
  echo "killed the daemon: $done_bytes of $total bytes are merged"
done
dmuserctl merge m --wait --quiet
same /dev/mapper/m /dev/vdc
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
dmuserctl unmap m
stop_daemon
dmsetup remove base
dmsetup remove cow
# The kernel stops logging where it cannot go on, without an error.
status=$(dmsetup status logged)
[[ $status != *disabled* ]] || fail "the log is not whole: $status"
# What is left goes to the log now.
dmsetup remove logged
sync
