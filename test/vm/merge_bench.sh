#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The guest of tools/bench-merge: the same merge through the daemon and by the
# offline tool, in turns, on loop devices over files in memory, where a flush
# costs next to nothing and every detour shows.
#
# usage: merge_bench.sh RUNS
# Disks: vda old image, vdb COW, vdc new image. Prints "daemon MS" and
# "offline MS" for each run.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

now_ms() { echo $((10#${EPOCHREALTIME/[.,]/} / 1000)); }

# fresh - base and COW as they were, as $base and $cow.
fresh() {
  cp /dev/vda /run/bench/base.img
  cp /dev/vdb /run/bench/cow.img
  base=$(losetup --find --show /run/bench/base.img)
  cow=$(losetup --find --show /run/bench/cow.img)
}

gone() {
  cmp "$base" /dev/vdc || fail "the base is not the new image"
  losetup -d "$base" "$cow"
}

mkdir -p /run/bench
mount -t tmpfs -o size=90% tmpfs /run/bench
start_daemon
for ((run = 0; run < $1; run++)); do
  fresh
  dmuserctl map m --quiet --cow "$cow" --base "$base"
  start=$(now_ms)
  dmuserctl merge m --wait --quiet
  echo "daemon $(($(now_ms) - start))"
  dmuserctl unmap m
  gone
  fresh
  start=$(now_ms)
  dmuserctl cow merge "$cow" --base "$base" --quiet
  echo "offline $(($(now_ms) - start))"
  gone
done
stop_daemon
