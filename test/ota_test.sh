#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: an update as its user meets it, without a kernel: dmuserctl ota from a
# manifest to a merged, an undone and a given-up update, every refusal with its
# sentence and exit code, a dry run that changes nothing, kills at any time.
# Usage: ota_test.sh DMUSERCTL MAKE_IMAGES
set -euo pipefail
ctl=$PWD/$1
make_images=$PWD/$2
PATH=$PATH:/usr/sbin
cd "$TEST_TMPDIR"

# Also heard where what the shell says of killed programs is not.
exec 9>&2
fail() {
  echo "FAILED: $*" >&9
  exit 1
}

ota() { "$ctl" ota "$@" --state state; }

# expect CODE TEXT ARGUMENTS... - the exit code, and TEXT in what is said to
# standard error.
expect() {
  local code=$1 text=$2 got=0 said
  shift 2
  said=$(ota "$@" --quiet 2>&1 >/dev/null) || got=$?
  [[ $got -eq $code ]] || fail "'ota $*' ended with $got, not $code: $said"
  [[ $said == *"$text"* ]] || fail "'ota $*' does not say '$text': $said"
}

field() { # NAME: of the status
  ota status --json | python3 -c '
import json, sys
print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

is_phase() { [[ $(field phase) == "$1" ]] || fail "$(field phase), not $1"; }

python3 "$make_images" root.old root.new 8
head -c 4M root.new >data.old
head -c 6M root.old >data.new
for name in root data; do
  "$ctl" cow create $name.old $name.new -o $name.cow --quiet
done

sum() { sha256sum "$1" | cut -d' ' -f1; }

# manifest UNDO_LOGS: of both images, into the file "manifest".
manifest() {
  local name
  {
    echo 'update: "2026-11"'
    for name in root data; do
      echo "image { name: '$name' base: '$PWD/$name.base' cow: '$name.cow'"
      echo "  cow_sha256: '$(sum $name.cow)'"
      [[ $1 == no ]] || echo "  undo_log: '$name.undo'"
      echo '}'
    done
  } >manifest
}

fresh() {
  rm -rf state
  mkdir state
  cp root.old root.base
  cp data.old data.base
}

holds() { # old | new
  cmp root.base "root.$1" || fail "no $1 root"
  cmp data.base "data.$1" || fail "no $1 data"
}

left() { find state -type f ! -name ota.lock -printf '%P\n'; }

manifest yes
fresh

# What is wrong with a manifest, and where.
expect 9 "nowhere" stage nowhere
expect 3 "has the SHA-256" stage manifest --manifest-sha256 00
sed 's/cow_sha256:/cow_sha:/' manifest >bad
expect 2 'bad: line 3, column 10' stage bad
sed "s/'data.undo'/''/" manifest >bad
expect 2 '1 of 2 images have an undo_log' stage bad
sed "s/'data.undo'/'root.undo'/" manifest >bad
expect 2 'used twice' stage bad
sed "s/name: 'data'/name: '..\\/data'/" manifest >bad
expect 2 'field name: expected' stage bad
sed "s/$(sum data.cow)/$(sum root.cow)/" manifest >bad
expect 3 'is not the COW file of the manifest' stage bad
printf 'update: "x"\n' >bad
expect 2 'it has 0 images' stage bad
cp data.new data.base
expect 4 'data.base' stage manifest
cp data.old data.base
[[ -z $(left) ]] || fail "a refusal left $(left)"

# A dry run says all and does nothing.
ota stage manifest --dry-run --quiet 2>plan >/dev/null
grep -q 'would place root' plan || fail "dry run: $(cat plan)"
[[ -z $(left) ]] || fail "a dry run left $(left)"

# Commands before their time.
for command in activate bless merge rollback undo; do
  expect 13 'there is no update' $command
done
expect 0 '' clean
[[ $(ota boot) == plain ]] || fail "boot without an update"

# Stage, and again; the manifest's digest may be asked for.
expect 0 '' stage manifest --manifest-sha256 "$(sum manifest)"
before=$(sum state/ota.state)
expect 0 '' stage manifest
[[ $before == "$(sum state/ota.state)" ]] || fail "staged twice"
cmp state/root.cow root.cow || fail "the COW file in its place"
sed 's/2026-11/2026-12/' manifest >other
expect 13 'another update, 2026-11, is staged' stage other
for command in bless merge undo; do expect 13 '' $command; done
is_phase staged

# A trial that cannot be mapped boots the old system, and says why.
expect 0 '' activate
[[ $(field next_boot) == mapped ]] || fail "next boot $(field next_boot)"
expect 13 'what runs now is not the new system' bless
expect 13 'rollback' clean
[[ $(ota boot --dry-run 2>/dev/null) == mapped* ]] || fail "boot --dry-run"
is_phase trial
[[ $(ota boot 2>said) == "plain
root $PWD/root.base
data $PWD/data.base" ]] || fail "boot: $(cat said)"
grep -q 'the old system boots' said || fail "boot says $(cat said)"
is_phase rejected
expect 13 'was given up' bless

# Trusted without a trial, merged without a kernel, undone, cleaned.
expect 0 '' activate
expect 0 '' bless --untried
is_phase good
expect 0 '' rollback
is_phase rejected
expect 0 '' activate
expect 0 '' bless --untried
holds old
expect 0 '' merge
holds new
expect 0 '' merge
expect 13 'undo' rollback
[[ $(ota boot) == plain* ]] || fail "boot of a merged update"
expect 0 '' undo
holds old
expect 0 '' undo
is_phase rejected
expect 0 '' clean
[[ $(left) == ota.state ]] || fail "clean left $(left)"
holds old

# Without undo logs there is no way back.
manifest no
for command in 'stage manifest' 'bless --untried' merge; do
  # shellcheck disable=SC2086 # several words
  expect 0 '' $command
done
expect 13 'no undo log is kept' undo
expect 13 'no undo log is kept' rollback
holds new
expect 0 '' clean
[[ -e root.cow ]] || fail "clean removed the source"

# A hash tree is checked when the COW file is there: it may be behind the image
# or in another one.
cp root.new same.new
veritysetup format same.new same.new --data-blocks=1024 --hash-offset=4194304 \
  --root-hash-file=same.hash >/dev/null
truncate -s 1M hashes.old hashes.new
veritysetup format root.new hashes.new --root-hash-file=hash >/dev/null
truncate -s 1M hashes.new
"$ctl" cow create root.old same.new -o same.cow --quiet
"$ctl" cow create hashes.old hashes.new -o hashes.cow --quiet
trees() { # ROOT_HASH HASH_OF_THE_OTHER
  cat <<TEXT
update: "trees"
image { name: "same" base: "$PWD/same.base" cow: "same.cow"
  cow_sha256: "$(sum same.cow)"
  verity { root_hash: "$1" hash_offset_bytes: 4194304 } }
image { name: "root" base: "$PWD/root.base" cow: "root.cow"
  cow_sha256: "$(sum root.cow)"
  verity { root_hash: "$2" hash_image: "hashes" } }
image { name: "hashes" base: "$PWD/hashes.base" cow: "hashes.cow"
  cow_sha256: "$(sum hashes.cow)" }
TEXT
}
bad_hash=$(sum root.new)
fresh
cp root.old same.base
cp hashes.old hashes.base
trees "$(cat same.hash)" "$bad_hash" >manifest
expect 3 "root: the hash tree at 0 of hashes: its root hash is $(cat hash)" \
  stage manifest
expect 0 '' clean
trees "$bad_hash" "$(cat hash)" >manifest
expect 3 'same: the hash tree at 4194304 of same: its root hash' stage manifest
expect 0 '' clean
trees "$(cat same.hash)" "$(cat hash)" >manifest
sed 's/hash_image: "hashes"/hash_image: "none"/' manifest >bad
expect 2 "there is no 'none'" stage bad
sed 's/name: "hashes"/name: "same-verity"/' manifest >bad
expect 2 'same-verity is used twice' stage bad
sed 's/root_hash: "/&x/' manifest >bad
expect 2 'verity.root_hash: expected 64' stage bad
expect 0 '' stage manifest
expect 0 '' activate
[[ $(ota boot --dry-run 2>/dev/null) == "mapped
same /dev/mapper/same-verity
root /dev/mapper/root-verity
hashes /dev/mapper/hashes" ]] || fail "$(ota boot --dry-run)"
ota status | grep -q "root_hash *$(cat hash)" || fail "$(ota status)"
expect 0 '' rollback
expect 0 '' clean
manifest no

# Where the COW file is already, it is used and stays.
fresh
cp root.cow data.cow state/
sed 's/cow: .\(....\).cow./cow: "state\/\1.cow"/' manifest >there
expect 0 '' stage there
expect 0 '' clean
cmp state/root.cow root.cow || fail "a COW file that was there before is gone"

# No room, no change: the state's folder is on a small file system, if this may
# be tried here.
manifest yes
fresh
if unshare -rm true 2>/dev/null; then
  # shellcheck disable=SC2016 # expanded in there
  unshare -rm bash -c '
    mount -t tmpfs -o size=1m none state
    "$0" ota stage manifest --state state --quiet 2>said && exit 1
    grep -q "bytes left; the update needs" said && [[ ! -e state/root.cow ]]
  ' "$ctl" || fail "a full disk: $(cat said)"
fi

# Killed at any time, every command goes on; each try has more time.
kills=0
RANDOM=7
for command in 'stage manifest' 'bless --untried' merge undo; do
  for ((ms = 1; ; ms += 1 + RANDOM % 29)); do
    got=0
    # In the foreground timeout waits for the end of what it kills; else it kills
    # itself, too, and the lock may still be held when it is gone.
    # shellcheck disable=SC2086 # several words
    timeout --foreground --preserve-status --signal=KILL "$((ms / 1000)).$(printf %03d $((ms % 1000)))" \
      "$ctl" ota $command --state state --quiet 2>said || got=$?
    [[ $got -ne 0 ]] || break
    [[ $got -eq 137 ]] || fail "'$command' ended with $got: $(cat said)"
    kills=$((kills + 1))
    ota status >/dev/null || fail "status after a kill"
  done
done 2>/dev/null
holds old
expect 0 '' clean
echo "$kills kills"

# Changed by hand, it is not guessed at.
manifest yes
expect 0 '' stage manifest
sed -i 's/STAGED/GOOD/' state/ota.state
expect 3 'is damaged, or was changed by hand' boot
if ota status >/dev/null 2>&1; then fail "status of a damaged state"; fi
