#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a daemon for root storage needs nothing while it serves: no page of it is
# fetched or made, whatever becomes of the memory around it.
# Method: the kernel's count of the process's faults before and after it has
# served a device, merged another, and lost all caches.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# Minor and major faults of the daemon so far.
faults() {
  local -a stat
  read -r -a stat <"/proc/$DAEMON_PID/stat"
  echo $((stat[9] + stat[11]))
}
load() {
  drop_caches
  fio --name=load --filename=/dev/mapper/f --direct=1 --rw=randrw --bs=64k \
    --iodepth=32 --ioengine=libaio --size=32M --io_size=64M --eta=never \
    >/dev/null
}

start_daemon --root-storage
[ "$(head -c 1 "/proc/$DAEMON_PID/cmdline")" = @ ] || fail "no @ in its name"
[ "$(cat "/proc/$DAEMON_PID/oom_score_adj")" -eq -1000 ] || fail "not spared"
[ "$(readlink "/proc/$DAEMON_PID/ns/mnt")" != "$(readlink /proc/self/ns/mnt)" ] ||
  fail "it shares our mounts"
locked=$(sed -n 's/^VmLck:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$DAEMON_PID/status")
resident=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$DAEMON_PID/status")
# The pages the kernel lends to every process (vdso) count as resident only.
[ $((locked + 64)) -ge "$resident" ] || fail "$locked KiB locked of $resident"
echo "$resident KiB resident, all locked"

modprobe brd rd_nr=1 rd_size=$((32 * 1024))
dmuserctl map f --file /dev/ram0
dmuserctl map snap --cow /dev/vdb --base /dev/vda
# Everything once: what is allocated at the first request is allocated.
load
before=$(faults)
load
same /dev/mapper/snap /dev/vdc
after=$(faults)
[ "$after" -eq "$before" ] || fail "$((after - before)) page faults while serving"
echo "no page fault while serving"
dmuserctl merge snap --wait
same /dev/vda /dev/vdc
dmuserctl unmap snap
dmuserctl unmap f
stop_daemon
