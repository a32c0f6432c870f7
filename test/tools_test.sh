#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: dmuserctl and dmuserd as their users meet them, without a kernel: round
# trips on real files, every wrong input with its sentence and exit code and
# nothing changed, an idle daemon that is small and asleep.
# Usage: tools_test.sh DMUSERCTL DMUSERD MAKE_IMAGES MERGE_SIGNALS
set -euo pipefail
ctl=$PWD/$1
daemon=$PWD/$2
make_images=$PWD/$3
merge_signals=$PWD/$4
cd "$TEST_TMPDIR"

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect CODE TEXT COMMAND... - the exit code, TEXT in the last line it says, no
# more than one line, and no file more or less than before.
expect() {
  local code=$1 text=$2 got=0 before after said
  shift 2
  before=$(find . -mindepth 1 -printf '%p %s %T@\n' | sort)
  said=$("$@" 2>&1 >/dev/null) || got=$?
  after=$(find . -mindepth 1 -printf '%p %s %T@\n' | sort)
  [[ $got -eq $code ]] || fail "'$*' ended with $got, not $code: $said"
  [[ $said == *"$text"* ]] || fail "'$*' does not say '$text': $said"
  [[ $said != *$'\n'* || $code -eq 2 ]] || fail "'$*' says too much: $said"
  [[ $before == "$after" ]] || fail "'$*' changed a file: $(diff <(
    echo "$before") <(echo "$after"))"
}

python3 "$make_images" old.img new.img 8

# Round trips.
for compression in none gz,1 brotli,4 lz4 zstd; do
  for unit in 4 64 256; do
    "$ctl" cow create old.img new.img -o a.cow --quiet --force \
      --compression "$compression" --unit "$unit"
    "$ctl" cow extract a.cow --base old.img -o out.img --quiet --force
    cmp out.img new.img || fail "$compression, $unit KiB"
  done
done
"$ctl" cow create old.img new.img -o b.cow --quiet --unit 256 \
  --compression zstd
cmp a.cow b.cow || fail "two runs give two files"
"$ctl" cow inspect a.cow --json | python3 -c '
import json, sys
seen = json.load(sys.stdin)
assert seen["version"] == 3 and seen["known_complete"] is True, seen
assert seen["base_bytes"] == seen["target_bytes"] == 8 << 20, seen
assert seen["op_count"] == seen["copy"]["ops"] + seen["zero"]["ops"] \
    + seen["replace"]["ops"] + seen["xor"]["ops"] > 0, seen
assert seen["merge"]["merged_ops"] == 0, seen
' || fail "inspect --json"
"$ctl" cow inspect a.cow >inspect.txt
grep -q 'complete *yes' inspect.txt || fail "inspect: $(cat inspect.txt)"

# Version 2, and from one to the other.
for flags in '--compression gz,1' '--compression lz4 --cluster-ops 0' \
  '--compression brotli,2 --cluster-ops 2' '--compression none'; do
  # shellcheck disable=SC2086 # several words
  "$ctl" cow create old.img new.img -o v2.cow --quiet --force --version 2 $flags
  "$ctl" cow verify v2.cow --base old.img --quiet || fail "verify $flags"
  "$ctl" cow convert v2.cow -o v3.cow --quiet --force --unit 64
  "$ctl" cow convert v3.cow -o w2.cow --quiet --force --version 2
  for made in v2 v3 w2; do
    "$ctl" cow extract "$made.cow" --base old.img -o out.img --quiet --force
    cmp out.img new.img || fail "$made.cow of $flags"
  done
done
"$ctl" cow create old.img new.img -o plain.cow --quiet --no-extension
"$ctl" cow inspect plain.cow --json | grep -q '"known_complete": false' ||
  fail "a file without extension says that it is complete"
"$ctl" cow extract a.cow --base old.img -o out.img --quiet --force --range 3,9
cmp -n $((9 * 512)) -i $((3 * 512)):0 new.img out.img || fail "--range"
[[ $(stat -c %s out.img) -eq $((9 * 512)) ]] || fail "--range has another size"
"$ctl" cow estimate old.img new.img --quiet --json --unit 256 \
  --compression zstd >estimate.json
[[ $(python3 -c 'import json; print(json.load(open("estimate.json"))[
  "cow_bytes"])') -eq $(stat -c %s a.cow) ]] || fail "estimate is not exact"
"$ctl" cow inspect a.cow --order --ops --map >inspect.txt
grep -q '^map of' inspect.txt || fail "inspect --map"

# Merged without a kernel: a trial that changes nothing, then at once.
cp old.img base.img
cp a.cow work.cow
"$ctl" cow merge work.cow --base base.img --dry-run --quiet
cmp base.img old.img || fail "a dry run wrote to the base"
cmp work.cow a.cow || fail "a dry run wrote to the COW file"
got=0
"$ctl" cow merge work.cow --base base.img --json --quiet >merge.json || got=$?
[[ $got -eq 0 ]] || fail "merge ended with $got"
cmp base.img new.img || fail "the merged base is not the new image"
"$ctl" cow verify work.cow --base base.img --quiet || fail "verify after merge"
"$ctl" cow extract work.cow --base base.img -o out.img --quiet --force
cmp out.img new.img || fail "extract after merge"
"$ctl" cow merge work.cow --base base.img --quiet || fail "merge of a merged"
rm base.img work.cow v2.cow v3.cow w2.cow plain.cow out.img

# A signal pauses a merge, a kill cuts it, the same command goes on.
python3 "$make_images" first.img second.img 64
"$ctl" cow create first.img second.img -o long.cow --quiet
python3 "$merge_signals" "$ctl" long.cow first.img second.img ||
  fail "a merge with signals"
rm first.img second.img long.cow

# Grown and shrunk.
cat new.img old.img >long.img
head -c 1M new.img >short.img
for pair in "old.img long.img" "old.img short.img" "short.img long.img"; do
  read -r from to <<<"$pair"
  "$ctl" cow create "$from" "$to" -o c.cow --quiet --force
  "$ctl" cow extract c.cow --base "$from" -o out.img --quiet --force
  cmp out.img "$to" || fail "$pair"
  cp "$from" base.img
  "$ctl" cow merge c.cow --base base.img --quiet
  cmp base.img "$to" || fail "merge of $pair"
  "$ctl" cow verify c.cow --base base.img --quiet || fail "verify of $pair"
done
rm out.img c.cow base.img

# Taken back, half-way and whole.
cp old.img base.img
cp a.cow work.cow
undo=("$ctl" merge undo work.cow --base base.img --undo-log undo.log --quiet)
expect 9 'undo.log' "${undo[@]}"
"$ctl" cow merge work.cow --base base.img --undo-log undo.log --quiet
cmp base.img new.img || fail "the merge with an undo log"
"${undo[@]}" --dry-run
cmp base.img new.img || fail "a trial undo changed the base"
"${undo[@]}"
cmp base.img old.img || fail "the undone base is not the old image"
"$ctl" cow verify work.cow --base base.img --quiet || fail "verify after undo"
"$ctl" cow merge work.cow --base base.img --undo-log undo.log --quiet
cmp base.img new.img || fail "the merge after an undo"
"$ctl" cow create new.img old.img -o back.cow --quiet
expect 4 'another COW file' "$ctl" cow merge back.cow --base base.img \
  --undo-log undo.log
cp old.img other.img
cp a.cow other.cow
"$ctl" cow merge other.cow --base other.img --quiet
expect 4 'without this log' "$ctl" cow merge other.cow --base other.img \
  --undo-log other.log
expect 2 'is no undo log' "$ctl" merge undo work.cow --base base.img \
  --undo-log back.cow
expect 2 'is no undo log' "$ctl" cow merge a.cow --base old.img \
  --undo-log new.img
expect 2 'COW file' "$ctl" merge undo work.cow --base base.img \
  --undo-log work.cow
rm base.img work.cow undo.log back.cow other.img other.cow

# Wrong input.
: >empty.img
head -c 5000 old.img >odd.img
mkdir folder
expect 9 'missing.img' "$ctl" cow create missing.img new.img -o x.cow
expect 9 'missing.img' "$ctl" cow create old.img missing.img -o x.cow
expect 2 'empty.img' "$ctl" cow create empty.img new.img -o x.cow
expect 2 'empty.img' "$ctl" cow create old.img empty.img -o x.cow
expect 2 'odd.img' "$ctl" cow create old.img odd.img -o x.cow
expect 2 'folder' "$ctl" cow create folder new.img -o x.cow
expect 11 'a.cow' "$ctl" cow create old.img new.img -o a.cow
expect 2 'new.img' "$ctl" cow create old.img new.img -o new.img --force
expect 9 'nowhere' "$ctl" cow create old.img new.img -o nowhere/x.cow
expect 2 '' "$ctl" cow create old.img new.img
expect 2 '' "$ctl" cow create old.img -o x.cow
expect 2 'bzip' "$ctl" cow create old.img new.img -o x.cow --compression bzip
expect 2 '12' "$ctl" cow create old.img new.img -o x.cow \
  --compression brotli,12
expect 2 '5' "$ctl" cow create old.img new.img -o x.cow --unit 5
expect 2 '512' "$ctl" cow create old.img new.img -o x.cow --unit 512
expect 2 'wings' "$ctl" cow create old.img new.img -o x.cow --wings
expect 2 '' "$ctl" fly
expect 2 '' "$ctl"

expect 3 'old.img' "$ctl" cow inspect old.img
expect 3 'empty.img' "$ctl" cow inspect empty.img
expect 9 'missing.cow' "$ctl" cow inspect missing.cow
bytes=$(stat -c %s a.cow)
for cut in 10 78 100 2097230 2100000 $((bytes / 2)) $((bytes - 1)); do
  ((cut < bytes)) || continue
  head -c "$cut" a.cow >cut.cow
  expect 3 'cut.cow' "$ctl" cow inspect cut.cow
  expect 3 'cut.cow' "$ctl" cow extract cut.cow --base old.img -o x.img
done
expect 4 'short.img' "$ctl" cow extract a.cow --base short.img -o x.img
expect 4 'long.img' "$ctl" cow extract a.cow --base long.img -o x.img
expect 9 'missing.img' "$ctl" cow extract a.cow --base missing.img -o x.img
expect 11 'new.img' "$ctl" cow extract a.cow --base old.img -o new.img
expect 2 '' "$ctl" cow extract a.cow -o x.img
expect 4 'wrong base' "$ctl" cow extract a.cow --base new.img -o x.img
expect 4 'wrong base' "$ctl" cow merge a.cow --base new.img
expect 4 'wrong base' "$ctl" cow verify a.cow --base new.img --quiet
expect 2 'label' "$ctl" cow extract a.cow --base old.img -o x.img --label one
expect 2 'label 7' "$ctl" cow extract a.cow --base old.img -o x.img --label 7
expect 2 'range' "$ctl" cow extract a.cow --base old.img -o x.img --range 1
expect 2 'inside' "$ctl" cow extract a.cow --base old.img -o x.img --range 0,99999
expect 2 'version' "$ctl" cow create old.img new.img -o x.cow --version 1
expect 2 'cluster' "$ctl" cow create old.img new.img -o x.cow --version 2 \
  --cluster-ops 1
expect 2 'itself' "$ctl" cow merge a.cow --base a.cow
expect 2 'itself' "$ctl" cow convert a.cow -o a.cow --force
expect 9 'missing.cow' "$ctl" cow verify missing.cow
# A unit that is damaged is an error, not garbage, whatever the compressor.
truncate -s 1M blank.img
seq 1 200000 >text.img
truncate -s 1M text.img
for compression in none gz lz4 zstd; do
  "$ctl" cow create blank.img text.img -o bad.cow --quiet --force \
    --compression "$compression"
  printf 'damage' | dd of=bad.cow bs=1 seek=$(($(stat -c %s bad.cow) - 3000)) \
    conv=notrunc status=none
  expect 3 'bad.cow' "$ctl" cow extract bad.cow --base blank.img -o x.img
  expect 3 'checksum' "$ctl" cow verify bad.cow --quiet
  # The merge stops before the base has anything of it.
  cp blank.img base.img
  expect 3 'corrupt' "$ctl" cow merge bad.cow --base base.img --dry-run
  got=0
  "$ctl" cow merge bad.cow --base base.img --quiet 2>merge.log || got=$?
  [[ $got -eq 3 ]] || fail "merge of a damaged $compression file: $got"
  grep -q corrupt merge.log || fail "merge: $(cat merge.log)"
done
rm base.img

# Help.
"$ctl" --help >help.txt
for verb in 'cow create' 'cow estimate' 'cow inspect' 'cow verify' \
  'cow extract' 'cow merge' 'cow convert' map merge status unmap \
  list metrics; do
  grep -q "$verb" help.txt || fail "help does not name $verb"
  # shellcheck disable=SC2086 # a verb may be two words
  "$ctl" help $verb | grep -q usage || fail "no help for $verb"
done

# No daemon, then one.
expect 10 'dmuserd' "$ctl" status --control none
expect 10 'dmuserd' "$ctl" merge m --control none
expect 2 'nonsense' "$daemon" --nonsense
expect 2 '128' "$daemon" --memory 1
"$daemon" --version | grep -q '^dmuserd ' || fail "--version"
mkfifo ready
"$daemon" --control c --state-dir s --ready-fd 3 3>ready \
  2>daemon.log &
pid=$!
read -r <ready || fail "dmuserd ended: $(cat daemon.log)"
got=0
"$daemon" --control c --state-dir s 2>second.log || got=$?
[[ $got -eq 5 ]] || fail "a second daemon ended with $got"
grep -q 'another dmuserd' second.log || fail "$(cat second.log)"
expect 9 'nothing' "$ctl" merge nothing --control c
expect 9 'nothing' "$ctl" status nothing --control c
expect 2 '--watch' "$ctl" status nothing --follow --control c
expect 2 'exclude' "$ctl" status nothing --watch --latency --control c
# All it will ever do when idle is to have answered these.
asleep() { grep ctxt_switches "/proc/$pid/status"; }
before=$(asleep)
[[ $(awk '$1 == "Threads:" { print $2 }' "/proc/$pid/status") -eq 1 ]] ||
  fail "more than one thread"
anonymous=$(awk '$1 == "Anonymous:" { print $2 }' "/proc/$pid/smaps_rollup")
((anonymous <= 256)) || fail "an idle daemon holds $anonymous KiB"
"$ctl" cow create old.img new.img -o idle.cow --quiet --compression gz
[[ $(asleep) == "$before" ]] || fail "an idle daemon woke up"
[[ $(stat -c %a c) == 600 ]] || fail "the socket is open to others"
kill "$pid"
wait "$pid" || fail "SIGTERM gives $?"
[[ ! -e c ]] || fail "the socket is left behind"
echo "all held; an idle daemon holds $anonymous KiB"
