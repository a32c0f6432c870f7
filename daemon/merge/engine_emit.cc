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

}  // namespace

Engine::Emit Engine::EmitStage(Command* command) {
  switch (stage_) {
    case Stage::kEdge:
    case Stage::kFlushLog:
      return Emit::kNothing;
    case Stage::kReadSector:
      return EmitSector(command, Command::Kind::kReadSector);
    case Stage::kMark:
      return EmitSector(command, Command::Kind::kMark);
    case Stage::kPlan:
      return EmitPlan(command);
    case Stage::kSaveRead:
      return EmitSaveRead(command);
    case Stage::kSaveWrite:
      return EmitSaveWrite(command);
    case Stage::kGather:
      return EmitGather(command);
    case Stage::kGatherXor:
      return EmitGatherXor(command);
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
  const bool base = stage_ == Stage::kApply && is_last_fill();
  // Before anything else is written: what was read of the COW file may have
  // been left in a cache by a merge that was killed.
  const bool cow = stage_ == Stage::kReadSector || stage_ == Stage::kMark ||
                   stage_ == Stage::kStageData ||
                   stage_ == Stage::kStageState || stage_ == Stage::kCommit;
  // All groups of the window are flushed as one.
  const bool undo =
      (stage_ == Stage::kFlushLog && keeps_undo_) ||
      (stage_ == Stage::kSaveWrite && group_entry_ == workspace_->window.ops);
  if (flush_sent_ || (!base && !cow && !undo)) return false;
  DMU_CHECK(under_way_ == 0);
  flush_sent_ = true;
  *command = Command();
  command->kind = base   ? Command::Kind::kFlushBase
                  : undo ? Command::Kind::kFlushUndo
                         : Command::Kind::kFlushCow;
  return true;
}

Engine::Emit Engine::EmitSector(Command* command, Command::Kind kind) {
  if (cursor_ > 0) return Emit::kNothing;
  cursor_ = 1;
  uint8_t* sector = workspace_->sector;
  if (kind == Command::Kind::kWriteState) {
    DMU_CHECK(has_scratch() && workspace_->window.through_scratch);
    std::copy_n(workspace_->scratch_metadata, metadata_in_sector(),
                sector + metadata_begin());
    cow::EncodeProgress(image_.header, merged_ops_,
                        cow::ScratchState::kWindowStaged, sector);
  } else if (kind == Command::Kind::kMark) {
    cow::EncodeProgress(image_.header, merged_ops_,
                        cow::ScratchState::kInProgress, sector);
  } else if (kind == Command::Kind::kCommit) {
    cow::EncodeProgress(image_.header, window_end(),
                        cow::ScratchState::kInProgress, sector);
  }
  *command = Command();
  command->kind = kind;
  command->data = sector;
  command->length_bytes = sector_bytes_;
  return Emit::kCommand;
}

Engine::Emit Engine::EmitPlan(Command* command) {
  while (!planned_) {
    if (walk_position_ == total_ops()) break;
    const Emit emit = EmitWalk(command);
    if (emit != Emit::kNothing || failing_) return emit;
    planned_ = !Offer();
    if (!planned_) Advance();
  }
  planned_ = true;
  return Emit::kNothing;
}

Engine::Emit Engine::EmitGather(Command* command) {
  const Window& window = workspace_->window;
  while (cursor_ < fill_end_ &&
         window.entries[cursor_].slot == WindowEntry::kNoSlot) {
    ++cursor_;
  }
  if (cursor_ == fill_end_) return Emit::kNothing;
  const WindowEntry& first = window.entries[cursor_++];
  *command = Command();
  command->data = StagingAt(first.slot);
  if (first.op.type == cow::OpType::kReplace) {
    command->kind = Command::Kind::kLoadUnit;
    command->offset = first.op.data_offset;
    command->length_bytes = first.op.span_bytes();
    command->op = first.op;
    command->has_check = has_checks();
    command->check = first.check;
    return Emit::kCommand;
  }
  uint32_t blocks = 1;
  while (cursor_ < fill_end_ && blocks < kCommandBlocks &&
         window.entries[cursor_].op.source_bytes() ==
             first.op.source_bytes() + uint64_t{blocks} * kBlockBytes) {
    DMU_CHECK(window.entries[cursor_].slot == first.slot + blocks);
    ++cursor_;
    ++blocks;
  }
  command->kind = Command::Kind::kReadSource;
  command->offset = first.op.source_bytes();
  command->length_bytes = blocks * kBlockBytes;
  return Emit::kCommand;
}

Engine::Emit Engine::EmitGatherXor(Command* command) {
  const Window& window = workspace_->window;
  while (cursor_ < fill_end_ &&
         (window.entries[cursor_].op.type != cow::OpType::kXor ||
          window.entries[cursor_].xored)) {
    ++cursor_;
  }
  if (cursor_ == fill_end_) return Emit::kNothing;
  stage_cursor_ = cursor_;
  const WindowEntry& entry = window.entries[cursor_++];
  *command = Command();
  command->kind = Command::Kind::kXorUnit;
  command->data = StagingAt(entry.slot);
  command->op = entry.op;
  command->offset = entry.op.data_offset;
  command->length_bytes = kBlockBytes;
  command->has_check = has_checks();
  command->check = entry.check;
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
    command->data = workspace_->scratch_metadata + metadata_in_sector();
    command->length_bytes =
        cow::kScratchMetadataBytes - 1 - metadata_in_sector();
    return Emit::kCommand;
  }
  const uint32_t first = (cursor_ - 1) * kCommandBlocks;
  if (first >= window_ops_) return Emit::kNothing;
  ++cursor_;
  command->offset = image_.header.ScratchDataOffset(first);
  command->data = StagingAt(first);
  command->length_bytes =
      std::min(kCommandBlocks, window_ops_ - first) * kBlockBytes;
  return Emit::kCommand;
}

Engine::Emit Engine::EmitApply(Command* command) {
  const Window& window = workspace_->window;
  while (cursor_ < fill_end_ && window.entries[cursor_].duplicate) ++cursor_;
  if (cursor_ == fill_end_) return Emit::kNothing;
  const WindowEntry& first = window.entries[cursor_++];
  const bool staged = first.slot != WindowEntry::kNoSlot;
  uint32_t blocks = first.op.span_blocks();
  while (cursor_ < fill_end_) {
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
