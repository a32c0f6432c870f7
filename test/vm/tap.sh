# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# tap.sh - Test Anything Protocol for guest scripts. Sourced. The first step that
# fails ends the script: those behind it build upon it.

TAP_STEPS=0

# step TEXT COMMAND... - "ok N - TEXT" if the command succeeds; else what it said.
step() {
  local text=$1 status=0
  shift
  TAP_STEPS=$((TAP_STEPS + 1))
  "$@" >/run/step.out 2>&1 || status=$?
  if [ "$status" -eq 0 ]; then
    echo "ok $TAP_STEPS - $text"
    return
  fi
  echo "not ok $TAP_STEPS - $text"
  echo "# '$*' ended with $status"
  sed 's/^/# /' /run/step.out
  exit 1
}

# step_said - what the last step said, as a remark.
step_said() {
  sed 's/^/# /' /run/step.out
}

# tap_end - the plan, behind the steps. A script that ends before it has failed.
tap_end() {
  echo "1..$TAP_STEPS"
}
