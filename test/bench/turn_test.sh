#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: attaching a COW file of a million ops never keeps the loop for long.
# Method: turn_bench, of which the best of three runs counts: a turn may catch
# what the kernel does in this thread's time.
# usage: turn_test.sh TURN_BENCH MAKE_MANY_OPS
set -euo pipefail
readonly OPS=1000000 LIMIT_US=2000
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$2" "$OPS" "$work/file.cow"
truncate -s $((4 * OPS * 4096)) "$work/base"
for _ in 1 2 3; do
  status=0
  "$1" "$work/file.cow" "$work/base" "$LIMIT_US" || status=$?
  [[ $status != 0 ]] || exit 0
done
exit "$status"
