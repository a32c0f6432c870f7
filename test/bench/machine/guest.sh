#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The guest of tools/bench: the rows of each part of the benchmark. Results go
# to the shared folder when a part is over; nothing is written there meanwhile.
# usage: guest.sh quick|full PART...
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/bench/machine/measure.sh
source /vm/measure.sh
# shellcheck source=test/bench/machine/devices.sh
source /vm/devices.sh
# shellcheck source=test/bench/machine/snapshots.sh
source /vm/snapshots.sh

readonly RAM_MIB=64
release=$(uname -r)

# use_ram COUNT KIB: RAM disks of that size; the first is the backing device.
use_ram() {
  rmmod brd 2>/dev/null || true
  modprobe brd max_part=0 rd_nr="$1" rd_size="$2"
  BACKING=/dev/ram0
}

# row NAME KIND [ARGUMENTS...]: the part's jobs on a device of that kind.
row() {
  local name=$1 kind=$2
  shift 2
  "up_$kind" "$@"
  measure_row "$name" "${jobs[@]}"
  "down_$kind"
}

# Every way to a device, and the daemon's channels: one line each.
transport_rows() {
  row raw raw
  row linear linear
  row loop-direct loop on
  if [[ $mode == full ]]; then
    row loop-buffered loop off
    row nbdkit nbdkit
    row qemu-storage-daemon qsd
  fi
  if modprobe ublk_drv 2>/dev/null; then
    row ublk daemon --transport ublk
  fi
  row stream stream
  row batch daemon -- --channel batch
  # Linux 6.1 would keep a thread for each device, and the daemon refuses.
  [[ $release == 6.1.* ]] || row uring daemon -- --channel uring
  row remap daemon --direct-io remap
  [[ $mode == quick ]] || row cached daemon --direct-io off
  row redirect redirect 16 "$(sectors_of "$BACKING")"
}

# What no server can do without: see the README. The device is of RAM_MIB, and full.
least_rows() {
  local sectors COUNTING=no
  sectors=$(sectors_of "$BACKING")
  ENGINE=(--ioengine=null --size="${RAM_MIB}m")
  row fio raw
  ENGINE=(--ioengine=io_uring --fixedbufs --registerfiles --nonvectored=1)
  row ring raw
  ENGINE=(--ioengine=libaio)
  row zero zero "$sectors"
  row null null $((sectors * 512))
}

part_transport() {
  local jobs=(rr4k1 rr4k32 rw4k32 sr128k8 sw1m4) WARM=yes
  use_ram 1 $((RAM_MIB * 1024))
  # What has never been written is not read either.
  fio --name=fill --filename=/dev/ram0 --direct=1 --rw=write --bs=1m \
    --refill_buffers --output=/run/fill.out
  transport_rows
  [[ $mode == quick ]] || least_rows
}

# use_slow LATENCY_US [COUNT [PARAMETERS...]]: devices that answer so late,
# anything in parallel; the first is the backing device.
use_slow() {
  local number
  rmmod null_blk 2>/dev/null || true
  modprobe null_blk nr_devices="${2-1}" gb=16 bs=4096 queue_mode=2 irqmode=2 \
    submit_queues=1 hw_queue_depth=512 completion_nsec=$(($1 * 1000)) "${@:3}"
  BACKING=/dev/nullb0
  for ((number = 0; number < ${2-1}; number++)); do
    no_scheduler "/dev/nullb$number"
  done
}

part_latency() {
  local jobs=(rr4k1 rr4k8 rr4k32 rr4k128) latency_us run_ms=$RUN_MS
  COUNTING=no
  for latency_us in 100 1000 50000; do
    PART=latency-$latency_us
    # Forty times what one I/O takes, if that is longer.
    RUN_MS=$((latency_us / 25 > run_ms ? latency_us / 25 : run_ms))
    use_slow "$latency_us"
    transport_rows
  done
  RUN_MS=$run_ms
  PART=latency
  rmmod null_blk
}

# part_extents: reads over a device in more and more pieces. The RAM disk has no
# page of what was never written, so its size costs nothing.
part_extents() {
  local jobs=(rr4k32) sectors=8000000 count counts=(10 100000)
  [[ $mode == quick ]] || counts=(10 1000 100000 1000000)
  COUNTING=no
  use_ram 1 $((sectors / 2))
  row raw raw
  row linear linear
  for count in "${counts[@]}"; do
    row "$count" redirect "$count" "$sectors"
  done
}

# map_ram COUNT: RAM disks through the daemon; sets DEVICE to all of them.
map_ram() {
  local i
  for ((i = 0; i < $1; i++)); do
    echo "device { name: \"d$i\" file { path: \"/dev/ram$i\" } }"
  done >/run/usertab
  dmuserctl up --table /run/usertab --quiet
  use_all /dev/mapper/d "$1"
}

# use_all PREFIX COUNT: sets DEVICE to PREFIX0, PREFIX1..., as fio wants it, under
# short names: it takes 4096 characters.
use_all() {
  local i
  mkdir -p /d
  DEVICE=''
  for ((i = 0; i < $2; i++)); do
    ln -sfn "$1$i" "/d/$i"
    DEVICE+=:/d/$i
  done
  DEVICE=${DEVICE#:}
}

part_devices() {
  local jobs=(rr4k32) count counts=(1 16)
  if [[ $mode == full ]]; then
    counts+=(256)
    # Linux 6.1 has minors for about 115 of them.
    [[ $release != 6.1.* ]] || counts=(1 16 100)
  fi
  COUNTING=no
  use_ram "${counts[-1]}" 4096
  for count in "${counts[@]}"; do
    use_all /dev/ram "$count"
    PIDS=()
    measure_row "raw-$count" "${jobs[@]}"
    start_daemon
    PIDS=("$DAEMON_PID")
    map_ram "$count"
    measure_row "$count" "${jobs[@]}"
    dmuserctl down --table /run/usertab --quiet
    stop_daemon
  done
}

mode=$1
shift
# What runs here is a session, which the scheduler would take for a group of its
# own and account for twice at each switch. Nothing under systemd is.
if [[ -e /proc/sys/kernel/sched_autogroup_enabled ]]; then
  echo 0 >/proc/sys/kernel/sched_autogroup_enabled
fi
mkdir "$RESULTS"
echo "$release" >"$RESULTS/release"
[[ $mode == full ]] || RUN_MS=100
for PART; do
  COUNTING=yes
  "part_${PART//-/_}" "$mode"
  cp -r "$RESULTS"/* /mnt/share
done
