// SPDX-License-Identifier: Apache-2.0
//
// engine_emit.cc - what each stage of the engine asks for. A stage walks
// through its window with cursor_ and joins what is adjacent on both sides into
// one command.
#include <algorithm>

#include "daemon/base/check.h"
#include "daemon/merge/engine.h"

namespace dmu::merge {
namespace {

constexpr uint32_t kCommandBlocks = kCommandBytesMax / kBlockBytes;

// The metadata outside the first sector; what is inside goes out with state 2.
constexpr uint32_t kMetadataBegin =
    static_cast<uint32_t>(cow::kScratchStateOffset) + 1;
constexpr uint32_t kMetadataInSector = kSectorBytes - kMetadataBegin;
constexpr uint32_t kMetadataTail =
    cow::kScratchMetadataBytes - 1 - kMetadataInSector;
static_assert(kSectorBytes + kMetadataTail == cow::ScratchDataOffset(0));

}  // namespace

Engine::Emit Engine::EmitStage(Command* command) {
  switch (stage_) {
    case Stage::kEdge:
      return Emit::kNothing;
    case Stage::kReadSector:
      return EmitSector(command, Command::Kind::kReadSector);
    case Stage::kPlan:
      return EmitPlan(command);
    case Stage::kGather:
      return EmitGather(command);
    case Stage::kLoadScratch:
      return EmitLoadScratch(command);
    case Stage::kStageData:
      return EmitStageData(command);
    case Stage::kStageState:
      return EmitSector(command, Command::Kind::kWriteState);
    case Stage::kApply:
      return EmitApply(command);
    case Stage::kCommit:
      return EmitSector(command, Command::Kind::kCommit);
  }
  return Emit::kNothing;
}

bool Engine::EmitFlush(Command* command) {
  const bool base = stage_ == Stage::kApply;
  // Before anything else is written: what was read of the COW file may have
  // been left in a cache by a merge that was killed.
  const bool cow = stage_ == Stage::kReadSector ||
                   stage_ == Stage::kStageData ||
                   stage_ == Stage::kStageState || stage_ == Stage::kCommit;
  if (flush_sent_ || (!base && !cow)) return false;
  DMU_CHECK(under_way_ == 0);
  flush_sent_ = true;
  *command = Command();
  command->kind = base ? Command::Kind::kFlushBase : Command::Kind::kFlushCow;
  return true;
}

Engine::Emit Engine::EmitSector(Command* command, Command::Kind kind) {
  if (cursor_ > 0) return Emit::kNothing;
  cursor_ = 1;
  uint8_t* sector = workspace_->sector;
  // Without a scratch region there is no state: its place belongs to others.
  const uint8_t not_mine = sector[cow::kScratchStateOffset];
  if (kind == Command::Kind::kWriteState) {
    DMU_CHECK(has_scratch() && workspace_->window.through_scratch);
    std::copy_n(workspace_->scratch_metadata, kMetadataInSector,
                sector + kMetadataBegin);
    cow::EncodeProgress(merged_ops_, cow::ScratchState::kWindowStaged, sector);
  } else if (kind == Command::Kind::kCommit) {
    cow::EncodeProgress(window_end(), cow::ScratchState::kInProgress, sector);
    if (!has_scratch()) sector[cow::kScratchStateOffset] = not_mine;
  }
  *command = Command();
  command->kind = kind;
  command->data = sector;
  command->length_bytes = sector_bytes_;
  return Emit::kCommand;
}

bool Engine::RecordInPage(uint32_t op_number) const {
  return page_ops_ > 0 && op_number >= page_first_op_ &&
         op_number - page_first_op_ < page_ops_;
}

Engine::Emit Engine::ReadPage(Command* command, uint32_t op_number) {
  const uint32_t first = op_number / Workspace::kPageOps * Workspace::kPageOps;
  const uint64_t count =
      std::min<uint64_t>(Workspace::kPageOps, total_ops() - first);
  page_ops_ = 0;
  *command = Command();
  command->kind = Command::Kind::kReadOps;
  command->offset = image_.header.OpsOffset() + uint64_t{first} * cow::kOpBytes;
  command->data = workspace_->op_page;
  command->length_bytes = static_cast<uint32_t>(count * cow::kOpBytes);
  return Emit::kCommand;
}

Engine::Emit Engine::EmitPlan(Command* command) {
  while (!planned_) {
    const uint64_t position = merged_ops_ + workspace_->window.ops;
    if (position == total_ops()) {
      planned_ = true;
      break;
    }
    const uint32_t op_number =
        image_.index.OpAt(static_cast<uint32_t>(position));
    if (!RecordInPage(op_number)) {
      if (under_way_ > 0) return Emit::kWait;
      return ReadPage(command, op_number);
    }
    if (!OfferPosition(position)) planned_ = true;
  }
  return Emit::kNothing;
}

bool Engine::OfferPosition(uint64_t position) {
  const uint32_t op_number = image_.index.OpAt(static_cast<uint32_t>(position));
  cow::Op op;
  if (!DecodeRecord(op_number, &op)) {
    Fail(
        "record %u of the op table, at offset %llu of the COW file, is not "
        "what it was when the file was attached: the storage is failing or "
        "something else writes to it",
        op_number,
        static_cast<unsigned long long>(image_.header.OpsOffset() +
                                        uint64_t{op_number} * cow::kOpBytes));
    return false;
  }
  const bool duplicate = image_.index.PositionOf(op_number) != position;
  switch (workspace_->plan.Offer(op, duplicate)) {
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
      if (workspace_->window.ops > 0) return false;
      Fail(
          "the op of block %u is of a type that is not merged by this "
          "version",
          op.new_block);
      return false;
  }
  return false;
}

// False when the record is not the one the index was built from.
bool Engine::DecodeRecord(uint32_t op_number, cow::Op* op) {
  const uint8_t* record =
      workspace_->op_page + size_t{op_number - page_first_op_} * cow::kOpBytes;
  if (!cow::DecodeOp(record, op)) return false;
  const auto found = image_.index.Find(op->new_block);
  return found.has_value() && found->op == op_number &&
         found->new_block == op->new_block && found->type == op->type &&
         found->span_log2 == op->span_log2;
}

Engine::Emit Engine::EmitGather(Command* command) {
  const Window& window = workspace_->window;
  while (cursor_ < window.ops &&
         window.entries[cursor_].slot == WindowEntry::kNoSlot) {
    ++cursor_;
  }
  if (cursor_ == window.ops) return Emit::kNothing;
  const WindowEntry& first = window.entries[cursor_++];
  *command = Command();
  command->data = StagingAt(first.slot);
  command->op = first.op;
  if (first.op.type == cow::OpType::kReplace) {
    command->kind = Command::Kind::kLoadUnit;
    command->offset = first.op.source;
    command->length_bytes = first.op.span_bytes();
    return Emit::kCommand;
  }
  uint32_t blocks = 1;
  while (cursor_ < window.ops && blocks < kCommandBlocks &&
         window.entries[cursor_].op.source == first.op.source + blocks) {
    DMU_CHECK(window.entries[cursor_].slot == first.slot + blocks);
    ++cursor_;
    ++blocks;
  }
  command->kind = Command::Kind::kReadSource;
  command->offset = first.op.source * kBlockBytes;
  command->length_bytes = blocks * kBlockBytes;
  return Emit::kCommand;
}

Engine::Emit Engine::EmitLoadScratch(Command* command) {
  const uint32_t count = workspace_->window.ops;
  if (cursor_ == count) return Emit::kNothing;
  const uint32_t first = cursor_++;
  const uint64_t offset = scratch_[replay_next_ + first].file_offset;
  uint32_t blocks = 1;
  while (cursor_ < count && blocks < kCommandBlocks &&
         scratch_[replay_next_ + cursor_].file_offset ==
             offset + uint64_t{blocks} * kBlockBytes) {
    ++cursor_;
    ++blocks;
  }
  *command = Command();
  command->kind = Command::Kind::kReadScratch;
  command->offset = offset;
  command->data = StagingAt(first);
  command->length_bytes = blocks * kBlockBytes;
  return Emit::kCommand;
}

// First the metadata outside the first sector, then the data.
Engine::Emit Engine::EmitStageData(Command* command) {
  *command = Command();
  command->kind = Command::Kind::kWriteScratch;
  if (cursor_ == 0) {
    cursor_ = 1;
    command->offset = kSectorBytes;
    command->data = workspace_->scratch_metadata + kMetadataInSector;
    command->length_bytes = kMetadataTail;
    return Emit::kCommand;
  }
  const uint32_t first = (cursor_ - 1) * kCommandBlocks;
  if (first >= window_ops_) return Emit::kNothing;
  ++cursor_;
  command->offset = cow::ScratchDataOffset(first);
  command->data = StagingAt(first);
  command->length_bytes =
      std::min(kCommandBlocks, window_ops_ - first) * kBlockBytes;
  return Emit::kCommand;
}

Engine::Emit Engine::EmitApply(Command* command) {
  const Window& window = workspace_->window;
  while (cursor_ < window.ops && window.entries[cursor_].duplicate) ++cursor_;
  if (cursor_ == window.ops) return Emit::kNothing;
  const WindowEntry& first = window.entries[cursor_++];
  const bool staged = first.slot != WindowEntry::kNoSlot;
  uint32_t blocks = first.op.span_blocks();
  while (cursor_ < window.ops) {
    const WindowEntry& next = window.entries[cursor_];
    if (next.duplicate || next.op.new_block != first.op.new_block + blocks ||
        (next.slot != WindowEntry::kNoSlot) != staged ||
        blocks + next.op.span_blocks() > kCommandBlocks) {
      break;
    }
    // Staging is filled in the order of the entries.
    DMU_CHECK(!staged || next.slot == first.slot + blocks);
    blocks += next.op.span_blocks();
    ++cursor_;
  }
  *command = Command();
  command->kind = staged ? Command::Kind::kWriteBase : Command::Kind::kZeroBase;
  command->offset = uint64_t{first.op.new_block} * kBlockBytes;
  command->data = staged ? StagingAt(first.slot) : nullptr;
  command->length_bytes = blocks * kBlockBytes;
  return Emit::kCommand;
}

}  // namespace dmu::merge
