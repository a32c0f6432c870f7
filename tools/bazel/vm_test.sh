#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What a vm_test of Bazel runs: tools/vm, with disks made for this test and a
# shared folder from which a report of GoogleTest is taken over.
set -euo pipefail

disk_number=0 mode=run
flags=()
# new_disk: sets `disk` to the path of the next disk.
new_disk() {
  disk=$TEST_TMPDIR/disk$disk_number.img
  disk_number=$((disk_number + 1))
  rm -f "$disk"
  flags+=(--disk "$disk")
}

share=$TEST_TMPDIR/share
rm -rf "$share"
mkdir -p "$share"
while (($#)); do
  case $1 in
    --disk-mib)
      new_disk
      truncate -s "$2M" "$disk"
      shift
      ;;
    --disk-copy)
      new_disk
      cp -L --sparse=always --no-preserve=mode "$2" "$disk"
      shift
      ;;
    --boot) mode=boot ;;
    --*)
      flags+=("$1")
      case $1 in
        --count | --no-* | --with-*) ;;
        *)
          flags+=("$2")
          shift
          ;;
      esac
      ;;
    *) break ;;
  esac
  shift
done

status=0
tools/vm "$mode" --share "$share" "${flags[@]}" "$@" || status=$?
if [[ -s $share/test.xml && -n ${XML_OUTPUT_FILE:-} ]]; then
  cp "$share/test.xml" "$XML_OUTPUT_FILE"
fi
rm -f "$TEST_TMPDIR"/disk*.img
exit "$status"
