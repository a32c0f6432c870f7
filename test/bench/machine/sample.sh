#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What fio runs before and after each job of tools/bench; see measure.sh.
# usage: sample.sh begin|end FOLDER bare|counting
#
# /run/pids has the processes that serve the device. Where there is a /run/begin,
# it is run just before the job, and /run/end behind it, whose output is kept.
TRACING=/sys/kernel/debug/tracing/events

# daemon_ns FILE: what their threads have used.
daemon_ns() {
  sum=0
  while read -r pid && [ -n "$pid" ]; do
    for file in /proc/"$pid"/task/*/schedstat; do
      # A thread may end meanwhile.
      read -r used _ <"$file" || continue
      sum=$((sum + used))
    done
  done </run/pids
  echo "$sum" >"$1"
}

# count FILE EVENT KEY: what is counted, and how it is kept.
begin_count() {
  echo "hist:keys=$3:size=4096" >"$TRACING/$2/trigger"
}
end_count() {
  cat "$TRACING/$2/hist" >"$folder/$1"
  echo "!hist:keys=$3:size=4096" >"$TRACING/$2/trigger"
}
each_count() {
  "$1" calls raw_syscalls/sys_enter common_pid
  "$1" wakes sched/sched_wakeup pid
  "$1" switches sched/sched_switch next_pid
}

folder=$2
case $1-$3 in
  begin-bare)
    mkdir -p "$folder"
    [ ! -e /run/begin ] || sh /run/begin
    daemon_ns "$folder/daemon_ns_before"
    ;;
  end-bare)
    daemon_ns "$folder/daemon_ns_after"
    [ ! -e /run/end ] || sh /run/end >"$folder/status_after"
    ;;
  begin-counting) each_count begin_count ;;
  end-counting)
    each_count end_count
    while read -r pid && [ -n "$pid" ]; do
      ls "/proc/$pid/task"
    done </run/pids >"$folder/threads"
    ;;
esac
