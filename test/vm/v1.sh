#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a program written to Android's v1 ABI alone serves a file system, and sees
# no difference: the table line, the node and the stream are Android's.
set -euo pipefail
# shellcheck source=test/vm/tap.sh
source /vm/tap.sh

readonly MIB=64 SECTORS=$((64 * 2048))
modprobe ext4

# Returns once it serves: the table waits four seconds, and a machine may be slow.
serve() {
  v1_daemon v1 /tmp/disk.img 2>/run/daemon.out &
  daemon=$!
  local fields
  until read -r -a fields < <(dmsetup status v1) && [ "${fields[6]}" -gt 0 ]; do
    kill -0 "$daemon" || return 1
  done
}
ended_well() { wait "$daemon" || { cat /run/daemon.out && return 1; }; }
fill() {
  local i
  for ((i = 0; i < 8; i++)); do
    dd if=/dev/urandom of="/mnt/v1/$i" bs=64k count=$((i + 1)) || return 1
  done
  # Journal commits: flushes, and writes with FUA.
  for ((i = 0; i < 8; i++)); do
    dd if=/dev/urandom of="/mnt/v1/sync$i" bs=4k count=1 conv=fsync || return 1
  done
  (cd /mnt/v1 && sha256sum [0-7] sync* >/run/sums)
}
same_files() { (cd /mnt/v1 && sha256sum -c /run/sums); }
drop() { echo 3 >/proc/sys/vm/drop_caches; }
no_errors() {
  local status
  read -r -a status < <(dmsetup status v1)
  echo "${status[*]}"
  [ "${status[11]}" -gt 100 ] && [ "${status[12]}" -eq 0 ]
}

step "a file of $MIB MiB" truncate -s "${MIB}M" /tmp/disk.img
mkdir -p /mnt/v1
step "Android's table line" dmsetup create v1 --table "0 $SECTORS user 0 $SECTORS v1"
step "a daemon" serve
step "mkfs.ext4" mkfs.ext4 -q /dev/mapper/v1
step "mount" mount -t ext4 /dev/mapper/v1 /mnt/v1
step "files" fill
step "fsync" sync
drop
step "files read back" same_files
step "umount" umount /mnt/v1
step "fsck" e2fsck -fn /dev/mapper/v1
step "no error counted" no_errors
step "remove" dmsetup remove v1
step "the daemon has seen the end" ended_well
# The same file, the same program, another device.
step "another device" dmsetup create v1 --table "0 $SECTORS user 0 $SECTORS v1"
step "a daemon again" serve
step "mount again" mount -t ext4 /dev/mapper/v1 /mnt/v1
step "files are there" same_files
step "umount again" umount /mnt/v1
step "remove again" dmsetup remove v1
step "the daemon has seen the end again" ended_well
step "unload" rmmod dm_user
tap_end
