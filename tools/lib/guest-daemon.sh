# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# guest-daemon.sh - what scripts on the machine with the module share: the
# daemon, its figures, checks. Sourced. No sleeps: every wait is for an event.

DAEMON_PID=

# A script's first argument may be the channel of its daemons: --channel=WAY.
DAEMON_FLAGS=()
if [[ ${1-} == --channel=* ]]; then
  DAEMON_FLAGS=(--channel "${1#*=}")
  shift
fi

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# start_daemon [FLAGS] - ends the script unless the daemon says it is ready.
start_daemon() {
  rm -f /run/dmuserd.ready
  mkfifo /run/dmuserd.ready
  dmuserd --ready-fd 3 "${DAEMON_FLAGS[@]}" "$@" 3>/run/dmuserd.ready 2>>/run/dmuserd.log &
  DAEMON_PID=$!
  read -r </run/dmuserd.ready || fail "dmuserd ended: $(tail -5 /run/dmuserd.log)"
}

kill_daemon() {
  kill -9 "$DAEMON_PID"
  wait "$DAEMON_PID" 2>/dev/null || true
}

# stop_daemon_in_hand NAME - stops the daemon (SIGSTOP) at a moment at which it has
# requests of the device that it has not answered. Needs a load.
stop_daemon_in_hand() {
  local fields tries
  for ((tries = 0; ; tries++)); do
    [ "$tries" -lt 1000 ] || fail "there is no load on $1"
    kill -STOP "$DAEMON_PID"
    read -r -a fields < <(dmsetup status --noflush "$1")
    [ "${fields[8]}" -eq 0 ] || break
    kill -CONT "$DAEMON_PID"
    pause_ms 5
  done
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

now_ms() {
  local now=${EPOCHREALTIME/[.,]/}
  echo $((now / 1000))
}

# pause_ms MS - for what is to happen at intervals; to start a program takes longer.
pause_ms() {
  local seconds
  printf -v seconds '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  [ -p /run/never ] || mkfifo /run/never
  read -r -t "$seconds" <>/run/never || true
}

# fail_with_fio NAME TEXT - with what fio and the kernel say.
fail_with_fio() {
  cat /run/fio.out >&2 || true
  dmsetup status --noflush "$1" >&2 || true
  shift
  fail "$*"
}

# check_fio NAME - fio has seen no error in /run/fio.out, the kernel has counted
# none, and requests were given back.
check_fio() {
  local fields
  grep -a -q 'err= 0' /run/fio.out || fail_with_fio "$1" "fio has seen an error"
  read -r -a fields < <(dmsetup status --noflush "$1")
  [ "${fields[12]}" -eq 0 ] || fail_with_fio "$1" "${fields[12]} I/O errors"
  [ "${fields[13]}" -gt 0 ] || fail_with_fio "$1" "no request was given back"
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
