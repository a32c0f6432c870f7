// SPDX-License-Identifier: Apache-2.0
//
// undo_engine.cc - see undo_engine.h.
#include "daemon/merge/undo_engine.h"

#include <algorithm>
#include <cstdio>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/progress.h"

namespace dmu::merge {
namespace {

using Kind = Command::Kind;

// Groups taken back in one step: what two flushes are paid for.
constexpr uint32_t kStepGroupsMax = 64;

}  // namespace

UndoEngine::UndoEngine(const cow::Image& image, uint64_t cow_bytes,
                       const UndoLoader& log)
    : image_(image),
      log_(log),
      sector_bytes_(
          static_cast<uint32_t>(std::min<uint64_t>(kSectorBytes, cow_bytes))),
      counter_(image.progress.merged_ops),
      buffer_((1 + size_t{kUndoGroupBlocksMax}) * kBlockBytes),
      metadata_(cow::kScratchMetadataBytes - 1),
      new_blocks_(cow::kScratchEntriesMax) {
  DMU_CHECK(log.done());
}

void UndoEngine::Start() {
  if (state_ == State::kDone || state_ == State::kRunning) return;
  pause_ = false;
  error_[0] = '\0';
  state_ = State::kRunning;
}

void UndoEngine::Enter(Stage stage) {
  stage_ = stage;
  cursor_ = 0;
  retry_cursor_ = UINT32_MAX;
  flush_sent_ = false;
}

UndoEngine::Turn UndoEngine::Next(Command* command) {
  uint32_t before = 0;
  for (;;) {
    if (failing_ && under_way_ == 0) EnterFailed();
    if (failing_ || under_way_ == kCommandsMax) return Turn::kWaitDone;
    if (state_ != State::kRunning) return Turn::kStop;
    before = cursor_;
    if (EmitStage(command) == Emit::kCommand || EmitFlush(command)) break;
    if (under_way_ > 0) return Turn::kWaitDone;
    LeaveStage();
  }
  uint32_t id = 0;
  while (commands_[id].used) ++id;
  command->id = id;
  commands_[id] = {true, before, *command};
  ++under_way_;
  return Turn::kCommand;
}

void UndoEngine::Done(uint32_t id, IoStatus status) {
  DMU_CHECK(id < kCommandsMax && commands_[id].used);
  UnderWay& done = commands_[id];
  done.used = false;
  --under_way_;
  if (status == IoStatus::kOk) return;
  retry_cursor_ = std::min(retry_cursor_, done.cursor);
  Fail(done.command, status);
}

void UndoEngine::Fail(const Command& command, IoStatus status) {
  // Any of the writes that a flush was for may have been dropped.
  repeat_stage_ |= flush_sent_;
  if (failing_) return;
  failing_ = true;
  std::snprintf(error_, sizeof(error_),
                "%s of %u bytes at offset %llu failed: %s; start the undo "
                "again when the cause is gone, nothing is lost",
                CommandName(command.kind), command.length_bytes,
                static_cast<unsigned long long>(command.offset),
                IoStatusName(status));
}

void UndoEngine::FailStage(const char* sentence, uint64_t offset) {
  failing_ = repeat_stage_ = true;
  std::snprintf(error_, sizeof(error_), sentence,
                static_cast<unsigned long long>(offset));
}

void UndoEngine::EnterFailed() {
  failing_ = false;
  state_ = State::kFailed;
  if (!repeat_stage_) {
    cursor_ = std::min(cursor_, retry_cursor_);
    retry_cursor_ = UINT32_MAX;
    return;
  }
  repeat_stage_ = false;
  if (stage_ == Stage::kRestoreWrite) {
    BeginRestore(first_group_, end_group_, from_, until_);
  } else if (stage_ == Stage::kScratchNames) {
    group_index_ = first_group_;
    Enter(Stage::kScratchGroup);
  } else {
    Enter(stage_);
  }
}

UndoEngine::Emit UndoEngine::EmitStage(Command* command) {
  switch (stage_) {
    case Stage::kReadSector:
      return EmitSector(command, Kind::kReadSector);
    case Stage::kNoteDurable: {
      if (cursor_++ > 0) return Emit::kNothing;
      UndoSuperblock super = log_.super();
      super.durable_position =
          std::max(super.durable_position, log_.tail().position);
      EncodeUndoSuperblock(super, super_);
      *command = Command();
      command->kind = Kind::kWriteUndo;
      command->data = super_;
      command->length_bytes = kSectorBytes;
      return Emit::kCommand;
    }
    case Stage::kRestoreRead:
    case Stage::kScratchGroup:
      return EmitGroupRead(command);
    case Stage::kRestoreWrite:
      return EmitRun(command, Kind::kWriteBase);
    case Stage::kScratchBase:
      return EmitRun(command, Kind::kReadOld);
    case Stage::kScratchWrite:
      return EmitRun(command, Kind::kWriteScratch);
    case Stage::kScratchNames: {
      if (cursor_++ > 0) return Emit::kNothing;
      cow::EncodeScratchMetadata(image_.header, new_blocks_.data(),
                                 static_cast<uint32_t>(until_ - from_),
                                 metadata_.data());
      const uint32_t in_sector = kSectorBytes - metadata_begin();
      *command = Command();
      command->kind = Kind::kWriteScratch;
      command->offset = kSectorBytes;
      command->data = metadata_.data() + in_sector;
      command->length_bytes =
          static_cast<uint32_t>(metadata_.size()) - in_sector;
      return Emit::kCommand;
    }
    case Stage::kLower:
      return EmitSector(command,
                        through_scratch_ ? Kind::kWriteState : Kind::kCommit);
    case Stage::kSettle:
    case Stage::kForget:
      return EmitSector(command, Kind::kCommit);
  }
  return Emit::kNothing;
}

UndoEngine::Emit UndoEngine::EmitSector(Command* command, Kind kind) {
  if (cursor_++ > 0) return Emit::kNothing;
  if (stage_ == Stage::kSettle) {
    cow::EncodeProgress(image_.header, counter_, cow::ScratchState::kInProgress,
                        sector_);
  } else if (stage_ == Stage::kForget) {
    cow::EncodeProgress(image_.header, 0, cow::ScratchState::kNotStarted,
                        sector_);
  } else if (kind == Kind::kWriteState) {
    std::copy_n(metadata_.data(), kSectorBytes - metadata_begin(),
                sector_ + metadata_begin());
    cow::EncodeProgress(image_.header, lower_to_,
                        cow::ScratchState::kWindowStaged, sector_);
  } else if (kind == Kind::kCommit) {
    cow::EncodeProgress(image_.header, lower_to_,
                        cow::ScratchState::kInProgress, sector_);
  }
  *command = Command();
  command->kind = kind;
  command->data = sector_;
  command->length_bytes = sector_bytes_;
  return Emit::kCommand;
}

UndoEngine::Emit UndoEngine::EmitGroupRead(Command* command) {
  const UndoPlace& place = log_.places()[group_index_];
  const bool with_data = stage_ == Stage::kRestoreRead && place.count > 0;
  if (cursor_ == (with_data ? 2 : 1)) return Emit::kNothing;
  *command = Command();
  command->kind = Kind::kReadUndo;
  command->offset = place.offset + uint64_t{cursor_} * kBlockBytes;
  command->data = buffer_.data() + size_t{cursor_} * kBlockBytes;
  command->length_bytes = (cursor_ == 0 ? 1 : place.count) * kBlockBytes;
  ++cursor_;
  return Emit::kCommand;
}

// What of the group is adjacent where the command goes, and has to be done.
UndoEngine::Emit UndoEngine::EmitRun(Command* command, Kind kind) {
  while (cursor_ < group_.count && !IsOf(group_.entries[cursor_])) ++cursor_;
  if (cursor_ == group_.count) return Emit::kNothing;
  const uint32_t first = cursor_++;
  const UndoEntry& entry = group_.entries[first];
  const bool scratch = kind == Kind::kWriteScratch;
  while (cursor_ < group_.count && IsOf(group_.entries[cursor_])) {
    const UndoEntry& next = group_.entries[cursor_];
    const uint32_t blocks = cursor_ - first;
    if (scratch ? next.position != entry.position + blocks
                : next.block != entry.block + blocks) {
      break;
    }
    ++cursor_;
  }
  *command = Command();
  command->kind = kind;
  command->data = data() + size_t{first} * kBlockBytes;
  command->length_bytes = (cursor_ - first) * kBlockBytes;
  command->offset = scratch ? image_.header.ScratchDataOffset(
                                  static_cast<uint32_t>(entry.position - from_))
                            : uint64_t{entry.block} * kBlockBytes;
  return Emit::kCommand;
}

bool UndoEngine::EmitFlush(Command* command) {
  Kind kind = Kind::kFlushCow;
  switch (stage_) {
    case Stage::kNoteDurable:
      kind = Kind::kFlushUndo;
      break;
    case Stage::kRestoreWrite:
      if (group_index_ + 1 < end_group_) return false;
      kind = Kind::kFlushBase;
      break;
    // A merge that was killed may have left what was read in a cache only.
    case Stage::kReadSector:
    case Stage::kSettle:
    case Stage::kScratchNames:
    case Stage::kLower:
    case Stage::kForget:
      break;
    default:
      return false;
  }
  if (flush_sent_ || under_way_ > 0) return false;
  flush_sent_ = true;
  *command = Command();
  command->kind = kind;
  return true;
}

// The group is what it was when the log was loaded.
bool UndoEngine::TakeGroup(bool with_data) {
  const UndoPlace& place = log_.places()[group_index_];
  uint64_t check = 0;
  uint64_t at = place.offset;
  bool good =
      DecodeUndoGroup(buffer_.data(), place.previous, place.begin_position,
                      log_.super().merge_ops, &group_, &check) &&
      group_.count == place.count;
  for (uint32_t i = 0; good && with_data && i < group_.count; ++i) {
    at = place.offset + uint64_t{1 + i} * kBlockBytes;
    good = UndoBlockCheck(data() + size_t{i} * kBlockBytes) ==
           group_.entries[i].check;
  }
  if (good) return true;
  FailStage(
      "the undo log is corrupt at offset %llu, and was not when it was "
      "checked: its storage is failing. What is not restored yet can still be "
      "read as the new image",
      at);
  return false;
}

void UndoEngine::LeaveStage() {
  switch (stage_) {
    case Stage::kReadSector: {
      const cow::Header header = cow::DecodeHeader(sector_);
      if (LoadLe<uint64_t>(sector_) != cow::kMagic ||
          header.num_merge_ops > log_.tail().position) {
        FailStage(
            "the header of the COW file, at offset %llu, is not what it was "
            "when the file was loaded: something else writes to it",
            0);
        return;
      }
      counter_ = header.num_merge_ops;
      Enter(Stage::kNoteDurable);
      return;
    }
    case Stage::kNoteDurable: {
      const std::vector<UndoPlace>& places = log_.places();
      uint32_t first = 0;
      while (first < places.size() && places[first].end_position <= counter_ &&
             places[first].kind != UndoKind::kTail) {
        ++first;
      }
      through_scratch_ = true;  // state 2 may be there
      BeginRestore(first, static_cast<uint32_t>(places.size()), counter_,
                   UINT64_MAX);
      return;
    }
    case Stage::kRestoreRead:
      if (TakeGroup(/*with_data=*/true)) Enter(Stage::kRestoreWrite);
      return;
    case Stage::kRestoreWrite:
      for (uint32_t i = 0; i < group_.count; ++i) {
        if (IsOf(group_.entries[i])) ++restored_blocks_;
      }
      NextGroup();
      return;
    case Stage::kSettle:
      NextStep();
      return;
    case Stage::kScratchGroup:
      if (TakeGroup(/*with_data=*/false)) Enter(Stage::kScratchBase);
      return;
    case Stage::kScratchBase:
      for (uint32_t i = 0; i < group_.count; ++i) {
        const UndoEntry& entry = group_.entries[i];
        if (IsOf(entry)) new_blocks_[entry.position - from_] = entry.block;
      }
      Enter(Stage::kScratchWrite);
      return;
    case Stage::kScratchWrite:
      NextGroup();
      return;
    case Stage::kScratchNames:
      Enter(Stage::kLower);
      return;
    case Stage::kLower: {
      const uint64_t until = counter_;
      counter_ = lower_to_;
      BeginRestore(first_group_, end_group_, counter_, until);
      return;
    }
    case Stage::kForget:
      state_ = State::kDone;
      return;
  }
}

void UndoEngine::BeginRestore(uint32_t first, uint32_t end, uint64_t from,
                              uint64_t until) {
  first_group_ = group_index_ = first;
  end_group_ = end;
  from_ = from;
  until_ = until;
  Enter(first < end ? Stage::kRestoreRead : Stage::kSettle);
}

void UndoEngine::NextGroup() {
  const bool restore = stage_ == Stage::kRestoreWrite;
  if (++group_index_ < end_group_) {
    Enter(restore ? Stage::kRestoreRead : Stage::kScratchGroup);
  } else if (!restore) {
    Enter(Stage::kScratchNames);
  } else if (through_scratch_) {
    Enter(Stage::kSettle);
  } else {
    NextStep();
  }
}

void UndoEngine::NextStep() {
  if (counter_ == 0) {
    Enter(Stage::kForget);
    return;
  }
  if (pause_) {
    pause_ = false;
    state_ = State::kIdle;
    return;
  }
  ++steps_;
  const std::vector<UndoPlace>& places = log_.places();
  uint32_t last = static_cast<uint32_t>(places.size());
  do {
    DMU_CHECK(last > 0);
    --last;
  } while (places[last].begin_position >= counter_);
  const UndoPlace& back = places[last];
  through_scratch_ = back.kind == UndoKind::kThroughScratch;
  uint32_t first = last;
  while (first > 0 && last - first + 1 < kStepGroupsMax) {
    const UndoPlace& before = places[first - 1];
    if (before.kind != back.kind ||
        (back.kind != UndoKind::kUnordered &&
         before.window_position != back.window_position) ||
        (through_scratch_ &&
         counter_ - before.begin_position > cow::kScratchEntriesMax)) {
      break;
    }
    --first;
  }
  lower_to_ = places[first].begin_position;
  first_group_ = group_index_ = first;
  end_group_ = last + 1;
  from_ = lower_to_;
  until_ = counter_;
  if (through_scratch_ && !image_.header.has_scratch()) {
    FailStage(
        "the undo log, at offset %llu, speaks of a scratch region that the COW "
        "file does not have",
        places[last].offset);
    return;
  }
  Enter(through_scratch_ ? Stage::kScratchGroup : Stage::kLower);
}

}  // namespace dmu::merge
