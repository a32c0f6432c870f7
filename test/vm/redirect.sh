#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: what a snapshot has in its base is read by the kernel alone, more of it
# after a merge than before, and all of it then with the daemon dead.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# figure INDEX: a number of the kernel's status line of the device m.
figure() {
  local -a status
  read -r -a status < <(dmsetup status m)
  # Behind start, length and target.
  echo "${status[$((3 + $1))]}"
}
redirected() { figure 14; }
extents() { figure 15; }

# until_extents TEST...: waits for the daemon to have told them.
until_extents() {
  local i
  # There is no event for it.
  for ((i = 0; i < 2000; i++)); do
    if test "$(extents)" "$@"; then return; fi
  done
  fail "extents: $(dmsetup status m)"
}

start_daemon
dmuserctl map m --cow /dev/vdb --base /dev/vda --orphan-timeout forever
until_extents -gt 1
same /dev/mapper/m /dev/vdc
[ "$(redirected)" -gt 0 ] || fail "nothing was redirected: $(dmsetup status m)"
dmuserctl status | grep -q 'straight to the base' || fail "$(dmuserctl status)"
before=$(extents)
echo "$before extents, $(redirected) bios redirected"

# The next daemon finds the base held for its device, and tells them anew.
kill_daemon
[ "$(extents)" -eq "$before" ] || fail "a kill took extents away"
start_daemon
until_extents -eq "$before"
same /dev/mapper/m /dev/vdc

# The whole merge under readers; then one extent is all there is.
while :; do cmp -s /dev/mapper/m /dev/vdc || echo "differs" >>/run/differs; done &
reader=$!
dmuserctl merge m --wait --quiet
kill "$reader"
wait "$reader" || true
[ ! -e /run/differs ] || fail "a reader saw something else"
until_extents -eq 1
same /dev/mapper/m /dev/vdc
reads=$(status_number reads)
same /dev/mapper/m /dev/vdc
[ "$(status_number reads)" -eq "$reads" ] || fail "the daemon was asked"
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
kill_daemon
same /dev/mapper/m /dev/vdc
echo "read without a daemon"

start_daemon
dmuserctl unmap m

# Asked for where it cannot be, and not wanted where it can.
truncate -s 1M /run/file
if dmuserctl map f --file /run/file --redirect on 2>/run/error; then
  fail "redirect without a snapshot"
fi
grep -q 'block device' /run/error || fail "$(cat /run/error)"
dmuserctl map m --cow /dev/vdb --base /dev/vda --redirect off
same /dev/mapper/m /dev/vdc
[ "$(redirected)" -eq 0 ] || fail "redirected: $(dmsetup status m)"
dmuserctl unmap m
same /dev/vda /dev/vdc
stop_daemon
