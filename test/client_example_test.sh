#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the example of the client library works against the real daemon, and is
# as short as it is said to be.
# Usage: client_example_test.sh EXAMPLE DMUSERD SOURCE
set -euo pipefail
example=$PWD/$1 daemon=$PWD/$2 source=$PWD/$3
# A socket's path is short.
work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid"; rm -rf "$work"' EXIT
cd "$work"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect STATUS TEXT ARGUMENT...
expect() {
  local status=$1 text=$2 got=0
  shift 2
  "$example" "$@" >out 2>&1 || got=$?
  [[ $got -eq $status && $(cat out) == *"$text"* ]] ||
    fail "example $*: $got, $(cat out)"
}

(($(wc -l <"$source") < 60)) || fail "the example has 60 lines or more"
expect 1 'start dmuserd' control
mkfifo ready
"$daemon" --control control --state-dir state --ready-fd 3 3>ready 2>log &
pid=$!
read -r <ready || fail "dmuserd ended: $(cat log)"
expect 0 '0 devices' control
expect 1 'serves no such device' control root
kill "$pid"
wait "$pid" || fail "SIGTERM gives $?"
pid=
