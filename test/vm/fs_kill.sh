#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a file system on a device whose daemon is killed over and over, in each
# step of its life, is whole and has all that was written.
# Method: mkfs, mount with online discard, a load that compares what it reads with
# copies in memory, fstrim, umount and fsck, each with kills in between; then the
# checksums of all files once more.
# Disks: vda empty.
#
# Usage: fs_kill.sh ext4|xfs [SECONDS [SEED]]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/vm/tap.sh
source /vm/tap.sh

readonly TYPE=$1 SECONDS_WANTED=${2:-8} KILL_EVERY_MS=250
seed=${3:-$(($(od -An -N4 -tu4 /dev/urandom)))}
kills=0

# killed COMMAND... - the command, while the daemon is killed; its status.
killed() {
  "$@" &
  local command=$!
  while kill -0 "$command" 2>/dev/null; do
    pause_ms "$KILL_EVERY_MS"
    kill_daemon
    kills=$((kills + 1))
    start_daemon
  done
  wait "$command"
}
make() {
  case $TYPE in
    ext4) mkfs.ext4 -q /dev/mapper/f ;;
    xfs) mkfs.xfs -q /dev/mapper/f ;;
  esac
}
check() {
  case $TYPE in
    ext4) e2fsck -fn /dev/mapper/f ;;
    xfs) xfs_repair -n /dev/mapper/f ;;
  esac
}
mounted() { mount -t "$TYPE" -o discard /dev/mapper/f /mnt/f; }
trimmed() { fstrim -v /mnt/f && sync; }
sums() { (cd /mnt/f && find . -type f -exec sha256sum {} + >/run/sums); }
same_sums() {
  drop_caches
  (cd /mnt/f && sha256sum -c --status /run/sums)
}
no_errors() {
  local fields
  read -r -a fields < <(dmsetup status f)
  echo "${fields[*]}"
  [ "${fields[12]}" -eq 0 ]
}

modprobe "$TYPE"
mkdir -p /mnt/f
start_daemon
dmuserctl map f --quiet --file /dev/vda --orphan-timeout forever
step "mkfs.$TYPE" killed make
step "mount" killed mounted
step "load of $SECONDS_WANTED s, seed $seed" \
  killed fs_load /mnt/f "$SECONDS_WANTED" "$seed"
step_said
step "checksums" sums
step "fstrim" killed trimmed
step "checksums from the device" same_sums
step "umount" killed umount /mnt/f
step "fsck" killed check
step "mount again" mounted
step "checksums after all" killed same_sums
step "umount again" umount /mnt/f
step "no error counted" no_errors
step_said
echo "# $kills kills"
dmuserctl unmap f
stop_daemon
tap_end
