#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a kernel in the cache counts as there only while modules can be built
# for it: not after the cache was moved, nor with Module.symvers emptied.
# Method: folders laid out as the packages are, under a cache of the test's.
set -euo pipefail
source tools/lib/common.sh
source tools/lib/kernel.sh

export DMU_CACHE=$TEST_TMPDIR/cache
release=6.99.1+deb99-amd64
folder=$DMU_CACHE/kernels/$release
headers=$folder/usr/src/linux-headers-$release
common=$folder/usr/src/linux-headers-6.99.1+deb99-common
mkdir -p "$headers" "$common"
echo "$release" >"$folder/RELEASE"
echo 0x0 >"$headers/Module.symvers"
echo "include $common/Makefile" >"$headers/Makefile"
ln -s "$release" "$DMU_CACHE/kernels/6.99"

# expect STATUS WHAT: of kernel_builds for the series and the release.
expect() {
  local name got
  for name in 6.99 "$release"; do
    got=0
    kernel_builds "$name" || got=$?
    if [[ $got -ne $1 ]]; then
      echo "FAILED: $2: kernel_builds $name ended with $got, not $1" >&2
      exit 1
    fi
  done
}

expect 0 "a kernel in its place"
ln -s "$DMU_CACHE" "$TEST_TMPDIR/link"
DMU_CACHE=$TEST_TMPDIR/link expect 0 "the cache by a link"
: >"$headers/Module.symvers"
expect 1 "an empty Module.symvers"
echo 0x0 >"$headers/Module.symvers"
cp -a "$DMU_CACHE" "$TEST_TMPDIR/copy"
DMU_CACHE=$TEST_TMPDIR/copy expect 1 "a copy, which means the first one's tree"
rm -rf "$DMU_CACHE"
DMU_CACHE=$TEST_TMPDIR/copy expect 1 "a moved cache"
expect 1 "no cache"
