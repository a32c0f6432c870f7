// SPDX-License-Identifier: Apache-2.0
//
// plan.cc - see plan.h.
#include "daemon/merge/plan.h"

#include <algorithm>

#include "daemon/base/check.h"

namespace dmu::merge {

void Plan::Begin(Window* window, const Limits& limits) {
  DMU_CHECK(limits.staging_blocks >= 1);
  DMU_CHECK(limits.staging_blocks <= BlockMap::kCapacity);
  DMU_CHECK(limits.direct_ops_min >= 1);
  window_ = window;
  window_->ops = 0;
  window_->blocks = 0;
  window_->bytes = 0;
  window_->through_scratch = false;
  window_->staged.Clear();
  limits_ = limits;
  run_ = Run::kNone;
  conflict_ = false;
  sources_.Clear();
}

Plan::Verdict Plan::Offer(const cow::Op& op, bool duplicate) {
  if (window_->ops == kWindowOpsMax) return Verdict::kEnd;
  // Reading its own target at another offset, an xor needs the old bytes after
  // they are gone. The loader lets none through.
  if (op.type == cow::OpType::kXor) return Verdict::kNotMergeable;
  const bool ordered = op.type == cow::OpType::kCopy && !duplicate;
  const Run run = ordered ? Run::kOrdered : Run::kUnordered;
  if (run_ != Run::kNone && run_ != run) return Verdict::kEnd;
  run_ = run;
  return ordered ? OfferCopy(op) : OfferUnordered(op, duplicate);
}

Plan::Verdict Plan::OfferUnordered(const cow::Op& op, bool duplicate) {
  const bool staged = !duplicate && op.type == cow::OpType::kReplace;
  if (staged) {
    if (op.span_blocks() > limits_.staging_blocks) {
      return window_->ops == 0 ? Verdict::kTooLarge : Verdict::kEnd;
    }
    if (window_->blocks + op.span_blocks() > limits_.staging_blocks) {
      return Verdict::kEnd;
    }
  }
  Take(op, duplicate, staged);
  return Verdict::kTaken;
}

Plan::Verdict Plan::OfferCopy(const cow::Op& op) {
  const uint32_t source = static_cast<uint32_t>(op.source);
  uint32_t ops_max = limits_.staging_blocks;
  // A copy onto itself changes nothing and may be repeated for ever.
  const bool conflict =
      sources_.Contains(op.new_block) || window_->staged.Contains(source);
  if (conflict && !conflict_) {
    if (!limits_.has_scratch || window_->ops >= limits_.direct_ops_min) {
      return Verdict::kEnd;
    }
  }
  if (conflict || conflict_) {
    ops_max = std::min(ops_max, cow::kScratchEntriesMax);
  }
  if (window_->ops >= ops_max) return Verdict::kEnd;
  conflict_ |= conflict;
  sources_.Insert(source, 0);
  Take(op, /*duplicate=*/false, /*staged=*/true);
  return Verdict::kTaken;
}

void Plan::Take(const cow::Op& op, bool duplicate, bool staged) {
  WindowEntry& entry = window_->entries[window_->ops++];
  entry.op = op;
  entry.duplicate = duplicate;
  entry.slot = WindowEntry::kNoSlot;
  if (!duplicate) window_->bytes += op.span_bytes();
  if (!staged) return;
  entry.slot = static_cast<uint16_t>(window_->blocks);
  for (uint32_t i = 0; i < op.span_blocks(); ++i) {
    // Every block has one op, and duplicates do not come here.
    DMU_CHECK(window_->staged.Insert(
        op.new_block + i, static_cast<uint16_t>(window_->blocks + i)));
  }
  window_->blocks += op.span_blocks();
}

void Plan::End() {
  DMU_CHECK(window_->ops > 0);
  DMU_CHECK(!conflict_ || limits_.has_scratch);
  DMU_CHECK(window_->blocks <= limits_.staging_blocks);
  window_->through_scratch = conflict_;
  DMU_CHECK(!conflict_ || window_->ops <= cow::kScratchEntriesMax);
}

}  // namespace dmu::merge
