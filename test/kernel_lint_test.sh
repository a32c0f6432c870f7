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

# mistake NAME TEXT - TEXT at the end of a source is complained of.
mistake() {
  local folder=$TEST_TMPDIR/$1
  mkdir -p "$folder"
  cp -RL dm-user/. "$folder"
  printf '\n%b\n' "$2" >>"$folder/wire.c"
  if tools/kernel-lint "$folder" >"$folder.log" 2>&1; then
    fail "nobody saw the mistake '$1'"
  fi
  echo "seen: $1"
}

mistake checkpatch 'int dmu_style(int x);\nint dmu_style(int x)\n{\n\tif(x)\n\t\treturn 1;\n\treturn 0;\n}'
mistake kernel-doc '/**\n * dmu_doc() - Something\n */\nint dmu_doc(int x);\nint dmu_doc(int x)\n{\n\treturn x;\n}'
mistake sparse 'int dmu_user(char __user *p);\nint dmu_user(char __user *p)\n{\n\treturn *p;\n}'
mistake warning 'int dmu_w1(int x)\n{\n\treturn x;\n}'
