#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the daemon keeps to its memory: nothing much with no device, a few MiB
# with four partitions of 120,000 ops each, and one thread in all.
# Method: its own figures, which are the kernel's (Anonymous in smaps_rollup),
# after reads all over the devices, and while all four are merged.
# Disks: vda COW file of that many ops, whose base has 480,000 blocks.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly OPS=120000 IDLE_KIB=256 SERVING_KIB=4096

# figure NAME - in KiB; one thread is a promise at any time.
figure() {
  local kib
  kib=$(($(status_number anonymous_bytes) / 1024))
  [ "$(status_number threads)" -eq 1 ] || fail "more than one thread"
  echo "$1: $kib KiB" >&2
  echo "$kib"
}

mkdir -p /run/disks
mount -t tmpfs -o size=90% tmpfs /run/disks
start_daemon
idle=$(figure "no device")
[ "$idle" -le "$IDLE_KIB" ] || fail "$idle KiB with no device"
for name in a b c d; do
  cp /dev/vda "/run/disks/$name.cow"
  truncate -s $((4 * OPS * 4096)) "/run/disks/$name.base"
  dmuserctl map "$name" --quiet --cow "/run/disks/$name.cow" \
    --base "/run/disks/$name.base"
done
for ((i = 0; i < 60; i++)); do
  for name in a b c d; do
    dd if="/dev/mapper/$name" of=/dev/null bs=64k count=8 \
      skip=$((i * 97 % 3600)) 2>/dev/null
  done
done
serving=$(figure "four devices of $OPS ops")
[ "$serving" -le "$SERVING_KIB" ] || fail "$serving KiB with four devices"
for name in a b c d; do dmuserctl merge "$name"; done
wait_merged_bytes a 1
figure "while they are merged" >/dev/null
for name in a b c d; do dmuserctl merge "$name" --pause; done
for name in a b c d; do dmuserctl unmap "$name"; done
left=$(figure "all unmapped")
[ "$left" -le $((2 * IDLE_KIB)) ] || fail "$left KiB are left of them"
stop_daemon
