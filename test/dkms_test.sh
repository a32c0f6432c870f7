#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: DKMS builds and installs the module for each kernel, from the sources as
# they are, and leaves alone what it is not for.
# Method: the dkms tool with trees of its own.
set -euo pipefail
source tools/lib/common.sh
source tools/lib/kernel.sh

version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dm-user/dkms.conf)
tree=$TEST_TMPDIR/tree
sources=$TEST_TMPDIR/src
installed=$TEST_TMPDIR/modules
mkdir -p "$tree" "$sources/dm-user-$version" "$installed"
cp -RL dm-user/. "$sources/dm-user-$version"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# The table line's target and the package have one version.
grep -q "version = { ${version//./, } }" dm-user/target.c ||
  fail "dkms.conf says $version, target.c another"

run() {
  dkms "$@" --dkmstree "$tree" --sourcetree "$sources" \
    --installtree "$installed" >"$TEST_TMPDIR/dkms.log" 2>&1
}

tools/kernels 6.1 6.12 sid
run add "dm-user/$version" || fail "add: $(cat "$TEST_TMPDIR/dkms.log")"
for series in 6.1 6.12 sid; do
  release=$(kernel_release "$series")
  PATH=$(kernel_toolchain "$series"):$PATH
  run build "dm-user/$version" -k "$release" \
    --kernelsourcedir "$(kernel_headers "$series")" ||
    fail "build for $release: $(cat "$TEST_TMPDIR/dkms.log" \
      "$tree/dm-user/$version/build/make.log")"
  find "$tree/dm-user/$version/$release" -name 'dm-user.ko*' | grep -q . ||
    fail "no module for $release"
  echo "built for $release"
done
# An older kernel is not for it: dkms says so with status 77.
got=0
run build "dm-user/$version" -k 5.10.0-1-amd64 \
  --kernelsourcedir "$(kernel_headers 6.1)" || got=$?
[[ $got -eq 77 ]] || fail "5.10 ended with $got: $(cat "$TEST_TMPDIR/dkms.log")"
echo "left alone: 5.10"
