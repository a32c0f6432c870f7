#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: memory can be won back through the device. Write-back with the page cache
# full of dirty pages, and swap, go on while nothing is free, and lose nothing.
# Method: a small machine; more is written than it has memory, then the same while
# more memory is used than it has. A dead-lock shows as the kernel's complaint
# about hung tasks, or as the end of the machine's time.
# The file system's daemon is dmuserd. That of the swap goes past the page cache:
# one that writes through it has to find memory in order to free some.
# Disks: vda and vdb, empty.
#
# Usage: reclaim.sh [PASSES]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/vm/tap.sh
source /vm/tap.sh

readonly PASSES=${1:-1} FILES=3
echo 20 >/proc/sys/kernel/hung_task_timeout_secs

figure() { sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo; }
vm_count() { sed -n "s/^$1 //p" /proc/vmstat; }

# write_files MIB_EACH
write_files() {
  local i jobs=() dirty most=0
  for ((i = 0; i < FILES; i++)); do
    memory_load write "/mnt/f/$i" "$1" &
    jobs+=($!)
  done
  while kill -0 "${jobs[0]}" 2>/dev/null; do
    dirty=$(figure Dirty)
    ((dirty <= most)) || most=$dirty
    pause_ms 50
  done
  echo "$((most / 1024)) MiB were dirty"
  for i in "${jobs[@]}"; do wait "$i" || return 1; done
}
same_files() {
  local i
  drop_caches
  for ((i = 0; i < FILES; i++)); do
    memory_load check "/mnt/f/$i" "$1" || return 1
  done
}
swapped() {
  local before
  before=$(vm_count pswpout)
  memory_load swap "$1" "$PASSES" || return 1
  echo "$((($(vm_count pswpout) - before) / 256)) MiB were swapped out"
  [ "$(vm_count pswpout)" -gt "$before" ]
}
both() {
  swapped "$1" &
  local swapping=$!
  write_files "$2" || return 1
  wait "$swapping"
}
no_errors() {
  local name fields
  for name in f s; do
    read -r -a fields < <(dmsetup status "$name")
    echo "${fields[*]}"
    [ "${fields[12]}" -eq 0 ] || return 1
  done
}

modprobe ext4
mkdir -p /mnt/f
start_daemon
dmuserctl map f --quiet --file /dev/vda
sectors=$(blockdev --getsz /dev/vdb)
dmsetup create s --table "0 $sectors user 0 $sectors s 2 orphan_ms forever"
mkfifo /run/ready
direct_daemon s /dev/vdb >/run/ready &
direct_pid=$!
read -r </run/ready
step "mkfs" mkfs.ext4 -q /dev/mapper/f
step "mount" mount -t ext4 /dev/mapper/f /mnt/f
# Write-back starts late, so that it has to be done to get a page.
echo 40 >/proc/sys/vm/dirty_ratio
echo 20 >/proc/sys/vm/dirty_background_ratio
free_mib=$(($(figure MemAvailable) / 1024))
left_mib=$((free_mib / 2))
step "memory is short: of $free_mib MiB $left_mib are left" mkfifo /run/hog
memory_load hold $((free_mib - left_mib)) >/run/hog &
hog=$!
read -r </run/hog
readonly FILE_MIB=$((left_mib / 2))
step "$FILES files of $FILE_MIB MiB" write_files "$FILE_MIB"
step_said
step "files read back" same_files "$FILE_MIB"
step "mkswap" mkswap /dev/mapper/s
step "swapon" swapon /dev/mapper/s
step "$((left_mib + 16)) MiB of memory, and files" both $((left_mib + 16)) \
  "$FILE_MIB"
step_said
step "files read back again" same_files "$FILE_MIB"
kill "$hog"
wait "$hog" 2>/dev/null || true
step "swapoff" swapoff /dev/mapper/s
step "umount" umount /mnt/f
step "fsck" e2fsck -fn /dev/mapper/f
step "no error counted" no_errors
step_said
dmsetup remove s
wait "$direct_pid" || fail "direct_daemon ended with $?"
dmuserctl unmap f
stop_daemon
tap_end
