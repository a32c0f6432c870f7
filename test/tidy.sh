#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks what the sources must keep to and no compiler checks: licences, the
# direction of includes, sizes, format, shell scripts. Prints every breach and
# ends with status 1 if there is one.
#
# usage: test/tidy.sh [ROOT]
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"

# Folders of the daemon and of its client library, and those each may include
# beside itself. What is not here may include nothing of ours; main.cc ties all
# together.
declare -A MAY_INCLUDE=(
  [daemon/base]=""
  [daemon/block]="daemon/base"
  [daemon/cow]="daemon/base"
  [daemon/io]="daemon/base"
  [daemon/merge]="daemon/base daemon/cow"
  [daemon/channel]="daemon/base daemon/block daemon/io dm-user/uapi"
  [daemon/channel/ublk]="daemon/base daemon/block daemon/io"
  [daemon/backend]="daemon/base daemon/block daemon/cow daemon/io daemon/merge"
  [daemon/device]="daemon/base daemon/block daemon/io proto"
  [daemon/control]="daemon/base daemon/device daemon/io proto"
  [tools/client]="daemon/control daemon/io proto"
)
readonly MAX_LINES=800 MAX_TEST_LINES=1500

breaches=0
breach() {
  printf '%s\n' "$*"
  breaches=$((breaches + 1))
}

# All source files, without what builds leave behind.
files() {
  find . \( -name .git -o -name 'bazel-*' -o -name LICENSES -o -name __pycache__ \) -prune -o \
    -type f ! -name '*.mod' ! -name '*.mod.c' ! -name '*.o' ! -name '*.ko' \
    ! -name '*.cmd' ! -name Module.symvers ! -name modules.order -print |
    sed 's#^\./##' | LC_ALL=C sort
}

# The licence a path must name, empty for files that carry none.
licence_of() {
  case $1 in
    dm-user/uapi/*.h) echo 'GPL-2.0-only WITH Linux-syscall-note' ;;
    dm-user/*.[ch] | dm-user/*.rst | dm-user/Kbuild | dm-user/Makefile | \
      dm-user/dkms.conf)
      echo 'GPL-2.0-only'
      ;;
    *.md | .gitignore) ;;
    *) echo 'Apache-2.0' ;;
  esac
}

check_licence() {
  local licence line
  licence=$(licence_of "$1")
  [[ -n $licence ]] || return 0
  line=$(sed -n '/^#!/d; s/ \*\/$//; p; q' "$1")
  # A script's first line is the interpreter's.
  [[ $line == *"SPDX-License-Identifier: $licence" ]] ||
    breach "$1: the first line must be SPDX-License-Identifier: $licence"
}

check_length() {
  local limit=$MAX_LINES lines
  [[ $1 != test/* ]] || limit=$MAX_TEST_LINES
  lines=$(wc -l <"$1")
  ((lines <= limit)) || breach "$1: $lines lines; at most $limit"
}

check_kernel_version() {
  [[ $1 == dm-user/compat.h ]] ||
    ! grep -nE '\b(LINUX_VERSION_CODE|KERNEL_VERSION)\b' "$1" /dev/null ||
    breach "$1: kernel versions are compared in dm-user/compat.h only"
}

check_includes() {
  local folder=${1%/*} allowed from
  while read -r from; do
    [[ $from != test && $from != test/* ]] || [[ $1 == test/* ]] ||
      breach "$1: includes $from; only tests include test/"
    # Libraries are named by their own folders: absl/, gtest/.
    [[ $from == daemon/* || $from == proto || $from == dm-user/* ||
      $from == tools || $from == tools/* ]] || continue
    case $1 in
      daemon/main.cc | daemon/options.*)
        [[ $from != tools* ]] || breach "$1: includes $from"
        ;;
      daemon/* | tools/client/*)
        allowed=" $folder ${MAY_INCLUDE[$folder]-} "
        [[ $allowed == *" $from "* ]] ||
          breach "$1: $folder must not include $from"
        ;;
    esac
  done < <(sed -nE 's/^[[:space:]]*#[[:space:]]*include "([^"]+)\/[^"/]+".*/\1/p' \
    "$1")
  # Kernel C includes its neighbours; all else is named from the root.
  [[ $1 == dm-user/* ]] ||
    ! grep -nE '^[[:space:]]*#[[:space:]]*include "[^"/]+"' "$1" /dev/null ||
    breach "$1: an include without its folder"
}

check_exceptions_and_iostreams() {
  ! grep -nE '^#include <(iostream|fstream|sstream|thread)>|\bthrow ' "$1" \
    /dev/null ||
    breach "$1: the daemon has no exceptions, iostreams or threads"
}

shell_scripts=() cpp=()
while read -r file; do
  # Archives say in a README beside them what they are.
  [[ $file != *.tar.zst ]] || continue
  check_licence "$file"
  check_length "$file"
  case $file in
    *.cc | *.h | *.c)
      check_kernel_version "$file"
      check_includes "$file"
      [[ $file == dm-user/* ]] || cpp+=("$file")
      ;;
  esac
  case $file in daemon/*.cc | daemon/*.h)
    check_exceptions_and_iostreams "$file"
    ;;
  esac
  read -r first <"$file" || true
  [[ $file != *.sh && $first != '#!'*sh ]] || shell_scripts+=("$file")
done < <(files)

if ((${#shell_scripts[@]})); then
  shellcheck "${shell_scripts[@]}" || breach "shellcheck: see above"
fi
if ((${#cpp[@]})); then
  while read -r file; do
    breach "$file: not formatted; run clang-format -i"
  done < <(clang-format --dry-run "${cpp[@]}" 2>&1 |
    sed -nE 's/^([^: ]+):[0-9]+:[0-9]+: (warning|error): .*/\1/p' | sort -u)
fi
((breaches == 0)) || {
  echo "$breaches breaches"
  exit 1
}
