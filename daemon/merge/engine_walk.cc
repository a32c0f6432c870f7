// SPDX-License-Identifier: Apache-2.0
//
// engine_walk.cc - the engine's way through the merge order M. What M's next op
// is stands partly in the file: a page of the op table, of the checks and of
// the sequence is held at a time.
#include <algorithm>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/merge/engine.h"

namespace dmu::merge {

using Order = cow::Index::Order;

void Engine::Seek(uint64_t position) {
  const cow::Index& index = image_.index;
  walk_position_ = position;
  walk_op_ = 0;
  walk_rank_ = 0;
  if (position == total_ops()) return;
  const auto at = static_cast<uint32_t>(position);
  if (at >= index.listed_count()) {
    walk_rank_ = index.NextRestRank(index.RankOfPosition(at));
  } else if (index.order() == Order::kFile) {
    walk_op_ = at;
  } else if (index.order() == Order::kOrdered) {
    const uint32_t rank = index.RankOfPosition(at);
    DMU_CHECK(rank < index.op_count());
    walk_op_ = index.AtRank(rank).op;
  }
}

void Engine::Advance() {
  const cow::Index& index = image_.index;
  ++walk_position_;
  if (walk_position_ > index.listed_count()) {
    walk_rank_ = index.NextRestRank(walk_rank_ + 1);
  } else if (walk_position_ == index.listed_count()) {
    walk_rank_ = index.NextRestRank(0);
  } else {
    ++walk_op_;
  }
}

bool Engine::SequenceInPage(uint32_t position) const {
  return position >= sequence_first_ &&
         position - sequence_first_ < sequence_count_;
}

Engine::Emit Engine::EmitWalk(Command* command) {
  const cow::Index& index = image_.index;
  const auto position = static_cast<uint32_t>(walk_position_);
  for (;;) {
    if (position >= index.listed_count()) {
      DMU_CHECK(walk_rank_ < index.op_count());
      const cow::Index::Found found = index.AtRank(walk_rank_);
      walk_op_ = found.op;
    } else if (index.order() == Order::kSequence) {
      if (!SequenceInPage(position)) {
        return under_way_ > 0 ? Emit::kWait : ReadSequence(command, position);
      }
      const auto block = LoadLe<uint32_t>(workspace_->sequence +
                                          4 * (position - sequence_first_));
      const auto found = index.Find(block);
      if (!found.has_value() || found->position != position) {
        FailChanged(position);
        return Emit::kNothing;
      }
      walk_op_ = found->op;
    }
    DMU_CHECK(walk_op_ < index.op_count());
    if (page_.ops == 0 || walk_op_ < page_.first_op ||
        walk_op_ - page_.first_op >= page_.ops) {
      return under_way_ > 0 ? Emit::kWait : ReadPage(command, walk_op_);
    }
    if (!page_decoded_) {
      if (under_way_ > 0) return Emit::kWait;
      FailChanged(walk_op_);
      return Emit::kNothing;
    }
    const cow::Op& op = workspace_->ops[walk_op_ - page_.first_op];
    if (position < index.listed_count() && index.order() == Order::kOrdered &&
        !cow::IsOrderedOp(op.type)) {
      ++walk_op_;
      continue;
    }
    if (has_checks() && !checks_valid_ && cow::HasData(op.type)) {
      return under_way_ > 0 ? Emit::kWait : ReadChecks(command);
    }
    return Emit::kNothing;
  }
}

Engine::Emit Engine::ReadPage(Command* command, uint32_t op_number) {
  page_ = image_.ops.PageOf(op_number);
  page_decoded_ = checks_valid_ = false;
  *command = Command();
  command->kind = Command::Kind::kReadOps;
  command->offset = page_.offset;
  command->data = workspace_->op_page;
  command->length_bytes = page_.bytes;
  return Emit::kCommand;
}

void Engine::TakePage() {
  page_decoded_ =
      image_.ops.DecodeAll(page_, workspace_->op_page, workspace_->ops);
}

Engine::Emit Engine::ReadChecks(Command* command) {
  *command = Command();
  command->kind = Command::Kind::kReadChecks;
  command->offset = image_.unit_checks_offset + uint64_t{4} * page_.first_op;
  command->data = workspace_->checks;
  command->length_bytes = 4 * page_.ops;
  return Emit::kCommand;
}

Engine::Emit Engine::ReadSequence(Command* command, uint32_t position) {
  const auto after =
      std::upper_bound(image_.sequence.begin(), image_.sequence.end(), position,
                       [](uint32_t p, const cow::SequenceChunk& chunk) {
                         return p < chunk.first;
                       });
  DMU_CHECK(after != image_.sequence.begin());
  const cow::SequenceChunk& chunk = *(after - 1);
  const uint32_t skip = position - chunk.first;
  DMU_CHECK(skip < chunk.count);
  sequence_first_ = position;
  sequence_count_ = 0;
  *command = Command();
  command->kind = Command::Kind::kReadSequence;
  command->offset = chunk.offset + uint64_t{4} * skip;
  command->data = workspace_->sequence;
  command->length_bytes = 4 * std::min(Workspace::kPageOps, chunk.count - skip);
  return Emit::kCommand;
}

void Engine::FailChanged(uint32_t op_number) {
  page_ = cow::OpTable::Page();
  sequence_count_ = 0;
  Fail(
      "op %u of the COW file, or its place in the merge order, is not what it "
      "was when the file was attached: the storage is failing or something "
      "else writes to it",
      op_number);
}

// Whether the op is within what the loader has allowed. Records are read anew,
// and buffers are as large as the loader said.
bool Engine::IsAsLoaded(const cow::Op& op,
                        const cow::Index::Found& found) const {
  if (found.new_block != op.new_block) return false;
  if (found.op == walk_op_ &&
      (found.type != op.type || found.span_log2 != op.span_log2)) {
    return false;
  }
  if (cow::IsOrderedOp(op.type) &&
      op.source_bytes() + kBlockBytes > image_.source_end_bytes) {
    return false;
  }
  if (!cow::HasData(op.type)) return true;
  const bool raw = op.compression == cow::Compression::kNone;
  return op.data_length >= 1 && op.data_length <= image_.stored_bytes_max &&
         (!raw || op.data_length == op.span_bytes());
}

bool Engine::Offer() {
  const cow::Op& op = workspace_->ops[walk_op_ - page_.first_op];
  const auto found = image_.index.Find(op.new_block);
  if (!found.has_value() || !IsAsLoaded(op, *found)) {
    FailChanged(walk_op_);
    return false;
  }
  uint32_t check = 0;
  if (has_checks() && cow::HasData(op.type)) {
    check =
        LoadLe<uint32_t>(workspace_->checks + 4 * (walk_op_ - page_.first_op));
  }
  const bool duplicate = found->op != walk_op_;
  switch (workspace_->plan.Offer(op, check, duplicate)) {
    case Plan::Verdict::kTaken:
      return true;
    case Plan::Verdict::kEnd:
      DMU_CHECK(workspace_->window.ops > 0);
      return false;
    case Plan::Verdict::kTooLarge:
      Fail(
          "the unit at block %u has %u blocks, more than the %u of the "
          "merge's staging memory",
          op.new_block, op.span_blocks(), staging_blocks());
      return false;
    case Plan::Verdict::kNotMergeable:
      Fail(
          "the xor of block %u reads that block itself, and the COW file has "
          "no scratch region that would protect it; it cannot be merged in "
          "place, extract the target image instead",
          op.new_block);
      return false;
  }
  return false;
}

}  // namespace dmu::merge
