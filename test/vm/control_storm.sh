#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: what 50 clients send to the control socket, in order and not, 1,000
# messages a second, costs a device nothing: no I/O error, no lost answer, no
# memory; reads take not much longer than without. Nor can clients that may only
# look shut out who may do more.
# Method: fio verifies a device, quiet and in the storm by turns in one run; the
# medians of the 99th percentiles of its reads are compared.
# usage: control_storm.sh [SECONDS [ROUNDS [SEED]]] - LIMIT_PERCENT of the
# environment: more than that of the quiet run's percentile is a failure.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

seconds=${1:-5} rounds=${2:-1} seed=${3:-1}
readonly SOCKET=/run/dm-user/control CLIENTS=50 RATE=1000 GROWTH_KIB=256
readonly SESSIONS=64 RESERVED=16 LOOKERS=4242 NOBODY=65534

# read_p99 SECONDS NAME - of a verifying fio, in microseconds.
read_p99() {
  fio --name="$2" --filename=/dev/mapper/d --direct=1 --ioengine=libaio \
    --iodepth=4 --rw=randrw --bsrange=512-64k --bs_unaligned=0 --size=24M \
    --io_size=100G --runtime="$1" --rate_iops=200,200 --fsync=64 --verify=md5 --verify_fatal=1 \
    --verify_backlog=64 --eta=never --output=/run/fio.out ||
    fail "fio: $(cat /run/fio.out)"
  grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
  awk '/^ +read:/ { reads = 1 } /^ +write:/ { reads = 0 }
    reads && /clat percentiles/ {
      per_us = /nsec/ ? 1000 : 1
      us_per = /msec/ ? 1000 : 1
    }
    reads && match($0, /99\.00th=\[ *[0-9]+\]/) {
      text = substr($0, RSTART + 10, RLENGTH - 11)
      print int(text * us_per / per_us)
    }' /run/fio.out | head -n 1
}

# The daemon's time on a processor, in milliseconds.
cpu_ms() { echo $(($(status_number cpu_us) / 1000)); }

median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }

# The daemon's own memory in KiB, when what was freed has been given back: that
# is when a device goes.
own_kib() {
  dmuserctl map trim --null 1048576 --quiet
  dmuserctl unmap trim
  echo $(($(status_number anonymous_bytes) / 1024))
}

modprobe brd rd_nr=1 rd_size=32768
start_daemon --look-group "$LOOKERS"
dmuserctl map d --file /dev/ram0 --quiet
# Everything has been there once before memory is compared.
control_load "$SOCKET" "$CLIENTS" "$RATE" 1 "$seed" d
read_p99 1 warm >/dev/null
before=$(own_kib)

quiet=() storm=() quiet_cpu=() storm_cpu=()
for ((i = 1; i <= rounds; i++)); do
  began=$(cpu_ms)
  quiet+=("$(read_p99 "$seconds" quiet)")
  quiet_cpu+=($(($(cpu_ms) - began)))
  control_load "$SOCKET" "$CLIENTS" "$RATE" $((seconds + 1)) $((seed + i)) d &
  load=$!
  storm+=("$(read_p99 "$seconds" storm)")
  wait "$load" || fail "control_load"
  storm_cpu+=($(($(cpu_ms) - began - quiet_cpu[i - 1])))
done
calm=$(median "${quiet[@]}") loud=$(median "${storm[@]}")
percent=$((loud * 100 / calm))
echo "p99 of reads: quiet $calm us (${quiet[*]}), in the storm $loud us" \
  "(${storm[*]}): $percent %"
echo "the daemon's processor time: quiet ${quiet_cpu[*]} ms, in the storm" \
  "${storm_cpu[*]} ms"
after=$(own_kib)
echo "own memory: $before KiB before, $after KiB after"
[ "$after" -le $((before + GROWTH_KIB)) ] || fail "memory has grown"
kill -0 "$DAEMON_PID" || fail "the daemon is gone"
[ "$(status_number threads)" -eq 1 ] || fail "the daemon has threads"
dmuserctl status d --json >/run/status.json
grep -q '"errors": 0' /run/status.json || fail "$(cat /run/status.json)"
lines=$(wc -l </run/dmuserd.log)
[ "$lines" -le $((30 * (rounds * (seconds + 2) / 5 + 2))) ] ||
  fail "$lines lines in the log: $(tail -20 /run/dmuserd.log)"
[ "$percent" -le "${LIMIT_PERCENT:-100000}" ] ||
  fail "reads took $percent % of the quiet run's time"

# Who may only look takes as many sessions as there are for such clients.
mkfifo /run/hold
exec 9<>/run/hold
exec 8< <(exec setpriv --reuid "$NOBODY" --regid "$LOOKERS" --clear-groups \
  control_load --hold "$SOCKET" "$SESSIONS" </run/hold)
holder=$!
read -r held <&8
[ "$held" -eq $((SESSIONS - RESERVED)) ] || fail "$held sessions are held"
dmuserctl status d --json >/dev/null || fail "root is shut out"
kill "$holder"
exec 8<&- 9<&-
dmuserctl unmap d
stop_daemon
