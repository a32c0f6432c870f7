# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What a run of a virtual machine means: from QEMU's status and the kernel's
# log to the runner's status. Sourced.
#
# A log counts as bad by its text and by the kernel's own taint flags: either
# alone could miss a case.

readonly VM_KILLED=123 VM_TIMEOUT=124 VM_DIED=125 VM_BAD_LOG=126

# Text of the kernel's complaints about itself.
bad_log_pattern() {
  local patterns=(
    'WARNING:' 'BUG:' 'BUG ' 'kernel BUG at' 'Oops' 'Call Trace:'
    'general protection' 'double fault' 'unable to handle'
    'KASAN:' 'KFENCE:' 'KCSAN:' 'UBSAN:'
    'kmemleak: [1-9]' 'kmemleak: .*(disabled|empty)'
    'refcount_t:' 'Bad page state' 'list_(add|del) corruption'
    'possible (circular|recursive) locking' 'possible deadlock'
    'inconsistent lock state' 'bad unlock balance' 'held lock freed'
    'suspicious RCU usage' 'lock inversion' 'INFO: lockdep'
    'locking correctness validator' 'INFO: trying to register'
    'blocked for more than' 'soft lockup' 'hard LOCKUP' 'rcu.*stall'
    'scheduling while atomic' 'sleeping function called'
    'ODEBUG:' 'workqueue lockup' 'exited with (irqs|preempt)'
  )
  local IFS='|'
  printf '%s\n' "${patterns[*]}"
}

# Lines a healthy kernel prints that the pattern would match: its own command
# line and set-up messages.
log_lines() {
  sed -E '/Kernel command line:|rcu:.*(timeout|delay)|kernel parameter/d' "$1"
}

# print_excerpt LOG PATTERN: the first match with some lines around it.
print_excerpt() {
  log_lines "$1" | awk -v pattern="$2" '
    { lines[NR] = $0 }
    !first && $0 ~ pattern { first = NR }
    END {
      from = first > 5 ? first - 5 : 1
      to = first + 50 < NR ? first + 50 : NR
      for (i = from; i <= to; i++) print "  | " lines[i]
    }' >&2
}

# Taint flags that mean trouble: bad page, died, warned, soft lockup.
taint_is_bad() { (($1 & (1 << 5 | 1 << 7 | 1 << 9 | 1 << 14))); }

# wants_reboot QEMU_STATUS LOG: whether the machine ended because its system
# wanted to boot again, by itself or by sysrq; not after a panic.
wants_reboot() {
  [[ $1 -eq 0 ]] &&
    grep -a -qE 'reboot: Restarting system|sysrq: Resetting' "$2" &&
    ! grep -a -q 'Kernel panic' "$2"
}

# emulator_slipped LOG: whether the kernel died at boot of a breakpoint that it
# had taken away by then. While it patches its code, another emulated processor may
# still run what stood there before: one boot of two processors in forty, with QEMU
# 7.2. Nothing of ours has run before the mark.
emulator_slipped() {
  grep -a -qE 'int3: 0000 \[#1\]' "$1" && ! grep -a -q 'VM-UP=' "$1"
}

# judge QEMU_STATUS LOG LIMIT_SECONDS [killable]: prints what is wrong, returns
# the runner's status. killable: that QEMU was killed is nothing wrong.
judge() {
  local status=$1 log=$2 limit=$3 killable=${4:-}
  local marker rc='' taint=0 pattern bad=no
  pattern=$(bad_log_pattern)
  # The last line counts: a script may have printed such text before.
  marker=$(grep -a -oE 'VM-RC=[0-9]+ VM-TAINT=[0-9]+' "$log" | tail -n 1) ||
    marker=
  if [[ -n $marker ]]; then
    rc=${marker#VM-RC=}
    rc=${rc%% *}
    taint=${marker##*=}
  fi
  # Not grep -q: it leaves at the first match, and then the pipe's other end
  # dies and pipefail turns the match into a failure.
  if log_lines "$log" | grep -a -E "$pattern" >/dev/null ||
    taint_is_bad "$taint"; then
    bad=yes
  fi

  if [[ $status -eq 137 && -n $killable && $bad == no ]]; then
    return "$VM_KILLED"
  fi
  if [[ $status -eq 137 && -n $killable ]]; then
    say "the kernel complained before it was killed:"
    print_excerpt "$log" "$pattern"
    return "$VM_BAD_LOG"
  fi
  if ((status == 124 || status == 137)); then
    say "stopped: the guest did not end within $limit s"
    if [[ $bad == yes ]]; then
      print_excerpt "$log" "$pattern"
    else
      tail -n 15 "$log" | sed 's/^/  | /' >&2
    fi
    return "$VM_TIMEOUT"
  fi
  if [[ -z $rc ]] || ((status % 2 == 0)); then
    if [[ $bad == yes ]] && grep -a -qE 'Oops|BUG:|general prot' "$log"; then
      say "the guest's kernel crashed:"
      print_excerpt "$log" "$pattern"
      return "$VM_BAD_LOG"
    fi
    say "the guest died (QEMU's status $status); its log:"
    if grep -a -q 'Kernel panic' "$log"; then
      print_excerpt "$log" 'Kernel panic'
    else
      tail -n 40 "$log" | sed 's/^/  | /' >&2
    fi
    return "$VM_DIED"
  fi
  if [[ $bad == yes ]]; then
    say "the kernel complained (taint flags $taint):"
    print_excerpt "$log" "$pattern"
    return "$VM_BAD_LOG"
  fi
  if ((rc > 63)); then
    say "the guest script ended with status $rc, given as 63"
    return 63
  fi
  if ((status != 2 * rc + 1)); then
    say "the log says status $rc but QEMU ended with $status"
    return "$VM_DIED"
  fi
  return "$rc"
}
