#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a new system with a hash tree is booted, trusted and merged below
# dm-verity; one whose first block is damaged is given up before it is mounted;
# one in which damage is read restarts the machine, and the old system is back
# after its boots: no machine is left dead.
# Method: ota_verity.sh with initramfs-tools' script, in machines that share
# their disks.
# usage: ota_verity_test.sh KERNEL DMUSERD DMUSERCTL OLD COW NEW HASH BYTES
set -euo pipefail
source tools/lib/common.sh
kernel=$1 dmuserd=$2 dmuserctl=$3 old=$4 cow=$5 new=$6 hash=$7 bytes=$8
work=$TEST_TMPDIR

fail() {
  say "FAILED: $*"
  exit 1
}

fresh_disks() {
  cp --sparse=always --no-preserve=mode "$old" "$work/base.img"
  cp --sparse=always --no-preserve=mode "$cow" "$work/cow.img"
  truncate -s 128M "$work/state.img"
}

# machine MODE [MORE] - its status into `ended`.
machine() {
  ended=0
  tools/vm run --kernel "$kernel" --timeout 120 --log "$work/kernel.log" \
    --bin "$dmuserd" --bin "$dmuserctl" --add tools/lib/guest-daemon.sh \
    --add test/vm/initramfs_guest.sh --add tools/initramfs-tools/local-top/dm-user \
    --add tools/initramfs/ota-boot.sh --add "$hash:/vm/verity.hash" --add "$bytes:/vm/verity.bytes" \
    --disk "$work/base.img" --disk "$work/cow.img" --disk "$new,ro" \
    --disk "$work/state.img" test/vm/ota_verity.sh "$@" || ended=$?
}

fresh_disks
machine good
((ended == 0)) || fail "the good system: $ended"

fresh_disks
machine break
# The machine went, and not because its script ended.
((ended == 125)) || fail "a damaged block did not restart it: $ended"
grep -q 'dm-verity device corrupted' "$work/kernel.log" ||
  fail "it restarted for another reason: $(tail -5 "$work/kernel.log")"
machine after "$(sha256sum <"$old" | cut -d' ' -f1)"
((ended == 0)) || fail "after the restart: $ended"
rm "$work"/{base,cow,state}.img
