# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# snapshots.sh - the part of tools/bench that reads an update which is not in
# place yet: dm-snapshot and the daemon, at rest and while each merges. Sourced
# by guest.sh.
#
# ram0 is the base, ram1 the COW device; the images are files in memory. A merge
# is begun anew with each job, which is short, so that the merge does not end
# before it: status_after says how much was left.
# shellcheck disable=SC2034 # what it sets is for measure.sh

readonly IMAGE_MIB=128 MERGING_MS=40

# fresh_base: as it was before a merge.
fresh_base() { cp /run/old.img /dev/ram0; }

up_dm_snapshot() {
  local sectors
  fresh_base
  sectors=$(sectors_of /dev/ram0)
  dd if=/dev/zero of=/dev/ram1 bs=64k count=1 2>/dev/null
  dmsetup create bench --table "0 $sectors snapshot /dev/ram0 /dev/ram1 P 8"
  bench_guest changes /run/old.img /run/new.img /dev/mapper/bench
  DEVICE=/dev/mapper/bench PIDS=()
}
down_dm_snapshot() { dmsetup remove bench; }

# What begins the merge, and tells how much is left of it: for a shell that has
# nothing of this one.
ready_dm_merge() {
  local sectors
  sectors=$(sectors_of /dev/ram0)
  dmsetup load bench --table "0 $sectors snapshot-merge /dev/ram0 /dev/ram1 P 8"
  echo 'dmsetup suspend bench && dmsetup resume bench' >/run/begin
  echo 'dmsetup status bench' >/run/end
}

# up_snapshot [MAP_ARGUMENTS]
up_snapshot() {
  fresh_base
  cp /run/update.cow /dev/ram1
  start_daemon
  dmuserctl map bench --quiet --cow /dev/ram1 --base /dev/ram0 "$@"
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

# part_snapshot quick|full
part_snapshot() {
  local jobs=(boot rr4k1 rr4k32)
  [[ $1 == full ]] || jobs=(boot)
  use_ram 2 $((IMAGE_MIB * 1024))
  bench_guest images /run/old.img /run/new.img "$IMAGE_MIB"
  dmuserctl cow create /run/old.img /run/new.img -o /run/update.cow --quiet
  cp /run/new.img /dev/ram0
  row raw raw
  row linear linear
  row dm-snapshot dm_snapshot
  merging_row dm-snapshot-merging dm_merge dm_snapshot
  row ours snapshot
  merging_row ours-merging merge snapshot
  row redirect snapshot --redirect
  merging_row redirect-merging merge snapshot --redirect
  merged_row
}

# Merged, with redirect: nothing is left for the daemon.
merged_row() {
  up_snapshot --redirect
  dmuserctl merge bench --wait --quiet
  measure_row merged "${jobs[@]}"
  same /dev/mapper/bench /run/new.img
  down_snapshot
}
