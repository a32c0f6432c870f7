// SPDX-License-Identifier: Apache-2.0
//
// engine_undo.cc - the stages in which the engine keeps what a window is going
// to overwrite.
#include <algorithm>
#include <cstring>

#include "daemon/base/check.h"
#include "daemon/merge/engine.h"

namespace dmu::merge {

// The next group: entries of the window that the log does not have. A window
// that is planned anew after a crash may begin with entries that it has.
void Engine::EnterSave() {
  const Window& window = workspace_->window;
  if (!keeps_undo_ || undo_.position >= window_end()) {
    EnterFill(0);
    return;
  }
  DMU_CHECK(undo_.position >= merged_ops_);
  UndoGroup& group = workspace_->undo_group;
  group.previous = undo_.previous;
  group.begin_position = undo_.position;
  group.window_position = merged_ops_;
  group.kind = !window.ordered          ? UndoKind::kUnordered
               : window.through_scratch ? UndoKind::kThroughScratch
                                        : UndoKind::kDirect;
  group.count = 0;
  group_entry_ = static_cast<uint32_t>(undo_.position - merged_ops_);
  for (; group_entry_ < window.ops; ++group_entry_) {
    const WindowEntry& entry = window.entries[group_entry_];
    if (entry.duplicate) continue;
    if (group.count + entry.op.span_blocks() > kUndoGroupBlocksMax) break;
    for (uint32_t i = 0; i < entry.op.span_blocks(); ++i) {
      group.entries[group.count++] = {
          entry.op.new_block + i,
          static_cast<uint32_t>(merged_ops_ + group_entry_), 0};
    }
  }
  group.end_position = merged_ops_ + group_entry_;
  Enter(Stage::kSaveRead);
}

Engine::Emit Engine::EmitSaveRead(Command* command) {
  const UndoGroup& group = workspace_->undo_group;
  if (undo_.offset + group.bytes() > undo_limit_bytes_) {
    Fail(
        "the undo log is full: %llu bytes are too few for this merge; its next "
        "group of %llu does not fit. Make it larger, then start the merge "
        "again",
        static_cast<unsigned long long>(undo_limit_bytes_),
        static_cast<unsigned long long>(group.bytes()));
    return Emit::kNothing;
  }
  if (cursor_ == group.count) return Emit::kNothing;
  const uint32_t first = cursor_++;
  while (cursor_ < group.count &&
         group.entries[cursor_].block ==
             group.entries[first].block + (cursor_ - first)) {
    ++cursor_;
  }
  *command = Command();
  command->kind = Command::Kind::kReadOld;
  command->offset = uint64_t{group.entries[first].block} * kBlockBytes;
  command->data = undo_buffer_.data() + size_t{1 + first} * kBlockBytes;
  command->length_bytes = (cursor_ - first) * kBlockBytes;
  return Emit::kCommand;
}

void Engine::SealGroup() {
  UndoGroup& group = workspace_->undo_group;
  for (uint32_t i = 0; i < group.count; ++i) {
    group.entries[i].check =
        UndoBlockCheck(undo_buffer_.data() + size_t{1 + i} * kBlockBytes);
  }
  EncodeUndoGroup(group, undo_buffer_.data());
}

// Header and data may reach the disk in any order: the data has checks.
Engine::Emit Engine::EmitSaveWrite(Command* command) {
  const UndoGroup& group = workspace_->undo_group;
  const uint32_t pieces = group.count > 0 ? 2 : 1;
  if (cursor_ == pieces) return Emit::kNothing;
  *command = Command();
  command->kind = Command::Kind::kWriteUndo;
  command->offset = undo_.offset + uint64_t{cursor_} * kBlockBytes;
  command->data = undo_buffer_.data() + size_t{cursor_} * kBlockBytes;
  command->length_bytes = (cursor_ == 0 ? 1 : group.count) * kBlockBytes;
  ++cursor_;
  return Emit::kCommand;
}

}  // namespace dmu::merge
