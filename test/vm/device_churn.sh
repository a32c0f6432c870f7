#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: devices that come and go, hundreds of them, in any order and under load,
# cost nothing that stays: no memory, no open file, no record, no failed I/O.
# Method: device_churn.cc, while fio verifies one device that stays. With a
# daemon built with --config=asan (first argument "asan") what it says about
# leaks at its end counts instead of its memory.
# usage: device_churn.sh [asan] [SECONDS [COUNT [SEED [TRANSPORT]]]]
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# What of its memory two ends of the same way may differ by.
growth_kib=256
if [[ ${1-} == asan ]]; then
  shift
  growth_kib=1000000
  export ASAN_OPTIONS=quarantine_size_mb=8:malloc_context_size=10
fi
seconds=${1:-20} count=${2:-256} seed=${3:-1} transport=${4:-dm-user}

mkdir -p /run/disks
mount -t tmpfs -o size=75% tmpfs /run/disks
[ "$transport" != ublk ] || modprobe ublk_drv "ublks_max=$((count + 1))"
cd /run/disks
head -c 262144 /dev/urandom >small.base
cp small.base small.new
for block in 3 17 40; do
  dd if=/dev/urandom of=small.new bs=4k count=1 seek="$block" conv=notrunc \
    2>/dev/null
done
dd if=small.base of=small.new bs=4k count=8 skip=20 seek=50 conv=notrunc \
  2>/dev/null
dmuserctl cow create small.base small.new -o small.cow --quiet
truncate -s 16M stays
start_daemon
dmuserctl map stays --file /run/disks/stays --quiet --transport "$transport"
fio --name=stays --filename=/dev/mapper/stays --direct=1 --ioengine=libaio \
  --iodepth=2 --rw=randrw --bsrange=512-64k --bs_unaligned=0 --size=16M \
  --io_size=1000G --runtime=100000 --verify=md5 --verify_fatal=1 \
  --verify_backlog=64 --thinktime=2000 --eta=never --output=/run/fio.out &
fio_pid=$!
device_churn /run/disks "$count" "$seconds" "$seed" "$transport" \
  "$growth_kib" || fail "device_churn: $(tail -5 /run/dmuserd.log)"
kill -0 "$fio_pid" || fail "fio: $(cat /run/fio.out)"
kill -INT "$fio_pid"
wait "$fio_pid" || true
grep -q 'err= 0' /run/fio.out || fail "fio: $(cat /run/fio.out)"
dmuserctl status stays --json >/run/status.json
grep -q '"errors": 0' /run/status.json || fail "$(cat /run/status.json)"
dmuserctl unmap stays
[ -z "$(ls /run/dm-user/state)" ] ||
  fail "records are left: $(ls /run/dm-user/state)"
left=$(compgen -G '/sys/block/dm-*'; compgen -G '/sys/block/ublkb*') || true
[ -z "$left" ] || fail "devices are left: $left"
stop_daemon
! grep -E 'Sanitizer|error' /run/dmuserd.log || fail "the log"
echo "no failed I/O, nothing left"
