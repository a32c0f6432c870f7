#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: kill -9 of the daemon under load fails, loses and corrupts no I/O.
# Method: fio writes a device with checksums and reads all of it back, while the
# daemon is killed and started again and again.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=32
modprobe brd rd_nr=1 rd_size=$((SIZE_MIB * 1024))
start_daemon
dmuserctl map f --file /dev/ram0 --orphan-timeout forever
fio --name=kill --filename=/dev/mapper/f --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-96k --bs_unaligned=0 \
  --size=${SIZE_MIB}M --io_size=256M --verify=md5 --verify_fatal=1 \
  --do_verify=1 --verify_backlog=64 --eta=never --output=/run/fio.out &
fio_pid=$!
kills=0
while kill -0 "$fio_pid" 2>/dev/null; do
  served=$(status_number reads)
  # A random bit of work for the daemon between two kills, seen by its counter.
  goal=$((served + 20 + RANDOM % 200))
  while kill -0 "$fio_pid" 2>/dev/null && [ "$(status_number reads)" -lt "$goal" ]; do
    :
  done
  kill -0 "$fio_pid" 2>/dev/null || break
  kill_daemon
  kills=$((kills + 1))
  start_daemon
done
wait "$fio_pid" || fail "fio: $(cat /run/fio.out)"
grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
# How many there is time for depends on the machine.
[ "$kills" -ge 1 ] || fail "no kill; the load is too short"
dmuserctl unmap f
stop_daemon
echo "fio verified $SIZE_MIB MiB over $kills kills"
