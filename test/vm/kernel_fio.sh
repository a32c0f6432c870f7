#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: kill -9 of a daemon that answers out of order, every 300 ms under load,
# fails and corrupts no I/O, and the counters show that requests were given back.
# Method: fio writes and verifies with md5 on a device served by ram_daemon.
#
# fio must never have two I/Os in flight that overlap when one is a write: what
# such a pair leaves behind is undefined, and a daemon that answers in another
# order, or twice after a kill, then looks as if it had lost data. With
# --time_based fio begins to write anew in the midst of what it is about to
# verify; with --io_size it ends each round, verified, before the next.
#
# Usage: kernel_fio.sh MODULE RAM_DAEMON [SECONDS]; runs as root in a machine of
# its own, with fio and dmsetup.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

readonly MODULE=$1 DAEMON=$2 SECONDS_WANTED=${3:-15}
readonly NAME=fio_target SECTORS=65536 # 32 MiB

insmod "$MODULE"
truncate -s $((SECTORS * 512)) /tmp/disk
dmsetup create "$NAME" --noudevsync --table \
  "0 $SECTORS user 0 $SECTORS $NAME 2 orphan_ms forever"

fio --name=verify --filename="/dev/mapper/$NAME" --direct=1 --ioengine=libaio \
  --iodepth=16 --rw=randrw --bsrange=512-64k --blockalign=512 --size=100% \
  --io_size=1T --runtime="$SECONDS_WANTED" --verify=md5 --verify_fatal=1 \
  --verify_backlog=64 --eta=never --output=/run/fio.out &
fio_pid=$!
kills=0
while kill -0 "$fio_pid" 2>/dev/null; do
  "$DAEMON" "$NAME" /tmp/disk &
  DAEMON_PID=$!
  # Most kills hit anywhere; the first hits a daemon with requests in its hands.
  if ((kills == 0)); then
    stop_daemon_in_hand "$NAME"
  else
    pause_ms 300
  fi
  kill_daemon
  kills=$((kills + 1))
done
wait "$fio_pid" || fail_with_fio "$NAME" "fio ended with $?"
check_fio "$NAME"
echo "fio verified over $kills kills: $(dmsetup status --noflush "$NAME")"
dmsetup remove --noudevsync --retry "$NAME"
rmmod dm_user
