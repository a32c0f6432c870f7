// SPDX-License-Identifier: Apache-2.0
//
// plan.cc - see plan.h.
#include "daemon/merge/plan.h"

#include <algorithm>

#include "daemon/base/check.h"

namespace dmu::merge {

void Plan::Begin(Window* window, const Limits& limits) {
  DMU_CHECK(limits.staging_blocks >= 1);
  DMU_CHECK(limits.staging_blocks <= window->capacity);
  DMU_CHECK(limits.direct_ops_min >= 1);
  window_ = window;
  window_->ops = 0;
  window_->blocks = 0;
  window_->bytes = 0;
  window_->through_scratch = false;
  window_->ordered = false;
  window_->has_xor = false;
  limits_ = limits;
  run_ = Run::kNone;
  conflict_ = false;
  fill_blocks_ = 0;
  sources_.Clear();
  written_.Clear();
}

Plan::Verdict Plan::Offer(const cow::Op& op, uint32_t check, bool duplicate) {
  if (window_->ops == window_->capacity) return Verdict::kEnd;
  const bool ordered = cow::IsOrderedOp(op.type) && !duplicate;
  const Run run = ordered ? Run::kOrdered : Run::kUnordered;
  if (run_ != Run::kNone && run_ != run) return Verdict::kEnd;
  run_ = run;
  return ordered ? OfferOrdered(op, check)
                 : OfferUnordered(op, check, duplicate);
}

Plan::Verdict Plan::OfferUnordered(const cow::Op& op, uint32_t check,
                                   bool duplicate) {
  const bool staged = !duplicate && op.type == cow::OpType::kReplace;
  if (staged) {
    if (op.span_blocks() > limits_.staging_blocks) {
      return window_->ops == 0 ? Verdict::kTooLarge : Verdict::kEnd;
    }
    if (window_->ops > 0 &&
        window_->blocks + op.span_blocks() > window_->capacity) {
      return Verdict::kEnd;
    }
  }
  Take(op, check, duplicate, staged);
  return Verdict::kTaken;
}

Plan::Verdict Plan::OfferOrdered(const cow::Op& op, uint32_t check) {
  const auto first = static_cast<uint32_t>(op.source_bytes() / kBlockBytes);
  const uint32_t last =
      op.source_bytes() % kBlockBytes == 0 ? first : first + 1;
  const uint32_t scratch_ops_max =
      std::min(limits_.staging_blocks, cow::kScratchEntriesMax);
  // Reading what it writes itself: a copy onto itself changes nothing and may
  // be repeated for ever, an xor may not.
  const bool own = op.type == cow::OpType::kXor &&
                   (first == op.new_block || last == op.new_block);
  const bool conflict = own || sources_.Contains(op.new_block) ||
                        written_.Contains(first) || written_.Contains(last);
  if (conflict && !conflict_) {
    if (own && !limits_.has_scratch && window_->ops == 0) {
      return Verdict::kNotMergeable;
    }
    if (!limits_.has_scratch || window_->ops >= limits_.direct_ops_min) {
      return Verdict::kEnd;
    }
  }
  if ((conflict || conflict_) && window_->ops >= scratch_ops_max) {
    return Verdict::kEnd;
  }
  conflict_ |= conflict;
  sources_.Insert(first, 0);
  if (last != first) sources_.Insert(last, 0);
  // Every block has one op, and duplicates do not come here.
  DMU_CHECK(written_.Insert(op.new_block, 0));
  window_->ordered = true;
  window_->has_xor |= op.type == cow::OpType::kXor;
  Take(op, check, /*duplicate=*/false, /*staged=*/true);
  return Verdict::kTaken;
}

void Plan::Take(const cow::Op& op, uint32_t check, bool duplicate,
                bool staged) {
  WindowEntry& entry = window_->entries[window_->ops++];
  entry.op = op;
  entry.check = check;
  entry.xored = false;
  entry.duplicate = duplicate;
  entry.slot = WindowEntry::kNoSlot;
  entry.begins_fill = false;
  if (!duplicate) window_->bytes += op.span_bytes();
  if (!staged) return;
  if (fill_blocks_ + op.span_blocks() > limits_.staging_blocks) {
    entry.begins_fill = true;
    fill_blocks_ = 0;
  }
  entry.slot = static_cast<uint16_t>(fill_blocks_);
  fill_blocks_ += op.span_blocks();
  window_->blocks += op.span_blocks();
}

void Plan::End() {
  DMU_CHECK(window_->ops > 0);
  DMU_CHECK(!conflict_ || limits_.has_scratch);
  window_->through_scratch = conflict_;
  DMU_CHECK(!conflict_ || window_->ops <= cow::kScratchEntriesMax);
  DMU_CHECK(!conflict_ || window_->blocks <= limits_.staging_blocks);
}

}  // namespace dmu::merge
