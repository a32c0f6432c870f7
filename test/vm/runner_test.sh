#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The virtual machine runner itself: what it returns, and that it notices a
# kernel that complains, hangs or dies. Each case boots one machine.
set -euo pipefail

runs=0
# expect STATUS TEXT SCRIPT [FLAGS...]: the runner's status for a guest script
# given as text, and TEXT in what it prints.
expect() {
  local status=$1 text=$2 script=$TEST_TMPDIR/guest.sh output got=0
  printf '%s\n' "$3" >"$script"
  shift 3
  output=$(tools/vm run --timeout 100 "$@" --no-module "$script" one 2>&1) ||
    got=$?
  if [[ $got -ne $status || $output != *"$text"* ]]; then
    printf 'expected status %s and "%s", found status %s:\n%s\n' \
      "$status" "$text" "$got" "$output"
    exit 1
  fi
  runs=$((runs + 1))
  echo "ok: $status for: $(tail -n 1 "$script")"
}

expect 0 "argument one" "echo argument \$1"
expect 7 "" "exit 7"
expect 63 "status 200" "exit 200"
# The log must be read as a whole: the script itself succeeds.
expect 126 "WARNING: CPU: 0" 'echo "WARNING: CPU: 0 PID: 1" >/dev/kmsg'
# Not in the text but in the taint flags: 512 is W, "a warning was printed".
expect 126 "taint flags 512" "echo 512 >/proc/sys/kernel/tainted"
expect 125 "sysrq triggered crash" "echo c >/proc/sysrq-trigger"
expect 124 "did not end within 10 s" "echo begin; read </dev/tty" --timeout 10

# Disks in order, one not writable; a folder shared both ways; 6.12.
share=$TEST_TMPDIR/share
mkdir -p "$share"
truncate -s 8M "$TEST_TMPDIR/a.img"
truncate -s 16M "$TEST_TMPDIR/b.img"
# shellcheck disable=SC2016 # the guest's shell expands it
expect 0 "all is there" '
set -e
[[ $(blockdev --getsize64 /dev/vda) -eq 8388608 ]]
[[ $(blockdev --getro /dev/vdb) -eq 1 ]]
printf marked | dd of=/dev/vda conv=fsync status=none
! dd if=/dev/zero of=/dev/vdb bs=512 count=1 oflag=direct
cp /proc/version /mnt/share/version
dmsetup create nothing --table "0 8 error"
[[ -b /dev/mapper/nothing ]]
uname -r
echo all is there' --kernel 6.12 --disk "$TEST_TMPDIR/a.img" \
  --disk "$TEST_TMPDIR/b.img,ro" --share "$share"
[[ $(head -c 6 "$TEST_TMPDIR/a.img") == marked ]]
grep -q 'Linux version 6\.12' "$share/version"

# Wrong calls are told apart from all of the above, before anything starts.
expect 64 "unknown option" "true" --no-such-option
expect 66 "no such file" "true" --disk "$TEST_TMPDIR/none.img"
if tools/vm run --no-module "$TEST_TMPDIR/none.sh" 2>"$TEST_TMPDIR/error"; then exit 1; fi
grep -q 'none.sh: no such file' "$TEST_TMPDIR/error"
echo "$runs cases"
