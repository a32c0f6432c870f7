#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the module's sources keep the kernel's rules, and each checker is alive:
# a source with one mistake of its kind is found out.
set -euo pipefail

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

tools/kernel-lint || fail "see above"

# mistake NAME COMPLAINT TEXT - TEXT at the end of a source is complained of, in
# the words of the checker that is tried: another's would prove nothing.
mistake() {
  local folder=$TEST_TMPDIR/$1
  mkdir -p "$folder"
  cp -RL dm-user/. "$folder"
  printf '\n%b\n' "$3" >>"$folder/wire.c"
  if tools/kernel-lint --kernel 6.12 "$folder" >"$folder.log" 2>&1; then
    fail "nobody saw the mistake '$1'"
  fi
  grep -qE "$2" "$folder.log" ||
    fail "the mistake '$1' was seen by another checker: $(cat "$folder.log")"
  echo "seen: $1"
}

mistake checkpatch 'space required before the open parenthesis' \
  'static inline int dmu_style(int x)\n{\n\tif(x)\n\t\treturn 1;\n\treturn 0;\n}'
mistake kernel-doc "'x' not described" \
  '/**\n * dmu_doc() - Something\n */\nstatic inline void dmu_doc(int x)\n{\n}'
mistake kernel-doc-wall 'No description found for return value' \
  '/**\n * dmu_doc() - Something\n * @x: number\n */\nstatic inline int dmu_doc(int x)\n{\n\treturn x;\n}'
mistake sparse 'dereference of noderef expression' \
  'int dmu_user(char __user *p);\nint dmu_user(char __user *p)\n{\n\treturn *p;\n}'
mistake warning 'no previous prototype' 'int dmu_w1(int x)\n{\n\treturn x;\n}'
