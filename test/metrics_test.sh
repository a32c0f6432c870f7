#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: what "dmuserctl metrics" prints is what Prometheus takes, with the right
# figures; in a file it is there whole or as it was.
# Method: a strict parser, on a status that has everything in it and on a real
# daemon's. Devices need a kernel: test/vm/errors.sh.
# Usage: metrics_test.sh DMUSERCTL DMUSERD PRINT_METRICS METRICS_CHECK
set -euo pipefail
ctl=$PWD/$1 daemon=$PWD/$2 print=$PWD/$3 check=$PWD/$4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# has NAME LABELS VALUE - LABELS as JSON; in samples.
has() {
  python3 - "$@" <<'PYTHON' || fail "no sample $*: $(cat samples)"
import json, sys
name, labels, value = sys.argv[1:]
want = [name, json.loads(labels), float(value)]
sys.exit(want not in [json.loads(line) for line in open("samples")])
PYTHON
}

"$print" >text
python3 "$check" <text >samples || fail "not the format: $(cat text)"
odd='"device": "a\"b\\c\nd"'
has dmuserd_up '{}' 1
has dmuserd_device_requests_total "{$odd, \"op\": \"read\"}" 10
has dmuserd_device_requests_total "{$odd, \"op\": \"flush\"}" 2
has dmuserd_device_requests_total "{$odd, \"op\": \"other\"}" 1
has dmuserd_device_errors_total "{$odd, \"class\": \"no_space\"}" 4
has dmuserd_device_errors_total '{"device": "plain", "class": "io"}' 0
has dmuserd_merge_state "{$odd, \"state\": \"running\"}" 1
has dmuserd_merge_state "{$odd, \"state\": \"idle\"}" 0
has dmuserd_start_time_seconds '{}' 1700000000.007
has dmuserd_cpu_seconds_total '{}' 1.234567
duration=dmuserd_device_request_duration_seconds
for bucket in 4e-06:3 1.6e-05:6 1.048576:9 4.194304:9 +Inf:10; do
  has ${duration}_bucket \
    "{$odd, \"op\": \"read\", \"le\": \"${bucket%:*}\"}" "${bucket#*:}"
done
has ${duration}_sum "{$odd, \"op\": \"read\"}" 9.00006

# The parser is one: what it must not take, it does not.
for wrong in 's/_total /_count /' '/^# TYPE/d' 's/^# HELP.*//' \
  's/le="+Inf"/le="9"/' 's/} \([0-9]\)/} -\1/' 's/$/ 1700000000000/' \
  's/\\"/"/' 's/_count{.*/&9/' p; do
  [[ $(sed "$wrong" text) != "$(cat text)" ]] || fail "sed $wrong does nothing"
  ! sed "$wrong" text | python3 "$check" >/dev/null 2>&1 ||
    fail "the parser takes what sed '$wrong' made"
done

# A real daemon, and none.
got=0
"$ctl" metrics --control none -o down.prom 2>said || got=$?
[[ $got -eq 10 ]] || fail "without a daemon it ended with $got: $(cat said)"
python3 "$check" <down.prom >samples || fail "$(cat down.prom)"
has dmuserd_up '{}' 0
[[ $(wc -l <samples) -eq 1 ]] || fail "$(cat samples)"

mkfifo ready
"$daemon" --control c --ready-fd 3 3>ready 2>daemon.log &
pid=$!
read -r <ready || fail "dmuserd ended: $(cat daemon.log)"
"$ctl" metrics --control c >text
python3 "$check" <text >samples || fail "not the format: $(cat text)"
has dmuserd_up '{}' 1
has dmuserd_threads '{}' 1
echo old >file.prom
chmod 600 file.prom
"$ctl" metrics --control c -o file.prom
python3 "$check" <file.prom >samples || fail "$(cat file.prom)"
has dmuserd_up '{}' 1
[[ $(stat -c %a file.prom) == 644 ]] || fail "others cannot read the file"
[[ $(find . -name 'file.prom*' | wc -l) -eq 1 ]] || fail "left behind: $(ls)"
got=0
"$ctl" metrics --control c -o nowhere/file.prom 2>said || got=$?
[[ $got -eq 9 ]] || fail "no folder: $got, $(cat said)"
# Killed at any moment it leaves the file whole.
for ((i = 0; i < 30; i++)); do
  "$ctl" metrics --control c -o file.prom &
  kill -9 $! 2>/dev/null || true
  wait $! 2>/dev/null || true
  python3 "$check" <file.prom >samples || fail "torn: $(cat file.prom)"
done

# The daemon's own figures.
"$ctl" status --control c --json >status.json
python3 - status.json "$pid" <<'PYTHON' || fail "$(cat status.json)"
import json, sys, time
daemon = json.load(open(sys.argv[1]))["daemon"]
rollup, status = {}, {}
for path, to in (("smaps_rollup", rollup), ("status", status)):
    for line in open(f"/proc/{sys.argv[2]}/{path}"):
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            to[name] = 1024 * int(rest.split()[0])
near = 64 * 1024
private = rollup["Private_Clean"] + rollup["Private_Dirty"]
assert abs(daemon["anonymous_bytes"] - rollup["Anonymous"]) <= near, rollup
assert abs(daemon["private_bytes"] - private) <= near, rollup
assert abs(daemon["peak_resident_bytes"] - status["VmHWM"]) <= near, status
assert daemon["peak_anonymous_bytes"] >= daemon["anonymous_bytes"], daemon
assert 0 <= time.time() - daemon["started_unix_ms"] / 1000 < 600, daemon
assert daemon["turns"] > 0 and daemon["log_lines_lost"] == 0, daemon
PYTHON
"$ctl" status --control c --latency | grep -q ' private, ' || fail "status"
kill "$pid"
wait "$pid"

# Whoever read its log has gone: the daemon stays.
mkfifo log
cat log >/dev/null &
reader=$!
"$daemon" --control c --ready-fd 3 3>ready 2>log &
pid=$!
read -r <ready || fail "dmuserd ended"
kill "$reader"
wait "$reader" || true
# It logs that a message is too long.
python3 -c '
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("c")
s.send(b"\xff\xff\xff\x7f")
s.recv(1)'
"$ctl" status --control c --json | grep -q '"log_lines_lost": 1' ||
  fail "a daemon without a reader of its log"
kill "$pid"
wait "$pid" || fail "SIGTERM gives $?"
got=0
"$daemon" --control c --log nonsense 2>said || got=$?
[[ $got -eq 2 ]] || fail "--log nonsense ended with $got"
