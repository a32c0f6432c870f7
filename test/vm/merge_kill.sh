#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: killing the daemon at any moment of a merge never changes the outcome.
# Method: ten merges' worth of kill -9 at random places, the whole device
# compared with the new image after every one; then the base.
# Disks: vda old image (base), vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly KILLS=10
readonly FLUSH_MS=300
seed=${1:-$(od -An -N2 -tu2 /dev/urandom)}
RANDOM=$seed
echo "seed $seed"

for disk in base:vda cow:vdb; do
  device=/dev/${disk#*:}
  slow_flushes "${disk%:*}" "$device" 0 "$(blockdev --getsz "$device")" \
    "$FLUSH_MS"
done
start_daemon
dmuserctl map m --quiet --cow /dev/mapper/cow --base /dev/mapper/base
same /dev/mapper/m /dev/vdc
total=$(status_number total_bytes)
inside=0
done_bytes=0
for ((kill = 1; kill <= KILLS; kill++)); do
  dmuserctl merge m
  # At a random place of the next stretch; what is left is shared out evenly.
  stretch=$(((total - done_bytes) / (KILLS - kill + 2)))
  at=$((done_bytes + stretch * (RANDOM % 1000) / 1000))
  wait_merged_bytes m "$at"
  kill_daemon
  start_daemon
  done_bytes=$(status_number merged_bytes)
  [ "$done_bytes" -ge "$total" ] || inside=$((inside + 1))
  echo "kill $kill after $at of $total bytes; at start $done_bytes are merged"
  dmuserctl merge m --pause
  same /dev/mapper/m /dev/vdc
done
[ "$inside" -ge $((KILLS / 2)) ] || fail "only $inside kills hit the merge"
dmuserctl merge m --wait --quiet
same /dev/mapper/m /dev/vdc
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
dmuserctl unmap m
stop_daemon
dmsetup remove base
dmsetup remove cow
same /dev/vda /dev/vdc
echo "the base is the new image after $KILLS kills, $inside in the merge"
