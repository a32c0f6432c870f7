#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs tidy.sh on this workspace, after seeing that it finds one breach of each
# kind in a tree made for it.
set -euo pipefail

# The links of a test's inputs lead to the workspace itself.
workspace=$(dirname "$(readlink -f WORKSPACE)")
tidy=$workspace/test/tidy.sh
bad=$TEST_TMPDIR/bad
rm -rf "$bad"
mkdir -p "$bad"/{daemon/cow,daemon/io,dm-user,test,tools/client}
cp "$workspace/.clang-format" "$bad"

expect_only() {
  local text=$1 output
  if output=$("$tidy" "$bad" 2>&1); then
    echo "tidy.sh did not find: $text"
    exit 1
  fi
  if [[ $output != *"$text"* || $output != *$'\n1 breaches' ]]; then
    printf 'expected one breach, %s, found:\n%s\n' "$text" "$output"
    exit 1
  fi
}

readonly APACHE='// SPDX-License-Identifier: Apache-2.0'
readonly GPL='// SPDX-License-Identifier: GPL-2.0-only'

# try TEXT FILE LINE...: a file that must be the only breach.
try() {
  local text=$1 file=$bad/$2
  shift 2
  printf '%s\n' "$@" >"$file"
  expect_only "$text"
  rm "$file"
  echo "ok: $text"
}

"$tidy" "$bad"
try "daemon/cow/a.h: the first line" daemon/cow/a.h '// Text.'
try "daemon/cow must not include daemon/io" daemon/cow/a.cc "$APACHE" \
  '#include "daemon/io/loop.h"'
try "tools/client must not include tools" tools/client/a.cc "$APACHE" \
  '#include "tools/dm.h"'
try "only tests include test/" tools/a.cc "$APACHE" '#include "test/fake.h"'
try "compat.h only" dm-user/a.c "$GPL" '#if LINUX_VERSION_CODE < 1' '#endif'
try "not formatted" test/a.cc "$APACHE" 'int  a;'
try "no exceptions" daemon/io/a.cc "$APACHE" '#include <iostream>'
# shellcheck disable=SC2016 # the breach itself
try "shellcheck" tools/a.sh '#!/bin/bash' "${APACHE/\/\//#}" 'echo $1'
mapfile -t long < <(yes '// A line.' | head -n 800)
try "801 lines" daemon/io/a.h "$APACHE" "${long[@]}"

"$tidy" "$workspace"
