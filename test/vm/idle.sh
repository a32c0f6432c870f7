#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: devices that nobody uses cost nothing: a daemon with many of them is
# not woken once.
# Method: the kernel counts how often the process has slept and woken; one sleep,
# that of the wait below, is what there is to see.
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
# That nothing happens can only be waited for.
sleep "$seconds"
after=$(switches)
[ "$after" -eq "$before" ] ||
  fail "woken $((after - before)) times in $seconds s"
echo "not woken in $seconds s"
for ((i = 0; i < DEVICES; i++)); do dmuserctl unmap "d$i"; done
stop_daemon
