#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: devices that nobody uses cost nothing: a daemon with many of them is
# not woken once, makes no system call, and is not counted as waiting for I/O.
# Method: the kernel counts how often the process has slept and woken, and traces
# its system calls (raw_syscalls:sys_enter, what perf and strace show too). That
# the trace shows calls is shown first.
# usage: idle.sh [SECONDS [TRANSPORT [DEVICES]]]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly DEVICES=${3:-100}
seconds=${1:-10}
transport=${2:-dm-user}

# Turns of the daemon's thread: each wait for events ends with one.
switches() {
  sed -n 's/.*_ctxt_switches:\t*//p' "/proc/$DAEMON_PID/status" |
    { read -r a; read -r b; echo $((a + b)); }
}

# For how long somebody waited for I/O.
io_pressure_us() { sed -n 's/^some .* total=//p' /proc/pressure/io; }

readonly TRACE=/sys/kernel/tracing
# trace_calls_of PID - the system calls of the thread, from now on.
trace_calls_of() {
  [ -e "$TRACE/trace" ] || mount -t tracefs tracefs "$TRACE"
  echo "$1" >"$TRACE/set_event_pid"
  echo 1 >"$TRACE/events/raw_syscalls/sys_enter/enable"
}
calls() { grep -c sys_enter: "$TRACE/trace" || true; }

[ "$transport" != ublk ] || modprobe ublk_drv
start_daemon
empty=$(status_number anonymous_bytes)
for ((i = 0; i < DEVICES; i++)); do
  dmuserctl map "d$i" --null 1048576 --quiet --transport "$transport"
done
full=$(status_number anonymous_bytes)
pool=$(status_number pool_bytes)
echo "$DEVICES devices: $((full / 1024)) KiB, and $((empty / 1024)) without"
# Buffers that were used stay until memory is trimmed; they are not the devices'.
[ $((full - empty)) -le $((DEVICES * 64 * 1024 + pool)) ] ||
  fail "a device costs more than 64 KiB"
[ "$(status_number threads)" -eq 1 ] || fail "the daemon has threads"
# What the last command left to do, udev's looks at the devices included, is
# over when nothing has happened for a second.
before=$(switches)
while sleep 1 && [ "$(switches)" -ne "$before" ]; do before=$(switches); done
trace_calls_of "$DAEMON_PID"
dmuserctl status --json >/dev/null
seen=$(calls)
[ "$seen" -gt 2 ] || fail "the trace shows no system call: $(cat "$TRACE/trace")"
while sleep 1 && [ "$(switches)" -ne "$before" ]; do before=$(switches); done
echo >"$TRACE/trace"
waited_us=$(io_pressure_us)
# That nothing happens can only be waited for.
sleep "$seconds"
waited_us=$(($(io_pressure_us) - waited_us))
after=$(switches)
[ "$waited_us" -lt $((seconds * 500000)) ] ||
  fail "waiting for I/O for $waited_us us of $seconds s"
[ "$after" -eq "$before" ] ||
  fail "woken $((after - before)) times in $seconds s"
made=$(calls)
[ "$made" -eq 0 ] ||
  fail "$made system calls in $seconds s: $(grep sys_enter: "$TRACE/trace")"
echo "$DEVICES devices of $transport: not woken and no system call in $seconds s" \
  "($seen were traced for one status)"
echo 0 >"$TRACE/events/raw_syscalls/sys_enter/enable"
for ((i = 0; i < DEVICES; i++)); do dmuserctl unmap "d$i"; done
stop_daemon
