# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# snapshots.sh - the part of tools/bench that reads an update which is not in
# place yet: dm-snapshot and the daemon, at rest and while each merges. Sourced
# by guest.sh.
#
# SNAPSHOT_BASE is the base, SNAPSHOT_COW the COW device; the images are files in
# memory, and nothing of the devices is in the page cache. A merge
# is begun anew with each job, which is short, so that the merge does not end
# before it: status_after says how much was left.
# shellcheck disable=SC2034 # what it sets is for measure.sh

readonly IMAGE_MIB=128 MERGING_MS=40
SNAPSHOT_BASE=/dev/ram0 SNAPSHOT_COW=/dev/ram1

# fresh_base: as it was before a merge.
fresh_base() { write_device /run/old.img "$SNAPSHOT_BASE"; }

# write_device FILE DEVICE
write_device() {
  dd if="$1" of="$2" bs=1M conv=notrunc,fsync 2>/dev/null
  drop_caches
}

up_dm_snapshot() {
  local sectors
  fresh_base
  sectors=$(sectors_of "$SNAPSHOT_BASE")
  dd if=/dev/zero of="$SNAPSHOT_COW" bs=64k count=1 2>/dev/null
  dmsetup create bench --table "0 $sectors snapshot $SNAPSHOT_BASE $SNAPSHOT_COW P 8"
  bench_guest changes /run/old.img /run/new.img /dev/mapper/bench
  DEVICE=/dev/mapper/bench PIDS=()
}
down_dm_snapshot() { dmsetup remove bench; }

# What begins the merge, and tells how much is left of it: for a shell that has
# nothing of this one.
ready_dm_merge() {
  local sectors
  sectors=$(sectors_of "$SNAPSHOT_BASE")
  dmsetup load bench --table "0 $sectors snapshot-merge $SNAPSHOT_BASE $SNAPSHOT_COW P 8"
  echo 'dmsetup suspend bench && dmsetup resume bench' >/run/begin
  echo 'dmsetup status bench' >/run/end
}

# up_snapshot [MAP_ARGUMENTS]
up_snapshot() {
  fresh_base
  write_device /run/update.cow "$SNAPSHOT_COW"
  start_daemon
  dmuserctl map bench --quiet --cow "$SNAPSHOT_COW" --base "$SNAPSHOT_BASE" \
    "$@"
  DEVICE=/dev/mapper/bench PIDS=("$DAEMON_PID")
}
down_snapshot() {
  dmuserctl unmap bench
  stop_daemon
}
ready_merge() {
  echo 'dmuserctl merge bench --quiet' >/run/begin
  echo 'dmuserctl status bench --json' >/run/end
}

# merging_row NAME dm_merge|merge KIND [ARGUMENTS...]: a job, a merge.
merging_row() {
  local name=$1 merge=$2 kind=$3 job
  shift 3
  local COUNTING=no RUN_MS=$MERGING_MS
  for job in "${jobs[@]}"; do
    "up_$kind" "$@"
    "ready_$merge"
    measure_row "$name-$job" "$job"
    rm /run/begin /run/end
    "down_$kind"
  done
}

# snapshot_rows: the part's jobs on an update that is not in place yet.
snapshot_rows() {
  bench_guest images /run/old.img /run/new.img "$IMAGE_MIB"
  dmuserctl cow create /run/old.img /run/new.img -o /run/update.cow --quiet --force
  write_device /run/new.img "$SNAPSHOT_BASE"
  row raw raw
  row linear linear
  row dm-snapshot dm_snapshot
  merging_row dm-snapshot-merging dm_merge dm_snapshot
  row ours snapshot --redirect off
  merging_row ours-merging merge snapshot --redirect off
  row redirect snapshot --redirect on
  merging_row redirect-merging merge snapshot --redirect on
  merged_row
}

# part_snapshot quick|full
part_snapshot() {
  local jobs=(boot rr4k1 rr4k32)
  [[ $1 == full ]] || jobs=(boot)
  use_ram 2 $((IMAGE_MIB * 1024))
  snapshot_rows
}

# part_snapshot_latency: the same where the storage takes its time.
part_snapshot_latency() {
  local jobs=(boot) latency_us number sectors=$((IMAGE_MIB * 2048))
  COUNTING=no
  for latency_us in 100 1000; do
    PART=snapshot-$latency_us
    use_slow "$latency_us" 2 memory_backed=1
    for number in 0 1; do
      dmsetup create "slow$number" \
        --table "0 $sectors linear /dev/nullb$number 0"
      dmsetup mknodes "slow$number"
    done
    SNAPSHOT_BASE=/dev/mapper/slow0 SNAPSHOT_COW=/dev/mapper/slow1
    BACKING=$SNAPSHOT_BASE
    snapshot_rows
    dmsetup remove slow0
    dmsetup remove slow1
  done
  rmmod null_blk
}

# Merged, with redirect: nothing is left for the daemon.
merged_row() {
  up_snapshot --redirect on
  dmuserctl merge bench --wait --quiet
  measure_row merged "${jobs[@]}"
  same /dev/mapper/bench /run/new.img
  down_snapshot
}
