#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# demo-guest.sh - the demo's main job, on the machine that has the module:
#   demo-guest.sh update BASE COW DIR KILLS [--quiet]
#                                        serve, compare, merge, kill, compare
#   demo-guest.sh compare BASE IMAGE     after a reboot: base against new image
#
# BASE and COW are block devices. DIR holds new.manifest; results go to
# DIR/result as "key value" lines.
set -euo pipefail

# shellcheck source=tools/lib/guest-daemon.sh
source "$(dirname "$0")/guest-daemon.sh"

readonly NAME=demo
readonly MOUNT=/run/dm-user-demo
DIR=

# Milliseconds since boot: the same clock for all.
now_ms() {
  local up _
  read -r up _ </proc/uptime
  echo $((10#${up/./} * 10))
}

result() {
  echo "$1 $2" >>"$DIR/result"
}

# Every file of the mounted tree against the manifest, from the device and not
# from the page cache.
compare_files() {
  echo 1 >/proc/sys/vm/drop_caches
  grep -v '^link ' "$DIR/new.manifest" >/run/manifest.files
  grep '^link ' "$DIR/new.manifest" >/run/manifest.links || true
  # Each step by itself: callers test the result, which turns set -e off.
  (
    cd "$MOUNT" || exit 1
    sha256sum --quiet --strict -c /run/manifest.files || exit 1
    find . -type l -printf 'link %p -> %l\n' | LC_ALL=C sort |
      cmp - /run/manifest.links || exit 1
    found=$(find . -type f -not -path './lost+found/*' | wc -l)
    listed=$(wc -l </run/manifest.files)
    [ "$found" -eq "$listed" ] || fail "$found files, the new tree has $listed"
  )
}

# Goes over all files again and again until the merge is done, then once more.
read_until_merged() {
  local rounds=0
  while :; do
    local last=0
    [ -e /run/merged ] && last=1
    compare_files || return 1
    rounds=$((rounds + 1))
    [ "$last" -eq 1 ] && break
  done
  echo "$rounds" >/run/reader.rounds
}

# kill_and_restart KILLS TOTAL - kills the daemon so many times while it merges,
# at random places that are spread over what is left.
kill_and_restart() {
  local kills=$1 total=$2 kill merged=0 at
  for ((kill = 1; kill <= kills; kill++)); do
    at=$(((total - merged) / (kills - kill + 2)))
    at=$((merged + at * (500 + RANDOM % 500) / 1000))
    wait_merged_bytes "$NAME" "$at"
    kill_daemon
    start_daemon
    merged=$(status_number merged_bytes)
    echo "killed the daemon in the merge and started it again:" \
      "$((merged >> 20)) of $((total >> 20)) MiB are merged"
    [ "$merged" -lt "$total" ] || fail "the merge had ended before that kill"
  done
}

update() {
  local base=$1 cow=$2 kills=$4 start total bar=()
  [ -z "${5-}" ] || bar=("$5")
  mkdir -p "$MOUNT"
  start_daemon
  result idle_kib $(($(status_number anonymous_bytes) / 1024))

  start=$(now_ms)
  dmuserctl map "$NAME" --cow "$cow" --base "$base" >/dev/null
  result map_ms $(($(now_ms) - start))
  mount -t ext4 -o ro "/dev/mapper/$NAME" "$MOUNT"
  start=$(now_ms)
  compare_files
  result compare_ms $(($(now_ms) - start))
  result compare_bytes "$(du -sb --apparent-size "$MOUNT" | cut -f1)"
  result serving_kib $(($(status_number anonymous_bytes) / 1024))
  echo "every file reads as in the new tree"

  rm -f /run/merged
  read_until_merged &
  local reader=$!
  start=$(now_ms)
  dmuserctl merge "$NAME"
  total=$(status_number total_bytes)
  kill_and_restart "$kills" "$total"
  result merging_kib $(($(status_number anonymous_bytes) / 1024))
  dmuserctl merge "$NAME" --wait "${bar[@]}"
  result merge_ms $(($(now_ms) - start))
  result merge_bytes "$total"
  touch /run/merged
  wait "$reader" || fail "a file read wrong while the merge went on"
  result reader_rounds "$(cat /run/reader.rounds)"
  echo "merged; the reader saw the new tree all the while"

  local errors
  errors=$(status_number errors)
  [ "$errors" -eq 0 ] || fail "$errors requests failed"
  umount "$MOUNT"
  dmuserctl unmap "$NAME"
  stop_daemon
  sync
}

compare() {
  cmp "$1" "$2" || fail "the merged base differs from the new image"
  echo "the base is the new image, bit by bit"
}

verb=${1-}
shift
case $verb in
  update)
    DIR=$3
    update "$@"
    ;;
  compare)
    compare "$1" "$2"
    ;;
  *) fail "usage: demo-guest.sh update BASE COW DIR | compare BASE IMAGE" ;;
esac
