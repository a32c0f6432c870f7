#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: killing the daemon at any moment of a merge never changes the outcome.
# Method: ten merges' worth of kill -9 at random places, the whole device
# compared with the new image after every one; then the base.
# Disks: vda old image (base), vdb COW, vdc new image.
set -euo pipefail
source "$(dirname "$0")/daemon_lib.sh"

readonly KILLS=10
RANDOM=${1:-$$}
echo "seed $RANDOM"

start_daemon
dmuserctl map m --cow /dev/vdb --base /dev/vda
same /dev/mapper/m /dev/vdc
total=$(status_number total_bytes)
for ((kill = 1; kill <= KILLS; kill++)); do
  dmuserctl merge m
  # Spread over the merge, at a random place of each stretch.
  at=$((total / KILLS * (kill - 1) + total / KILLS * (RANDOM % 1000) / 1000))
  wait_merged_bytes m "$at"
  kill_daemon
  start_daemon
  echo "kill $kill at $at of $total bytes: $(status_number merged_ops) ops done"
  same /dev/mapper/m /dev/vdc
done
dmuserctl merge m --wait
same /dev/mapper/m /dev/vdc
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
dmuserctl unmap m
stop_daemon
same /dev/vda /dev/vdc
echo "the base is the new image after $KILLS kills"
