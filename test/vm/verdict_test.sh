#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What the runner makes of a kernel's log, by logs written here: no machine is
# started. runner_test sees the same on real kernels where a guest can cause it.
set -euo pipefail
source tools/lib/common.sh
source tools/lib/verdict.sh

log=$TEST_TMPDIR/kernel.log
end='[    9.0] VM-RC=3 VM-TAINT=12288'
cases=0
killable=
# verdict STATUS QEMU_STATUS LINE...: the runner's status for such a log.
verdict() {
  local want=$1 qemu=$2 got=0
  shift 2
  printf '%s\n' '[    0.0] Linux version 6.1' "$@" >"$log"
  judge "$qemu" "$log" 20 $killable 2>"$log.out" || got=$?
  [[ $got -eq $want ]] || {
    printf 'expected %s, found %s for:\n' "$want" "$got"
    cat "$log" "$log.out"
    exit 1
  }
  cases=$((cases + 1))
}

# slipped yes|no LINE...: whether QEMU is to blame, and the machine boots again.
slipped() {
  local want=$1 got=no
  shift
  printf '%s\n' '[    0.0] Linux version 6.1' "$@" >"$log"
  if emulator_slipped "$log"; then got=yes; fi
  [[ $got == "$want" ]] || {
    printf 'slipped: expected %s, found %s for:\n' "$want" "$got"
    cat "$log"
    exit 1
  }
  cases=$((cases + 1))
}
slipped yes '[    2.4] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI'
slipped yes '[    2.4] int3: 0000 [#1] PREEMPT SMP NOPTI' \
  '[    2.5] Kernel panic - not syncing: Fatal exception in interrupt'
slipped no '[    1.9] VM-UP=1.89' '[    2.4] int3: 0000 [#1] PREEMPT SMP NOPTI'
slipped no '[    2.4] Oops: 0002 [#1] PREEMPT SMP NOPTI'

# Only what the system wanted is a reboot.
reboot_is() {
  local want=$1 status=$2 got=no
  shift 2
  printf '%s\n' "$@" >"$log"
  ! wants_reboot "$status" "$log" || got=yes
  [[ $got == "$want" ]] || {
    printf 'a reboot: %s instead of %s, for:\n' "$got" "$want"
    cat "$log"
    exit 1
  }
  cases=$((cases + 1))
}
reboot_is yes 0 '[    9.0] reboot: Restarting system'
reboot_is yes 0 '[    9.0] sysrq: Resetting'
reboot_is no 0 '[    9.0] reboot: Power down'
reboot_is no 0 '[    9.0] Kernel panic - not syncing: x' \
  '[    9.0] reboot: Restarting system'
reboot_is no 7 '[    9.0] reboot: Restarting system'
reboot_is no 137 '[    9.0] reboot: Restarting system'

# One line of every kind of complaint; the script itself ended well.
while read -r line; do
  verdict 126 7 "[    5.0] $line" "$end"
  grep -qF "$line" "$log.out"
done <<'LINES'
WARNING: CPU: 0 PID: 94 at drivers/md/dm.c:2034 dm_destroy+0x1/0x2 [dm_mod]
WARNING: possible circular locking dependency detected
WARNING: suspicious RCU usage
BUG: kernel NULL pointer dereference, address: 0000000000000008
BUG: KASAN: slab-use-after-free in user_map+0x12/0x80 [dm_user]
BUG: KFENCE: out-of-bounds read in user_map+0x12/0x80
BUG: sleeping function called from invalid context at mm/slab.h:494
BUG: scheduling while atomic: fio/99/0x00000002
BUG: Bad page state in process fio  pfn:0a1b2
BUG dm_io (Tainted: G           O      ): Poison overwritten
kernel BUG at mm/slub.c:440!
INFO: task fio:97 blocked for more than 120 seconds.
INFO: lockdep is turned off.
UBSAN: array-index-out-of-bounds in drivers/md/dm.c:12:3
watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [fio:97]
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
refcount_t: underflow; use-after-free.
kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
kmemleak: Memory pool empty, consider increasing its size
kmemleak: Kernel memory leak detector disabled
turning off the locking correctness validator.
ODEBUG: free active (active state 0) object type: timer_list
list_del corruption. prev->next should be ffff, but was dead
LINES

# A complaint at the start of a long log, in text alone.
mapfile -t chatter < <(seq -f '[    6.0] chatter %g of a kernel that goes on' 8000)
verdict 126 7 '[    0.1] INFO: task fio:97 blocked for more than 120 seconds.' \
  "${chatter[@]}" "$end"

# What a healthy kernel with an out-of-tree module prints.
verdict 3 7 \
  '[    0.0] Kernel command line: console=ttyS1 x="BUG: no"' \
  '[    0.0] kfence: initialized - using 2097152 bytes for 255 objects' \
  '[    0.0] rcu: 	RCU CPU stall warnings timeout set to 60 (delay).' \
  '[    1.0] dm_user: loading out-of-tree module taints kernel.' \
  '[    1.0] dm_user: module verification failed: signature missing' \
  '[    2.0] device-mapper: user: no daemon for 3 s, I/O fails' "$end"

# Taint flags speak for themselves; 512 is W.
verdict 126 7 '[    9.0] VM-RC=3 VM-TAINT=12800'

# Dead, by an oops or otherwise; late; and a status that does not fit the log.
verdict 126 0 '[    5.0] Oops: 0002 [#1] PREEMPT SMP NOPTI' \
  '[    5.0] Kernel panic - not syncing: Fatal exception'
verdict 125 0 '[    5.0] Kernel panic - not syncing: Attempted to kill init!'
verdict 125 1
verdict 124 124 '[    5.0] dm_user: loaded'
verdict 124 137 '[    5.0] INFO: task fio:97 blocked for more than 120 seconds.'
grep -q 'blocked for more' "$log.out"
verdict 125 9 "$end"

# Killed from outside, where that is part of the test; nothing else is excused.
killable=killable
verdict 123 137 '[    5.0] dm_user: loaded'
verdict 126 137 '[    5.0] INFO: task fio:97 blocked for more than 120 seconds.'
grep -q 'blocked for more' "$log.out"
verdict 124 124 '[    5.0] dm_user: loaded'
verdict 125 0 '[    5.0] Kernel panic - not syncing: Attempted to kill init!'
killable=

# The script's own statuses.
verdict 0 1 '[    9.0] VM-RC=0 VM-TAINT=0'
verdict 63 127 '[    9.0] VM-RC=63 VM-TAINT=0'
verdict 63 127 '[    9.0] VM-RC=200 VM-TAINT=0'
# A line that looks like the end does not stand for it.
verdict 5 11 '[    4.0] VM-RC=0 VM-TAINT=0' '[    9.0] VM-RC=5 VM-TAINT=0'
echo "$cases cases"
