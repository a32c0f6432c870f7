#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a machine that is switched off at any moment of a merge, again and
# again, reads as the new image at every start and ends with it in the base.
# Method: a guest (qemu_kill.sh) merges and reports each step of the merge and
# each request its disks complete; at a random one of these QEMU is killed by
# SIGKILL. Then COW file and base must verify on the host, and the next machine
# compares the whole device and goes on. When the merge is done, all begins
# anew with fresh disks.
#
# What a kill loses: all the guest had in memory, so whatever dmuserd had
# written but not flushed and the guest's kernel had not sent out by itself.
# What the guest's disks had completed stays, flushed or not, because the host
# lives on; that it may get lost too is what merge_log_test.sh is for.
#
# usage: qemu_kill_test.sh KERNEL DMUSERD DMUSERCTL OLD COW NEW [SEED]
#
# More kills, here 300, and a seed, which gives the same choices, not the same
# moments; a failure leaves the disks in the test's outputs:
#   bazel test //test/vm:qemu_kill_test --test_env=DMU_QEMU_KILLS=300 \
#     --test_timeout=3600 --test_arg=SEED
set -euo pipefail
source tools/lib/common.sh

kernel=$1 dmuserd=$2 dmuserctl=$3 old=$4 cow=$5 new=$6
seed=${7:-$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}
readonly KILLS=${DMU_QEMU_KILLS:-20}
# The stretch is such that a merge would take so many kills, but for the
# requests, of which there are about 60 between two steps of the merge.
readonly KILLS_PER_MERGE=20 REQUESTS_MAX=90
RANDOM=$seed
echo "seed $seed"

work=$TEST_TMPDIR
kill=0 inside=0 staged=0 merges=0 machines=0 boot_ms=0 at='' ended=''

fail() {
  local out=${TEST_UNDECLARED_OUTPUTS_DIR:-}
  [[ -z $out ]] || cp --sparse=always "$work"/{base,cow}.img "$out"
  say "FAILED: seed $seed, kill $kill, due after $at bytes and $requests" \
    "requests: $*"
  exit 1
}

# field NAME TEXT: the first number of that name in JSON.
field() {
  local rest=${2#*"\"$1\":"}
  rest=${rest# }
  echo "${rest%%[,\}$'\n']*}"
}

now_ms() { echo $((10#${EPOCHREALTIME/[.,]/} / 1000)); }

fresh_disks() {
  cp --sparse=always --no-preserve=mode "$old" "$work/base.img"
  cp --sparse=always --no-preserve=mode "$cow" "$work/cow.img"
}

# follow: reads what the guest says; kills it when it has merged `stretch` bytes
# more and then completed so many requests.
follow() {
  local line bytes left=$requests state=boots
  at=
  while read -r line; do
    case $line in
      "up "*) boot_ms=$((boot_ms + $(now_ms) - start)) ;;
      *'"merged_bytes":'*)
        bytes=$(field merged_bytes "$line")
        [[ -n $at ]] || at=$((bytes + stretch))
        [[ $state != boots ]] || ((bytes < at)) || state=counts
        ;;
      block_rq_complete*) [[ $state != counts ]] || left=$((left - 1)) ;;
      "right "* | merged) ;;
      *) echo "guest: $line" ;;
    esac
    if [[ $state == counts ]] && ((left <= 0)); then
      kill -9 "$(<"$work/pid")"
      state=killed
    fi
  done
}

# run_machine: boots one and follows it; sets `ended` to the runner's status.
run_machine() {
  local start machine console
  start=$(now_ms)
  rm -f "$work"/{pid,console}
  mkfifo "$work/console"
  tools/vm run --kernel "$kernel" --killable "$work/pid" --timeout 120 \
    --bin "$dmuserd" --bin "$dmuserctl" --add tools/lib/guest-daemon.sh \
    --disk "$work/base.img" --disk "$work/cow.img" --disk "$new,ro" \
    test/vm/qemu_kill.sh "$flush_ms" >"$work/console" 2>&1 &
  machine=$!
  exec {console}<"$work/console"
  follow <&"$console"
  exec {console}<&-
  ended=0
  wait "$machine" || ended=$?
  machines=$((machines + 1))
}

# check_disks: what the kill left, as the host sees it; counts where it hit.
check_disks() {
  local state merged total
  "$dmuserctl" cow verify "$work/cow.img" --base "$work/base.img" --quiet ||
    fail "what it left does not verify"
  state=$("$dmuserctl" cow inspect "$work/cow.img" --json)
  merged=$(field merged_ops "$state") total=$(field total_ops "$state")
  staged_blocks=$(field staged_blocks "$state")
  ((merged == total)) || inside=$((inside + 1))
  ((staged_blocks == 0)) || staged=$((staged + 1))
  echo "kill $kill after $at bytes and $requests requests, flushes of" \
    "$flush_ms ms: $merged of $total ops are merged, $staged_blocks blocks staged"
}

fresh_disks
bytes=$(field total_bytes "$("$dmuserctl" cow inspect "$cow" --json)")
while ((kill < KILLS || ended != 0)); do
  requests=$((RANDOM % REQUESTS_MAX))
  stretch=$((2 * bytes * (RANDOM % 1000) / KILLS_PER_MERGE / 1000))
  flush_ms=$((RANDOM % 100))
  ((kill < KILLS)) || stretch=$bytes requests=0 # to the end
  run_machine
  case $ended in
    0)
      cmp "$work/base.img" "$new" || fail "the merged base is not the new image"
      merges=$((merges + 1))
      fresh_disks
      ;;
    123)
      kill=$((kill + 1))
      check_disks
      ;;
    *) fail "the machine ended with $ended" ;;
  esac
done
((2 * inside >= KILLS)) || fail "only $inside of $KILLS kills hit the merge"
rm "$work"/{base,cow}.img
echo "$KILLS kills, $inside of them in the merge, $staged with a window in" \
  "scratch; $merges merges ended; $machines machines, on average" \
  "$((boot_ms / machines)) ms from start to script"
