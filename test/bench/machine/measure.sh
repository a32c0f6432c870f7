# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# measure.sh - how the guest of tools/bench measures jobs on one device; the
# README says what the figures mean. Sourced.
#
# A job runs twice: once for the instructions, with nothing else switched on, and
# once while the kernel counts system calls, wake-ups and switches, which costs
# instructions. One fio runs them all, one after the other: to start it costs
# more than a job. What is found is kept as it is and read on the host, in
# RESULTS/PART/ROW; RESULTS/order has the rows as they were measured.
#   fio.json            all jobs; the counted ones are called counted-JOB
#   anonymous_kib       of the daemon
#   JOB/daemon_ns_{before,after}       instructions of the daemon, from the first
#   JOB/{calls,wakes,switches,threads} from the second; threads: the daemon's

readonly RESULTS=/run/results
# Where the current device is, whose processes serve it, and how long a job runs,
# in ms of guest time: a million instructions each.
DEVICE='' PIDS=() PART='' RUN_MS=160 COUNT_MS=40 COUNTING=yes
# Whether the device is read once first, so that what is kept in the page cache is
# there, and jobs do not mix what is with what is not.
WARM=no
# How fio comes to the device.
ENGINE=(--ioengine=libaio)

declare -A JOBS=(
  [rr4k1]='--rw=randread --bs=4k --iodepth=1'
  [rr4k8]='--rw=randread --bs=4k --iodepth=8'
  [rr4k32]='--rw=randread --bs=4k --iodepth=32'
  [rr4k128]='--rw=randread --bs=4k --iodepth=128'
  # What is left in the page cache is written at the end, in the job's time.
  [rw4k32]='--rw=randwrite --bs=4k --iodepth=32 --end_fsync=1'
  [sr128k8]='--rw=read --bs=128k --iodepth=8'
  [sw1m4]='--rw=write --bs=1m --iodepth=4 --end_fsync=1'
  # A system that starts: files here and there, read in pieces of all sizes.
  [boot]='--rw=randread --bssplit=4k/50:16k/20:32k/15:128k/15
    --percentage_random=60 --iodepth=4'
)

# job_words FOLDER JOB bare|counting: adds the job to `words`.
job_words() {
  local options name=$2 ms=$RUN_MS sample="$1/$2 $3"
  if [[ $3 == counting ]]; then
    name=counted-$2
    ms=$COUNT_MS
  fi
  read -r -d '' -a options <<<"${JOBS[$2]}" || true
  words+=(--name="$name" --stonewall --filename="$DEVICE" --direct=1
    "${ENGINE[@]}" --norandommap --time_based --runtime="${ms}ms"
    "${options[@]}" --exec_prerun="sh /vm/sample.sh begin $sample"
    --exec_postrun="sh /vm/sample.sh end $sample")
}

# measure_row ROW JOB...: the jobs on the current device.
measure_row() {
  local folder=$RESULTS/$PART/$1 words=() job pid up _
  mkdir -p "$folder"
  echo "$PART $1" >>"$RESULTS/order"
  printf '%s\n' "${PIDS[@]}" >/run/pids
  words+=(--name=warm --filename="$DEVICE" --direct=1 --rw=read --bs=1m)
  [[ $WARM == yes ]] || words=()
  for job in "${@:2}"; do job_words "$folder" "$job" bare; done
  if [[ $COUNTING == yes ]]; then
    for job in "${@:2}"; do job_words "$folder" "$job" counting; done
  fi
  fio --eta=never --output-format=json --output="$folder/fio.json" \
    "${words[@]}" ||
    fail "$PART $1: fio ended with $?: $(head -n 5 "$folder/fio.json")"
  ! grep '"error" : [^0]' "$folder/fio.json" || fail "$PART $1: I/O errors"
  for pid in "${PIDS[@]}"; do
    sed -n 's/^Anonymous: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup"
  done >"$folder/anonymous_kib"
  read -r up _ </proc/uptime
  echo "$up $PART $1"
}
