#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a source of the merge engine with one deliberate mistake in it.

usage: mutate.py MUTANT SOURCE OUT

Each replacement must fit exactly once, so that a mutant follows the engine or
fails to build. Assertions that would stop a mutant are taken out with it: what
must catch it is the simulator.
"""
import sys

ENGINE = "engine.cc"
EMIT = "engine_emit.cc"
PLAN = "plan.cc"
UNDO = "undo_engine.cc"

BASE_FLUSH = ("const bool base = stage_ == Stage::kApply && is_last_fill();",
              "const bool base = %s;")

LEASE_CHECKS = [
    ("    DMU_CHECK(replay_ || !leases_.AnyBelow(lease_end()));\n", ""),
    ("    DMU_CHECK(!write || replay_ || !leases_.AnyBelow(lease_end()));\n",
     ""),
]

MUTANTS = {
    "commit_before_flush": {
        EMIT: [(BASE_FLUSH[0], BASE_FLUSH[1] % "stage_ == Stage::kPlan")],
    },
    "no_base_flush": {
        EMIT: [(BASE_FLUSH[0], BASE_FLUSH[1] % "false")],
    },
    "no_commit_flush": {
        EMIT: [("stage_ == Stage::kStageState || stage_ == Stage::kCommit;",
                "stage_ == Stage::kStageState;")],
    },
    "no_flush_at_start": {
        EMIT: [("stage_ == Stage::kReadSector || stage_ == Stage::kMark ||",
                "stage_ == Stage::kMark ||")],
    },
    # State 1 and the old counter first, then the counter.
    "two_store_commit": {
        EMIT: [
            ("  if (cursor_ > 0) return Emit::kNothing;\n"
             "  cursor_ = 1;\n"
             "  uint8_t* sector",
             "  const bool commit = kind == Command::Kind::kCommit;\n"
             "  if (cursor_ > (commit ? 1u : 0u)) return Emit::kNothing;\n"
             "  const bool first = cursor_++ == 0;\n"
             "  uint8_t* sector"),
            ("cow::EncodeProgress(image_.header, window_end(),",
             "cow::EncodeProgress(image_.header,\n"
             "                        first ? merged_ops_ : window_end(),"),
            ("  command->kind = kind;\n  command->data = sector;",
             "  command->kind =\n"
             "      commit && first ? Command::Kind::kMark : kind;\n"
             "  command->data = sector;"),
        ],
        ENGINE: [("DMU_CHECK(base_flushed_ && under_way_ == 1);",
                  "DMU_CHECK(base_flushed_);")],
    },
    "counter_too_far": {
        EMIT: [("cow::EncodeProgress(image_.header, window_end(),",
                "cow::EncodeProgress(image_.header, window_end() + 1,")],
    },
    "no_scratch_for_overlap": {
        PLAN: [("window_->through_scratch = conflict_;",
                "window_->through_scratch = false;")],
    },
    # An op may write what an earlier one of its window reads: right the first
    # time, and read after it was overwritten when the window is repeated.
    "source_read_after_overwrite": {
        PLAN: [("own || sources_.Contains(op.new_block) ||", "own ||")],
    },
    "xor_in_place_repeated": {
        PLAN: [("const bool conflict = own ||", "const bool conflict =")],
    },
    "leases_ignored": {
        ENGINE: [
            ("  if (flush_sent_) return false;\n  switch (stage_) {",
             "  if (flush_sent_ || !leases_.AnyBelow(0)) return false;\n"
             "  switch (stage_) {"),
            LEASE_CHECKS[0], LEASE_CHECKS[1],
        ],
    },
    "state_before_scratch_data": {
        EMIT: [("                   stage_ == Stage::kStageData ||\n", "")],
    },
    "state_not_flushed": {
        EMIT: [("stage_ == Stage::kStageState || stage_ == Stage::kCommit;",
                "stage_ == Stage::kCommit;")],
    },
    "replay_ignored": {
        ENGINE: [
            ("replay_ = verdict == Verdict::kReplay;", "replay_ = false;"),
            LEASE_CHECKS[0], LEASE_CHECKS[1],
        ],
    },
    "begin_not_marked": {
        ENGINE: [("marked_ = !has_scratch() || state != "
                  "cow::ScratchState::kNotStarted;",
                  "static_cast<void>(state);\n      marked_ = true;")],
    },
    "xor_twice_after_error": {
        EMIT: [("          window.entries[cursor_].xored)) {",
                "          false)) {")],
    },
    "undo_log_not_flushed": {
        EMIT: [("group_entry_ == workspace_->window.ops);",
                "group_entry_ > workspace_->window.ops);")],
        ENGINE: [("if (flush_sent_) undo_durable_ = undo_;",
                  "undo_durable_ = undo_;")],
    },
    "undo_log_not_flushed_at_start": {
        EMIT: [("(stage_ == Stage::kFlushLog && keeps_undo_) ||",
                "false ||")],
    },
    "undo_restores_before_counter": {
        UNDO: [("    case Stage::kScratchNames:\n    case Stage::kLower:\n"
                "    case Stage::kForget:\n      break;",
                "    case Stage::kScratchNames:\n    case Stage::kForget:\n"
                "      break;")],
    },
    "undo_base_not_flushed": {
        UNDO: [("if (group_index_ + 1 < end_group_) return false;",
                "return false;")],
    },
    "undo_without_scratch": {
        UNDO: [("through_scratch_ = back.kind == UndoKind::kThroughScratch;",
                "through_scratch_ = false;")],
    },
    "undo_forgets_half_a_window": {
        UNDO: [("BeginRestore(first, static_cast<uint32_t>(places.size()),",
                "first = static_cast<uint32_t>(places.size());\n"
                "      BeginRestore(first, first,")],
    },
}


def main():
    mutant, source, out = sys.argv[1:]
    with open(source, encoding="utf-8") as text:
        content = text.read()
    name = source.rsplit("/", 1)[-1]
    for old, new in MUTANTS[mutant][name]:
        found = content.count(old)
        if found != 1:
            sys.exit("mutant %s: %s has this %d times, not once:\n%s" %
                     (mutant, name, found, old))
        content = content.replace(old, new)
    with open(out, "w", encoding="utf-8") as text:
        text.write(content)


if __name__ == "__main__":
    main()
