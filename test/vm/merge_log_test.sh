#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a power cut at any moment of a merge on a real kernel loses nothing.
# Method: a guest merges on disks that are logged (merge_log.sh); log_replay
# makes of the log what a power cut could leave, and checks that.
#
# usage: merge_log_test.sh KERNEL DMUSERD DMUSERCTL LOG_REPLAY OLD COW NEW [SEED]
#
# A failure leaves log and disks in the test's outputs (outputs.zip) and says how
# to have the same states made of them again: the log itself is another each
# time. To give a seed: bazel test TARGET --test_arg=SEED
set -euo pipefail
source tools/lib/common.sh

kernel=$1 dmuserd=$2 dmuserctl=$3 log_replay=$4 old=$5 cow=$6 new=$7
seed=${8:-$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}
readonly LOG_MIB=128 # three times what a merge and its repetitions write
echo "seed $seed"

work=$TEST_TMPDIR
cat "$old" "$cow" >"$work/disk.img"
rm -f "$work/log.img"
truncate -s "${LOG_MIB}M" "$work/log.img"
tools/vm run --kernel "$kernel" --timeout 200 --bin "$dmuserd" \
  --bin "$dmuserctl" --add tools/lib/guest-daemon.sh \
  --disk "$work/disk.img" --disk "$work/log.img" --disk "$new,ro" \
  test/vm/merge_log.sh "$seed"

out=${TEST_UNDECLARED_OUTPUTS_DIR:-$work}
replay=("$old" "$cow" "$new" "$work/log.img" "$work/disk.img" "$seed")
if ! "$log_replay" "${replay[@]}" 8 "$out"; then
  cp --sparse=always "$work/log.img" "$work/disk.img" "$out"
  say "its log and disks are in the test's outputs; with them, in bazel-bin:" \
    "$log_replay $old $cow $new log.img disk.img $seed"
  exit 1
fi
rm -f "$work"/{log,disk}.img
