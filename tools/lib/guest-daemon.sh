# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# guest-daemon.sh - what scripts on the machine with the module share: the
# daemon, its figures, checks. Sourced. No sleeps: every wait is for an event.

DAEMON_PID=

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# start_daemon [FLAGS] - ends the script unless the daemon says it is ready.
start_daemon() {
  rm -f /run/dmuserd.ready
  mkfifo /run/dmuserd.ready
  dmuserd --ready-fd 3 "$@" 3>/run/dmuserd.ready 2>>/run/dmuserd.log &
  DAEMON_PID=$!
  read -r </run/dmuserd.ready || fail "dmuserd ended: $(tail -5 /run/dmuserd.log)"
}

kill_daemon() {
  kill -9 "$DAEMON_PID"
  wait "$DAEMON_PID" 2>/dev/null || true
}

stop_daemon() {
  kill "$DAEMON_PID"
  wait "$DAEMON_PID" || fail "dmuserd ended with $? on SIGTERM"
}

# The first number of that name in the daemon's status.
status_number() {
  dmuserctl status --json | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" | head -n 1
}

# wait_merged_bytes NAME BYTES - until so much is merged, by the daemon's
# events; also returns when the merge is done.
wait_merged_bytes() {
  local name=$1 want=$2 line bytes
  while read -r line; do
    bytes=${line##*\"merged_bytes\":}
    bytes=${bytes%%[,\}]*}
    [ "$bytes" -lt "$want" ] || break
  done < <(dmuserctl status "$name" --watch --json 2>/dev/null)
}

# slow_flushes NAME DEVICE FIRST SECTORS MS - /dev/mapper/NAME, a part of the
# device whose flushes take so long as on a slow disk: a merge lasts long enough
# to be hit anywhere, between any two of its steps, not only before or after it.
slow_flushes() {
  local part="$2 $3"
  modprobe dm_delay
  dmsetup create "$1" --table "0 $4 delay $part 0 $part 0 $part $5"
  dmsetup mknodes "$1"
}

drop_caches() {
  echo 3 >/proc/sys/vm/drop_caches
}

# same A B - the two files or devices have the same bytes.
same() {
  drop_caches
  cmp "$1" "$2" || fail "$1 and $2 differ"
}

# expect CODE TEXT COMMAND... - the exit code, and TEXT in what it says.
expect() {
  local code=$1 text=$2 got=0
  shift 2
  "$@" >/run/expect.out 2>&1 || got=$?
  [ "$got" -eq "$code" ] ||
    fail "'$*' ended with $got instead of $code: $(cat /run/expect.out)"
  grep -qF -- "$text" /run/expect.out ||
    fail "'$*' does not say '$text': $(cat /run/expect.out)"
  echo "ok: $(head -n 1 /run/expect.out)"
}
