#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: devices of the kernel's own driver survive their daemon: killed, stopped
# and handed over under load, the next one goes on with the same block device,
# and no I/O fails or reads back wrong.
# Method: fio writes and verifies one device, reads of another, a snapshot, are
# compared with the new image all the while.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly SIZE_MIB=32 KILLS=6
modprobe ublk_drv
modprobe brd rd_nr=1 rd_size=$((SIZE_MIB * 1024))
start_daemon
dmuserctl map f --file /dev/ram0 --quiet
dmuserctl map m --cow /dev/vdb --base /dev/vda --quiet
dmuserctl list
blocks=$(dmuserctl status --json | grep '"block"')

(
  trap 'exit 0' TERM
  while :; do same /dev/mapper/m /dev/vdc; done
) &
reader_pid=$!
fio --name=load --filename=/dev/mapper/f --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-96k --bs_unaligned=0 \
  --size=${SIZE_MIB}M --io_size=4G --verify=md5 --verify_fatal=1 \
  --do_verify=1 --verify_backlog=64 --eta=never --output=/run/fio.out &
fio_pid=$!

# loaded N: until this daemon has answered that many reads.
loaded() {
  while kill -0 "$fio_pid" 2>/dev/null && [ "$(status_number reads)" -lt "$1" ]; do
    :
  done
  kill -0 "$fio_pid" 2>/dev/null || fail "the load ended: $(cat /run/fio.out)"
}

for ((n = 1; n <= KILLS; n++)); do
  loaded $((50 + RANDOM % 200))
  case $((n % 3)) in
    0)
      old=$DAEMON_PID
      start_daemon --take-over
      wait "$old" || fail "the old daemon ended with $?"
      ;;
    1)
      kill_daemon
      start_daemon
      ;;
    2)
      stop_daemon
      start_daemon
      ;;
  esac
  echo "daemon $n went at $(cut -d ' ' -f 1 /proc/uptime)"
  [ "$(dmuserctl status --json | grep '"block"')" = "$blocks" ] ||
    fail "the block devices are others: $(dmuserctl status --json)"
done
loaded 200
kill "$fio_pid"
wait "$fio_pid" || true
grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
kill -0 "$reader_pid" || fail "the reads of the snapshot ended"
kill "$reader_pid"
wait "$reader_pid"

same /dev/mapper/m /dev/vdc
[ "$(status_number errors)" -eq 0 ] || fail "requests failed"
dmesg | grep -iE 'I/O error|blk_update' && fail "the kernel saw an I/O error"
dmuserctl unmap m
dmuserctl unmap f

# By the table, with a transport of its own and with the command's.
cat >/tmp/usertab <<'TAB'
device { name: "a" null { size_bytes: 1048576 } transport: TRANSPORT_UBLK }
device { name: "b" null { size_bytes: 1048576 } }
TAB
dmuserctl up --table /tmp/usertab --transport ublk --quiet
dmuserctl up --table /tmp/usertab --transport ublk --quiet
[ "$(dmuserctl list | grep -c linear)" -eq 2 ] || fail "$(dmuserctl list)"
dmuserctl down --table /tmp/usertab --quiet
expect 2 'expected auto, dm-user or ublk' \
  dmuserctl map c --null 1048576 --transport nbd
expect 6 "target 'user'" dmuserctl map c --null 1048576 --transport dm-user

# One that cannot be served again can still be taken away.
truncate -s 1M /tmp/lost
dmuserctl map lost --file /tmp/lost --quiet
kill_daemon
rm /tmp/lost
start_daemon
expect 9 'serves no such device' dmuserctl status lost
dmuserctl unmap lost
[ -z "$(ls /dev/ublkb* /dev/ublkc* 2>/dev/null)" ] || fail "$(ls /dev/ublk*)"
stop_daemon
[ -z "$(ls /run/dm-user/state)" ] || fail "records: $(ls /run/dm-user/state)"
echo "$KILLS daemons went, no I/O failed"
