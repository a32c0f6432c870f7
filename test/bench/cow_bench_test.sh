#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the benchmark runs, on a small pair, and everything it measures gives
# the right bytes. Says nothing about time.
# Usage: cow_bench_test.sh DMUSERCTL COW_READ_BENCH RUN_PY MAKE_PAIR_PY
set -euo pipefail
python3 "$4" "$TEST_TMPDIR/pair" 48
python3 "$3" "$1" "$2" "$TEST_TMPDIR/pair" 1 "$TEST_TMPDIR/table.md"
for row in 'create, seconds' 'extract' 'random 4 KiB' 'offline merge' 'index'; do
  grep -q "^| $row" "$TEST_TMPDIR/table.md" || {
    echo "FAILED: no row for '$row'" >&2
    exit 1
  }
done
