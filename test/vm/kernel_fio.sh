#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: the daemon is killed every 300 ms while fio writes and verifies
# with md5. No I/O may fail, none may read back wrong, and the counters must
# show that requests were given back.
#
# Usage: kernel_fio.sh MODULE RAM_DAEMON; runs as root in a machine of its own,
# with fio and dmsetup.
set -eu
module=$1
daemon=$2
name=fio_target
sectors=65536 # 32 MiB
seconds=15

insmod "$module"
truncate -s $((sectors * 512)) /tmp/disk
dmsetup create "$name" --noudevsync --table \
  "0 $sectors user 0 $sectors $name 2 orphan_ms forever"
device=/dev/dm-$(dmsetup info -c --noheadings -o minor "$name")

# Starts daemons one after another, and kills them, until told to stop.
(
  trap 'stop=1' TERM
  stop=
  kills=0
  while [ -z "$stop" ]; do
    "$daemon" "$name" /tmp/disk &
    pid=$!
    sleep 0.3
    kill -9 "$pid"
    wait "$pid" || true
    kills=$((kills + 1))
  done 2>/dev/null
  echo "killed the daemon $kills times"
) &
supervisor=$!

status=0
fio --name=verify --filename="$device" --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-64k --blockalign=512 --size=100% \
  --verify=md5 --verify_fatal=1 --verify_backlog=64 --time_based \
  --runtime="$seconds" --eta=never --minimal >/tmp/fio.log || status=$?
kill -TERM "$supervisor"
wait "$supervisor"

line=$(dmsetup status --noflush "$name")
echo "$line"
# Fields behind "0 <sectors> user": see the format of the status line.
# shellcheck disable=SC2086 # fields are wanted
set -- $line
shift 3
errors=${10}
given_back=${11}
[ "$status" -eq 0 ] || { echo "fio failed: $status"; cat /tmp/fio.log; exit 1; }
[ "$errors" -eq 0 ] || { echo "I/O errors: $errors"; exit 1; }
[ "$given_back" -gt 0 ] || { echo "no request was given back"; exit 1; }

dmsetup remove --noudevsync --retry "$name"
rmmod dm_user
