#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: an update may be one image and a COW file of Android's tools, which
# carries nothing of ours: staged, merged to the new image, undone to the old;
# the wrong base and a damaged file are refused before anything is changed.
# Method: dmuserctl ota, without a kernel, on every file of the fixtures.
# Usage: ota_foreign_test.sh DMUSERCTL FIXTURES
set -euo pipefail
ctl=$PWD/$1
fixtures=$PWD/$2
cd "$TEST_TMPDIR"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

ota() { "$ctl" ota "$@" --state state --quiet; }
sum() { sha256sum "$1" | cut -d' ' -f1; }

# expect CODE TEXT ARGUMENTS...
expect() {
  local code=$1 text=$2 got=0 said
  shift 2
  said=$(ota "$@" 2>&1 >/dev/null) || got=$?
  [[ $got -eq $code ]] || fail "$name: 'ota $*' ended with $got, not $code: $said"
  [[ $said == *"$text"* ]] || fail "$name: 'ota $*' does not say '$text': $said"
}

# manifest FOLDER [FIELD...] - with an undo log; `undo` may be another one.
undo='undo_log: "root.undo"'
manifest() {
  local folder=$1
  shift
  cat >manifest <<TEXT
update: "foreign"
image {
  name: "root" base: "$PWD/base" cow: "$folder/file.cow" $undo
  cow_sha256: "$(sum "$folder/file.cow")" $*
}
TEXT
}

# begin FOLDER: no update, and the base as it was.
begin() {
  rm -rf state
  mkdir state
  cp "$1/base.img" base
}

zstd -dcq --long=27 <"$fixtures" | tar x
whole=0
for folder in "$PWD"/cow-fixtures/v*; do
  name=${folder##*/}
  case $name in
    # Nobody ended them: what they lead to is known for a label only.
    *-unfinished) continue ;;
  esac
  merged=$("$ctl" cow inspect "$folder/file.cow" --json | python3 -c '
import json, sys
print(json.load(sys.stdin)["merge"]["merged_ops"])')
  digest="target_sha256: '$(sum "$folder/target.img")'"

  # What was overwritten before a log began nobody knows.
  undo='undo_log: "root.undo"'
  [[ $merged -eq 0 ]] || undo=
  begin "$folder"
  manifest "$folder" "$digest"
  expect 0 '' stage manifest
  expect 0 '' bless --untried
  expect 0 '' merge
  cmp base "$folder/target.img" || fail "$name: not the new image"
  if [[ -n $undo ]]; then
    expect 0 '' undo
    cmp base "$folder/base.img" || fail "$name: not the old image"
  fi
  whole=$((whole + 1))

  # Another base: nothing in the file tells, the digest does.
  begin "$folder"
  printf 'other' | dd of=base conv=notrunc status=none \
    bs=1 seek=$(($(stat -c %s base) - 4096))
  cmp -s <(tail -c 4096 base) <(tail -c 4096 "$folder/base.img") &&
    fail "$name: the test damaged nothing"
  if ota stage manifest >/dev/null 2>said; then
    # The block is one that the file replaces.
    expect 0 '' bless --untried
    expect 0 '' merge
    cmp base "$folder/target.img" || fail "$name: a wrong base was taken"
  else
    grep -q 'wrong base: the new image has the SHA-256' said ||
      fail "$name: $(cat said)"
  fi
done
((whole >= 25)) || fail "only $whole files"

# Without a digest it is taken as it is, and that is the maker's risk.
name=v3-mix-zstd-64k
folder=$PWD/cow-fixtures/$name
begin "$folder"
manifest "$folder"
expect 0 '' stage manifest
expect 0 '' clean
# Of an image that is smaller than its partition.
truncate -s +1M base
manifest "$folder" "$digest"
manifest "$folder" "target_sha256: '$(sum "$folder/target.img")'" \
  "target_bytes: $(stat -c %s "$folder/target.img")"
expect 0 '' stage manifest
expect 0 '' clean
truncate -s -2M base
expect 4 'base' stage manifest
begin "$folder"
manifest "$folder" "target_sha256: '00'"
expect 2 'target_sha256: expected 64' stage manifest
manifest "$folder" "target_sha256: '$(sum manifest)' target_bytes: 99999999"
expect 4 'expected 99999999' stage manifest

# Damaged ones are refused, or the digest finds them out; never a wrong image.
refused=0
for folder in "$PWD"/cow-fixtures/bad-*; do
  name=${folder##*/}
  begin "$folder"
  manifest "$folder" "target_sha256: '$(sum "$folder/target.img")'"
  if ota stage manifest >/dev/null 2>said; then
    expect 0 '' bless --untried
    if ota merge >/dev/null 2>said; then
      cmp base "$folder/target.img" || fail "$name: a wrong image"
      continue
    fi
  fi
  [[ -s said ]] || fail "$name: refused without a word"
  refused=$((refused + 1))
done
((refused >= 15)) || fail "only $refused of the damaged files are refused"
echo "$whole whole, $refused damaged files"
