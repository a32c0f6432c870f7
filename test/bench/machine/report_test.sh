#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the tables of tools/bench say what was found, and two runs that differ do
# not go unnoticed.
# usage: report_test.sh REPORT_PY
set -euo pipefail
# The folder of a test leads to the sources.
export PYTHONDONTWRITEBYTECODE=1
folder=$(dirname "$1")
work=$TEST_TMPDIR

report() {
  python3 "$1/report.py" --command "tools/bench" --commit abc --out "$work/out" \
    "${@:2}" >"$work/text" 2>&1
}
# has LINE: word for word.
has() {
  grep -qxF -- "$1" "$work/out.md" || {
    echo "FAILED: no line '$1' in:" >&2
    cat "$work/out.md" >&2
    exit 1
  }
}

python3 "$folder/sample_results.py" "$work/run-1"
python3 "$folder/sample_results.py" "$work/run-2" 1.01
python3 "$folder/sample_results.py" "$work/run-3" 1.03
report "$folder" "$work/run-1"
has '| raw | (10.0) |'
has '| batch | **15.0** (25.0; 8.33) |'
has '| to reach, 6.12 | ≤ 12 |'
has '| **both: no message, copy or switch yet** | **5.00** |'
has "| dmuserd without storage (\`map --null\`) | 7.00 |"
has '| raw | 4.00 / - / - | - |'
has '| batch | 4.00 / 3.00 / 1.00 | 321 |'
has '| ours-merging | **0.50** (20.0) merged before the end | 321 |'
has '| batch | **0.80** (80.0) |'
has '| 1,000 | 15.0 | 5.00 | 1.00 | - |'
has '| 1 | 30.0 | 20.0 | 1.00 | 321 |'
has 'One run only.'
python3 -c 'import sys, xml.dom.minidom as d; d.parse(sys.argv[1])' \
  "$work/out.svg"
report "$folder" "$work/run-1" "$work/run-2"
has '| batch | **15.1** (25.1; 8.37) |'
has '2 runs; 15 figures, furthest apart by 1.0%: transport batch rr4k1.'
if report "$folder" "$work/run-1" "$work/run-3"; then
  echo "FAILED: runs that differ by 3 % pass" >&2
  exit 1
fi
grep -q 'further apart than 2%' "$work/text"
