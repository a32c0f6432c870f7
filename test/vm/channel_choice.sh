#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the daemon takes the best channel that there is and says why not a better
# one; one that is asked for is taken, or refused with a sentence and no trace. It
# works in the way that it says.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# channel_is WAY - of the device, in the status for programs and for people.
channel_is() {
  dmuserctl status d --json | grep -qF "\"channel\": \"$1\"" ||
    fail "expected $1: $(dmuserctl status d --json)"
  dmuserctl status d | grep -qF ", channel $1" ||
    fail "expected $1: $(dmuserctl status d)"
}
# writes_of DAEMON - system calls so far.
writes_of() { sed -n 's/^syscw: //p' "/proc/$1/io"; }
# works_by WAY - by how the answers to 16 requests leave that the daemon finds all at
# once: each in a write, several in one, or in none.
works_by() {
  local fields before count reader
  kill -STOP "$DAEMON_PID"
  dd if=/dev/mapper/d of=/dev/null bs=1M count=1 iflag=direct status=none &
  reader=$!
  until read -r -a fields < <(dmsetup status --noflush d) &&
    [ $((fields[7] + fields[8])) -eq 16 ]; do :; done
  before=$(writes_of "$DAEMON_PID")
  kill -CONT "$DAEMON_PID"
  wait "$reader" || fail "the read ended with $?"
  # The daemon has gone on when it answers this: the last of its calls is counted.
  dmuserctl status d >/dev/null
  count=$(($(writes_of "$DAEMON_PID") - before))
  case $1 in
    stream) [ "$count" -eq 16 ] ;;
    batch) [ "$count" -ge 1 ] && [ "$count" -lt 16 ] ;;
    uring) [ "$count" -eq 0 ] ;;
  esac || fail "$1, and $count writes for 16 answers"
  echo "ok: $1: $count writes"
}
# serves WAY TEXT FLAGS... - so does a daemon with these flags, and logs TEXT.
serves() {
  local way=$1 text=$2
  shift 2
  : >/run/dmuserd.log
  start_daemon "$@"
  dmuserctl map d --null 1048576 --quiet
  channel_is "$way"
  [ "$(grep -c 'd: channel ' /run/dmuserd.log)" -eq 1 ] || fail "$(cat /run/dmuserd.log)"
  grep -qF "d: channel $way: $text" /run/dmuserd.log || fail "$(cat /run/dmuserd.log)"
  works_by "$way"
  dd if=/dev/mapper/d of=/dev/null bs=64k iflag=direct status=none
  dmuserctl unmap d
  stop_daemon
  echo "ok: $*: $way: $text"
}
# refuses WAY TEXT FLAGS... - with that text, and leaves nothing behind.
refuses() {
  local way=$1 text=$2
  shift 2
  start_daemon --channel "$way" "$@"
  expect 4 "--channel $way: $text" dmuserctl map d --null 1048576 --quiet
  dmsetup info d >/dev/null 2>&1 && fail "a device is left: $(dmsetup ls)"
  [ ! -e /run/dm-user/state/d ] || fail "a record is left"
  stop_daemon
}

# file_by WAY - how the daemon serves a disk past the page cache by itself.
file_by() {
  modprobe brd rd_nr=1 rd_size=1024
  start_daemon
  dmuserctl map d --file /dev/ram0 --quiet
  channel_is "$1"
  dmuserctl unmap d
  stop_daemon
}

file_by batch
release=$(uname -r)
serves stream "asked for" --channel stream
serves batch "asked for" --channel batch
if [[ $release == 6.1.* ]]; then
  serves batch "this kernel's io_uring would keep a thread"
  refuses uring "this kernel's io_uring would keep a thread"
else
  serves uring "the best there is"
  serves uring "asked for" --channel uring
  serves batch "the daemon has no io_uring" --io sync
  refuses uring "the daemon has no io_uring" --io sync
fi
# The next daemon may take another.
start_daemon --channel stream
dmuserctl map d --null 1048576 --quiet
channel_is stream
start_daemon --take-over --channel batch
channel_is batch
start_daemon --take-over
if [[ $release == 6.1.* ]]; then channel_is batch; else channel_is uring; fi
start_daemon --take-over --channel stream
channel_is stream
dmuserctl unmap d
stop_daemon
code=0
timeout 30 dmuserd --channel fast 2>/run/usage.out || code=$?
[ "$code" -eq 2 ] || fail "a wrong --channel ends with $code"
grep -qF 'expected auto, uring, batch or stream' /run/usage.out || fail "$(cat /run/usage.out)"
