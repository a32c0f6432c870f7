#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a merge by the daemon that keeps an undo log is taken back, from the
# middle and from the end, whoever is killed on the way.
# Disks: vda old image (base), vdb COW, vdc new image, vdd the undo log.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly FLUSH_MS=100

sum() {
  drop_caches
  sha256sum <"$1"
}

undo() {
  dmuserctl merge undo /dev/mapper/cow --base /dev/mapper/base \
    --undo-log /dev/vdd --quiet "$@"
}

# Of the merge, as the disk has it: bytes 26 to 33 of the COW file.
counter() {
  blockdev --flushbufs /dev/vdb
  head -c 34 /dev/vdb | tail -c 8 | od -An -tx1
}

map() {
  dmuserctl map m --quiet --cow /dev/mapper/cow --base /dev/mapper/base
}

for disk in base:vda cow:vdb; do
  device=/dev/${disk#*:}
  slow_flushes "${disk%:*}" "$device" 0 "$(blockdev --getsz "$device")" \
    "$FLUSH_MS"
done
old=$(sum /dev/vda)
start_daemon
map
total=$(status_number total_bytes)

# To the middle, the daemon killed on the way; the next one goes on with the log.
dmuserctl merge m --undo-log /dev/vdd
wait_merged_bytes m $((total / 3))
kill_daemon
start_daemon
dmuserctl status m --json | grep -q '"undo_log_path": "/dev/vdd"' ||
  fail "the log is forgotten: $(dmuserctl status m --json)"
wait_merged_bytes m $((total / 2))
dmuserctl merge m --pause
same /dev/mapper/m /dev/vdc
expect 5 'in use' undo
dmuserctl unmap m
undo
[ "$(sum /dev/vda)" = "$old" ] || fail "the base is not the old image"
echo "undone from the middle"

# To the end, then back, with the undo killed again and again.
map
same /dev/mapper/m /dev/vdc
dmuserctl merge m --undo-log /dev/vdd --wait --quiet
same /dev/mapper/m /dev/vdc
dmuserctl unmap m
same /dev/vda /dev/vdc
kills=0
for ((steps = 1; ; steps++)); do
  before=$(counter)
  dmuserctl merge undo /dev/mapper/cow --base /dev/mapper/base \
    --undo-log /dev/vdd --quiet &
  pid=$!
  # The counter goes down with every step.
  while kill -0 "$pid" 2>/dev/null && [ "$(counter)" = "$before" ]; do :; done
  kill -9 "$pid" 2>/dev/null || true
  status=0
  wait "$pid" || status=$?
  [ "$status" -ne 0 ] || break
  [ "$status" -eq 137 ] || fail "undo ended with $status"
  kills=$((kills + 1))
  if [ "$kills" -eq 5 ]; then
    # Half-way back the device still shows the new image.
    map
    same /dev/mapper/m /dev/vdc
    dmuserctl unmap m
  fi
done
[ "$kills" -ge 5 ] || fail "only $kills kills hit the undo"
[ "$(sum /dev/vda)" = "$old" ] || fail "the base is not the old image"
echo "undone from the end, killed $kills times"
stop_daemon
