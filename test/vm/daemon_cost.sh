#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: what a 4 KiB read or write of the daemon's devices costs over
# each of its channels: of zeros, and of a disk in memory. By hand; see README.md.
# usage: daemon_cost.sh [REQUESTS [CHANNEL...]]
set -euo pipefail
requests=${1-8000}
channels=("${@:2}")
[ "${#channels[@]}" -gt 0 ] || channels=(stream batch uring)
# shellcheck source=tools/lib/guest-daemon.sh
set -- && source /vm/guest-daemon.sh

modprobe brd rd_nr=1 rd_size=32768
for channel in "${channels[@]}"; do
  start_daemon --channel "$channel"
  dmuserctl map null --null 33554432 --quiet
  dmuserctl map file --file /dev/ram0 --quiet
  cat /dev/mapper/file >/dev/null
  echo "channel $(dmuserctl status null --json | grep '"channel"')"
  for depth in 1 32; do
    channel_cost "$depth" "$requests" /dev/mapper/null /dev/mapper/file
    fio --name=write --filename=/dev/mapper/file --direct=1 --bs=4k \
      --ioengine=libaio --iodepth="$depth" --rw=randwrite --size=100% \
      --number_ios="$requests" --eta=never >/run/fio.out
    echo "$requests writes, depth $depth: $(grep -o 'run=[0-9]*' /run/fio.out) ms"
  done
  dmuserctl unmap null
  dmuserctl unmap file
  stop_daemon
done
