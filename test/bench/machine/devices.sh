# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# devices.sh - the devices tools/bench measures: up_KIND makes one over $BACKING
# and sets DEVICE and PIDS, down_KIND takes it away. Sourced after measure.sh and
# guest-daemon.sh.
# shellcheck disable=SC2034 # what it sets is for measure.sh

# The device all others stand on.
BACKING=''

# no_scheduler DEVICE: device-mapper's targets have none, so none for anybody.
no_scheduler() { echo none >"/sys/block/${1##*/}/queue/scheduler"; }

# until_socket PATH: until a daemon that has just been started listens.
until_socket() {
  local i
  for ((i = 0; i < 2000; i++)); do
    [ ! -S "$1" ] || return 0
    pause_ms 5
  done
  fail "$1 has not come"
}

sectors_of() { blockdev --getsz "$1"; }

up_raw() {
  DEVICE=$BACKING
  PIDS=()
}
down_raw() { :; }

up_linear() {
  dmsetup create bench --table "0 $(sectors_of "$BACKING") linear $BACKING 0"
  DEVICE=/dev/mapper/bench PIDS=()
}
down_linear() { dmsetup remove bench; }

# up_loop on|off: direct I/O below.
up_loop() {
  DEVICE=$(losetup --find --show --direct-io="$1" "$BACKING")
  PIDS=()
  no_scheduler "$DEVICE"
}
down_loop() { losetup -d "$DEVICE"; }

# attach_nbd ARGUMENTS...: to the server that has just been started.
attach_nbd() {
  until_socket /run/nbd.sock
  modprobe nbd nbds_max=1 max_part=0
  nbd-client -unix /run/nbd.sock "$@" /dev/nbd0 >/run/nbd.log 2>&1 ||
    fail "nbd-client: $(cat /run/nbd.log)"
  no_scheduler /dev/nbd0
  DEVICE=/dev/nbd0
}
down_nbd() {
  nbd-client -d /dev/nbd0 >/run/nbd.log 2>&1 || fail "$(cat /run/nbd.log)"
  kill "${PIDS[@]}" 2>/dev/null || true
  wait "${PIDS[@]}" || true
  rm -f /run/nbd.sock
}

# nbdkit has no direct I/O for devices.
up_nbdkit() {
  nbdkit -f -U /run/nbd.sock /vm/nbdkit-file-plugin.so "file=$BACKING" &
  PIDS=($!)
  attach_nbd
}
down_nbdkit() { down_nbd; }

up_qsd() {
  qemu-storage-daemon \
    --blockdev "driver=host_device,node-name=disk,filename=$BACKING,\
cache.direct=on,aio=native" \
    --nbd-server addr.type=unix,addr.path=/run/nbd.sock \
    --export type=nbd,id=export,node-name=disk,name=disk,writable=on &
  PIDS=($!)
  attach_nbd -N disk
}
down_qsd() { down_nbd; }

# The daemon of one message and one system call at a time, for Android's ABI.
up_stream() {
  local sectors
  sectors=$(sectors_of "$BACKING")
  dmsetup create bench --table "0 $sectors user 0 $sectors bench"
  rm -f /run/stream.ready
  mkfifo /run/stream.ready
  direct_daemon bench "$BACKING" >/run/stream.ready &
  PIDS=($!)
  read -r </run/stream.ready || fail "direct_daemon ended"
  DEVICE=/dev/mapper/bench
}
down_stream() {
  dmsetup remove --force bench
  wait "${PIDS[@]}" || fail "direct_daemon ended with $?"
}

# up_daemon MAP_ARGUMENTS [-- DAEMON_ARGUMENTS]: dmuserd on the backing device.
up_daemon() {
  local map=()
  while (($#)) && [[ $1 != -- ]]; do
    map+=("$1")
    shift
  done
  start_daemon "${@:2}"
  dmuserctl map bench --quiet --file "$BACKING" "${map[@]}"
  DEVICE=/dev/mapper/bench PIDS=("$DAEMON_PID")
}
down_daemon() {
  dmuserctl unmap bench
  stop_daemon
}

# up_zero SECTORS: a target that has no work.
up_zero() {
  dmsetup create bench --table "0 $1 zero"
  DEVICE=/dev/mapper/bench PIDS=()
}
down_zero() { dmsetup remove bench; }

# up_null BYTES: dmuserd, without any storage.
up_null() {
  start_daemon --channel batch
  dmuserctl map bench --quiet --null "$1"
  DEVICE=/dev/mapper/bench PIDS=("$DAEMON_PID")
}
down_null() { down_daemon; }

# up_redirect EXTENTS SECTORS: no daemon at all, hence none that could flush.
up_redirect() {
  dmsetup create bench --table \
    "0 $2 user 0 $2 bench 5 no_flush redirect $1 1 $BACKING"
  bench_guest extents bench "$1" "$2"
  DEVICE=/dev/mapper/bench PIDS=()
}
down_redirect() { dmsetup remove bench; }
