#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: what tools/android/dmuser-ota.rc has init do after a boot is what the
# units do under systemd, every service that it starts or waits for is there, and
# dmuserctl takes each of its commands.
# Method: init's language, as far as it is used; a line of another kind fails.
# Usage: android_rc_test.sh DMUSERCTL RC UNIT...
set -euo pipefail
ctl=$PWD/$1 rc=$2
shift 2

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Of the units that have to do with updates, without the program's folder, one in
# a line, sorted.
commands_of_units() {
  grep -lZ '^ExecStart=.*dmuserctl ota ' "$@" | xargs -0 \
    sed -nE 's#^Exec(Start|StartPre)=-?/usr/sbin/(dmuserctl .*)#\2#p' |
    LC_ALL=C sort
}

services=' ' wanted='' section='' commands=''
while read -r word rest; do
  case $section:$word in
    *: | *:\#*) ;;
    *:service)
      section=service
      services+="${rest%% *} "
      commands+="${rest#* }"$'\n'
      ;;
    *:on)
      section=on
      for condition in ${rest//&&/ }; do
        case $condition in
          property:init.svc.*=*)
            condition=${condition#property:init.svc.}
            wanted+="${condition%=*} "
            ;;
          property:sys.boot_completed=1) ;;
          *) fail "on $condition" ;;
        esac
      done
      ;;
    service:disabled | service:oneshot | service:stdio_to_kmsg)
      [[ -z $rest ]] || fail "$word $rest"
      ;;
    service:user | service:group | service:seclabel)
      [[ -n $rest ]] || fail "$word of nobody"
      ;;
    service:ioprio) [[ $rest =~ ^(rt|be|idle)\ [0-7]$ ]] || fail "$word $rest" ;;
    on:start) wanted+="$rest " ;;
    on:exec)
      [[ $rest == '- root root -- '* ]] || fail "$word $rest"
      commands+="${rest#*-- }"$'\n'
      ;;
    *) fail "'$word $rest' in ${section:-no section}" ;;
  esac
done <"$rc"

for service in $wanted; do
  [[ $services == *" $service "* ]] || fail "there is no service $service"
done
[[ -n $commands ]] || fail "no command"
printf '%s' "$commands" | sed 's#^/system/bin/##' | LC_ALL=C sort \
  >"$TEST_TMPDIR/init"
commands_of_units "$@" >"$TEST_TMPDIR/systemd"
diff "$TEST_TMPDIR/systemd" "$TEST_TMPDIR/init" >&2 ||
  fail "init and systemd do not do the same"

# There is no update (13) and no daemon (10); but what was asked for is known.
cd "$TEST_TMPDIR"
mkdir state
while read -r _ line; do
  read -ra words <<<"$line"
  want=10
  [[ ${words[0]} != ota ]] || words+=(--state state) want=13
  got=0
  said=$("$ctl" "${words[@]}" --control control 2>&1) || got=$?
  [[ $got -eq $want ]] || fail "$line ended with $got: $said"
done <init
