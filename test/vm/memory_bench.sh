#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints what the daemon holds of memory, in KiB, a line for each load:
#   LOAD|RssAnon|private|peak anonymous|peak resident|threads
# The daemon is a file on a disk with a file system: pages of a file in a tmpfs or
# the initramfs are counted in another way. Each load has a daemon of its own,
# started with nothing of its file in memory.
# Disks: vda COW file of 120,000 ops whose base has 480,000 blocks; vdb empty.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly OPS=120000 DISK=/run/disk

# One number of KiB of /proc/PID/FILE, summed over the names.
of_proc() {
  local file=$1
  shift
  awk -v names="$*" 'BEGIN { split(names, list); for (i in list) is[list[i]] }
    { sub(/:/, "", $1) } $1 in is { sum += $2 } END { print sum + 0 }' \
    "/proc/$DAEMON_PID/$file"
}
figures() {
  echo "$1|$(of_proc status RssAnon)|$(of_proc smaps_rollup Private_Clean \
    Private_Dirty)|$(($(status_number peak_anonymous_bytes) / 1024))|$(of_proc \
    status VmHWM)|$(of_proc status Threads)"
}

fresh_daemon() {
  sync
  drop_caches
  start_daemon
  [ "$(readlink "/proc/$DAEMON_PID/exe")" = "$DISK/bin/dmuserd" ] ||
    fail "the daemon is not the one on the disk"
}
unmap_all() {
  local name
  for name; do dmuserctl unmap "$name"; done
  stop_daemon
}

# many COUNT - file devices, each read once.
many() {
  local i names=()
  fresh_daemon
  for ((i = 0; i < $1; i++)); do
    [ -e "$DISK/file$i" ] || truncate -s 1M "$DISK/file$i"
    dmuserctl map "f$i" --file "$DISK/file$i" --quiet
    dd if="/dev/mapper/f$i" of=/dev/null bs=64k count=2 iflag=direct 2>/dev/null
    names+=("f$i")
  done
  figures "$1 devices on files"
  unmap_all "${names[@]}"
}

mkfs.ext4 -q -F /dev/vdb
mkdir -p "$DISK"
mount -t ext4 /dev/vdb "$DISK"
mkdir "$DISK/bin"
cp "$(command -v dmuserd)" "$DISK/bin/"
PATH=$DISK/bin:$PATH
hash -r

fresh_daemon
figures "no device"
stop_daemon

for name in a b c d; do
  cp /dev/vda "$DISK/$name.cow"
  truncate -s $((4 * OPS * 4096)) "$DISK/$name.base"
done
fresh_daemon
for name in a b c d; do
  dmuserctl map "$name" --quiet --cow "$DISK/$name.cow" \
    --base "$DISK/$name.base"
done
figures "4 snapshots of $OPS ops, attached"
for ((i = 0; i < 30; i++)); do
  for name in a b c d; do
    dd if="/dev/mapper/$name" of=/dev/null bs=64k count=8 \
      skip=$((i * 97 % 3600)) 2>/dev/null
  done
done
figures "the same, in the midst of reads"
# What a burst took goes back by itself, of which there is no event.
sleep 1
figures "a second after the reads"
for name in a b c d; do dmuserctl merge "$name"; done
wait_merged_bytes a 1
figures "the same, in the midst of four merges"
for name in a b c d; do dmuserctl merge "$name" --pause; done
unmap_all a b c d

many 100
many 256
