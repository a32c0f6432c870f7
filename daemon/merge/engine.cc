// SPDX-License-Identifier: Apache-2.0
//
// engine.cc - the stages of a window and the way between them. What each stage
// asks for is in engine_emit.cc, the walk through the merge order
// in engine_walk.cc.
#include "daemon/merge/engine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::merge {
namespace {

using Verdict = cow::Progress::Verdict;

const char* Refusal(const cow::Image& image, uint64_t base_bytes,
                    const char* of_the_caller) {
  if (image.progress.verdict == Verdict::kCorrupt) {
    return "the scratch region of the COW file fits no place of its merge "
           "order, so what the base holds cannot be known; the device is "
           "served, but not merged";
  }
  if (image.progress.merged_ops == image.index.merge_count() && !image.partial)
    return "";
  if (!image.order_error.empty()) return image.order_error.c_str();
  if (of_the_caller[0] != '\0') return of_the_caller;
  if (image.span_blocks > base_bytes / kBlockBytes) {
    return "the base is smaller than the target image; enlarge it, then start "
           "the merge again";
  }
  return "";
}

}  // namespace

Engine::Engine(const cow::Image& image, uint64_t base_bytes, uint64_t cow_bytes,
               const Options& options)
    : image_(image),
      options_(options),
      sector_bytes_(
          static_cast<uint32_t>(std::min<uint64_t>(kSectorBytes, cow_bytes))),
      refusal_(Refusal(image, base_bytes, options.refusal)),
      merged_ops_(image.progress.merged_ops),
      merged_bytes_(options.merged_bytes) {
  DMU_CHECK(merged_ops_ <= total_ops());
  const Verdict verdict = image.progress.verdict;
  if (verdict == Verdict::kReplay || verdict == Verdict::kCorrupt) {
    scratch_ = image.progress.scratch;
    std::sort(scratch_.begin(), scratch_.end(),
              [](const cow::ScratchEntry& a, const cow::ScratchEntry& b) {
                return a.new_block < b.new_block;
              });
    replay_ = verdict == Verdict::kReplay;
  }
  if (replay_) DMU_CHECK(merged_ops_ + scratch_.size() <= total_ops());
  if (merged_ops_ == total_ops() && refusal_[0] == '\0') state_ = State::kDone;
}

void Engine::KeepUndoLog(const UndoTail& tail, uint64_t limit_bytes) {
  DMU_CHECK(workspace_ == nullptr);
  DMU_CHECK(tail.position >= undo_begin_min());
  keeps_undo_ = true;
  undo_ = undo_durable_ = tail;
  undo_limit_bytes_ = limit_bytes;
}

void Engine::Attach(Workspace* workspace, ByteSpan staging,
                    ByteSpan undo_buffer) {
  DMU_CHECK(workspace_ == nullptr && workspace != nullptr);
  DMU_CHECK(workspace->valid());
  const size_t blocks = std::min<size_t>(staging.size() / kBlockBytes,
                                         workspace->window.capacity);
  DMU_CHECK(blocks >= 1);
  DMU_CHECK(blocks * kBlockBytes >= image_.header.unit_bytes_max());
  DMU_CHECK(undo_buffer.size() == (keeps_undo_ ? kUndoBufferBytes : 0));
  workspace_ = workspace;
  staging_ = staging.first(blocks * kBlockBytes);
  undo_buffer_ = undo_buffer;
}

void Engine::Detach() {
  DMU_CHECK(under_way_ == 0 && !staged_ && state_ != State::kRunning);
  workspace_ = nullptr;
  staging_ = undo_buffer_ = ByteSpan();
  undo_ = undo_durable_;
  sector_valid_ = false;
  walk_position_ = UINT64_MAX;
  window_ops_ = 0;
  if (state_ == State::kFailed) Enter(Stage::kEdge);
  page_ = cow::OpTable::Page();
  page_decoded_ = checks_valid_ = false;
  sequence_count_ = 0;
}

void Engine::Start() {
  if (state_ == State::kDone) return;
  pause_ = false;
  if (state_ == State::kRunning) return;
  if (refusal_[0] != '\0') {
    std::snprintf(error_, sizeof(error_), "%s", refusal_);
    state_ = State::kFailed;
    return;
  }
  DMU_CHECK(attached());
  error_[0] = '\0';
  state_ = State::kRunning;
}

void Engine::Pause() { pause_ = state_ == State::kRunning; }

Engine::Turn Engine::Next(Command* command) {
  for (;;) {
    if (failing_ && under_way_ == 0) EnterFailed();
    if (failing_ || under_way_ == kCommandsMax) return Turn::kWaitDone;
    if (state_ != State::kRunning) return Turn::kStop;
    if (MustWaitForLeases()) return Turn::kWaitLease;
    stage_cursor_ = cursor_;
    const Emit emit = EmitStage(command);
    if (emit == Emit::kCommand) return Register(command);
    if (failing_) continue;
    if (emit == Emit::kWait || under_way_ > 0) return Turn::kWaitDone;
    if (EmitFlush(command)) return Register(command);
    LeaveStage();
  }
}

bool Engine::MustWaitForLeases() const {
  if (flush_sent_) return false;
  switch (stage_) {
    case Stage::kStageData:
      // The reads that a replayed window left on the scratch region.
      return cursor_ == 0 && leases_.AnyBelow(merged_ops_);
    case Stage::kApply:
      // While state 2 is on disk nobody reads the sources of W.
      return cursor_ == fill_first_ && !replay_ &&
             leases_.AnyBelow(lease_end());
    default:
      return false;
  }
}

Engine::Turn Engine::Register(Command* command) {
  uint32_t id = 0;
  while (commands_[id].used) ++id;
  DMU_CHECK(id < kCommandsMax);
  command->id = id;
  commands_[id] = {true,
                   command->kind,
                   command->offset,
                   command->length_bytes,
                   command->op.new_block,
                   stage_cursor_};
  ++under_way_;
  // [1] [2] [3] [7], where they would be broken.
  if (command->kind == Command::Kind::kWriteBase ||
      command->kind == Command::Kind::kZeroBase) {
    DMU_CHECK(stage_ == Stage::kApply && window_ops_ > 0 && marked_);
    DMU_CHECK(replay_ || !leases_.AnyBelow(lease_end()));
    DMU_CHECK(replay_ || !workspace_->window.through_scratch || state_durable_);
    DMU_CHECK(!keeps_undo_ || undo_durable_.position >= window_end());
  }
  if (stage_ >= Stage::kStageData) DMU_CHECK(sector_valid_);
  if (command->kind == Command::Kind::kCommit) {
    DMU_CHECK(base_flushed_ && under_way_ == 1);
  }
  return Turn::kCommand;
}

void Engine::Done(uint32_t id, IoStatus status) {
  DMU_CHECK(id < kCommandsMax && commands_[id].used);
  DMU_CHECK(under_way_ > 0);
  const UnderWay command = commands_[id];
  commands_[id].used = false;
  --under_way_;
  if (status != IoStatus::kOk) {
    retry_cursor_ = std::min(retry_cursor_, command.cursor);
    FailCommand(command, status);
    return;
  }
  switch (command.kind) {
    case Command::Kind::kReadSector:
      CheckSector();
      break;
    case Command::Kind::kReadOps:
      TakePage();
      break;
    case Command::Kind::kReadChecks:
      checks_valid_ = true;
      break;
    case Command::Kind::kXorUnit:
      workspace_->window.entries[command.cursor].xored = true;
      break;
    case Command::Kind::kReadSequence:
      sequence_count_ = command.length_bytes / 4;
      break;
    default:
      break;
  }
}

void Engine::Enter(Stage stage) {
  const bool of_a_fill = stage == Stage::kGather ||
                         stage == Stage::kGatherXor || stage == Stage::kApply;
  stage_ = stage;
  cursor_ = of_a_fill ? fill_first_ : 0;
  retry_cursor_ = UINT32_MAX;
  flush_sent_ = false;
}

void Engine::LeaveStage() {
  DMU_CHECK(under_way_ == 0 && !failing_);
  switch (stage_) {
    case Stage::kEdge:
      LeaveEdge();
      return;
    case Stage::kReadSector: {
      sector_valid_ = true;
      const auto state = static_cast<cow::ScratchState>(
          workspace_->sector[image_.header.ScratchStateOffset()]);
      marked_ = !has_scratch() || state != cow::ScratchState::kNotStarted;
      Enter(Stage::kFlushLog);
      return;
    }
    case Stage::kFlushLog:
      Enter(marked_ ? Stage::kEdge : Stage::kMark);
      return;
    case Stage::kMark:
      marked_ = true;
      Enter(Stage::kEdge);
      return;
    case Stage::kPlan:
      workspace_->plan.End();
      window_ops_ = workspace_->window.ops;
      EnterSave();
      return;
    case Stage::kSaveRead:
      SealGroup();
      Enter(Stage::kSaveWrite);
      return;
    case Stage::kSaveWrite:
      undo_.offset += workspace_->undo_group.bytes();
      undo_.position = workspace_->undo_group.end_position;
      undo_.previous = LoadLe<uint64_t>(undo_buffer_.data() + kBlockBytes - 8);
      if (flush_sent_) undo_durable_ = undo_;
      EnterSave();
      return;
    case Stage::kGather:
      if (workspace_->window.has_xor) {
        Enter(Stage::kGatherXor);
        return;
      }
      [[fallthrough]];
    case Stage::kGatherXor:
      staged_ = true;
      if (!workspace_->window.through_scratch) {
        Enter(Stage::kApply);
        return;
      }
      for (uint32_t i = 0; i < window_ops_; ++i) {
        workspace_->new_blocks[i] = workspace_->window.entries[i].op.new_block;
      }
      cow::EncodeScratchMetadata(image_.header, workspace_->new_blocks,
                                 window_ops_, workspace_->scratch_metadata);
      Enter(Stage::kStageData);
      return;
    case Stage::kLoadScratch:
      staged_ = true;
      Enter(Stage::kApply);
      return;
    case Stage::kStageData:
      Enter(Stage::kStageState);
      return;
    case Stage::kStageState:
      state_durable_ = true;
      Enter(Stage::kApply);
      return;
    case Stage::kApply:
      if (replay_) replay_next_ += workspace_->window.ops;
      if (replay_ && replay_next_ < scratch_.size()) {
        EnterLoadScratch();
        return;
      }
      if (!is_last_fill()) {
        EnterFill(fill_end_);
        return;
      }
      base_flushed_ = true;
      Enter(Stage::kCommit);
      return;
    case Stage::kCommit:
      Commit();
      return;
  }
}

void Engine::LeaveEdge() {
  DMU_CHECK(window_ops_ == 0 && !staged_);
  if (merged_ops_ == total_ops()) {
    state_ = State::kDone;
  } else if (pause_) {
    pause_ = false;
    state_ = State::kIdle;
  } else if (!sector_valid_) {
    Enter(Stage::kReadSector);
  } else if (!marked_) {
    Enter(Stage::kMark);
  } else if (replay_) {
    window_ops_ = static_cast<uint32_t>(scratch_.size());
    replay_next_ = 0;
    EnterLoadScratch();
  } else {
    workspace_->plan.Begin(
        &workspace_->window,
        {staging_blocks(), has_scratch(), options_.direct_ops_min});
    staged_ = false;
    planned_ = false;
    // A window that was given up has led the walk too far.
    if (walk_position_ != merged_ops_) Seek(merged_ops_);
    Enter(Stage::kPlan);
  }
}

// The next entries of the window that a crash left, as many as fit.
void Engine::EnterLoadScratch() {
  Window& window = workspace_->window;
  staged_ = false;
  window.staged.Clear();
  const size_t count =
      std::min<size_t>(scratch_.size() - replay_next_, staging_blocks());
  for (uint32_t i = 0; i < count; ++i) {
    WindowEntry& entry = window.entries[i];
    entry.op = cow::Op();
    entry.op.type = cow::OpType::kCopy;
    entry.op.new_block = scratch_[replay_next_ + i].new_block;
    entry.slot = static_cast<uint16_t>(i);
    entry.duplicate = entry.begins_fill = false;
    DMU_CHECK(window.staged.Insert(entry.op.new_block, entry.slot));
  }
  window.ops = window.blocks = static_cast<uint32_t>(count);
  window.through_scratch = true;
  window.has_xor = false;
  window.bytes = scratch_.size() * kBlockBytes;
  fill_first_ = 0;
  fill_end_ = window.ops;
  Enter(Stage::kLoadScratch);
}

void Engine::EnterFill(uint32_t first) {
  Window& window = workspace_->window;
  staged_ = false;
  window.staged.Clear();
  fill_first_ = fill_end_ = first;
  do {
    WindowEntry& entry = window.entries[fill_end_];
    entry.xored = false;
    if (entry.slot == WindowEntry::kNoSlot) continue;
    for (uint32_t i = 0; i < entry.op.span_blocks(); ++i) {
      DMU_CHECK(window.staged.Insert(entry.op.new_block + i,
                                     static_cast<uint16_t>(entry.slot + i)));
    }
  } while (++fill_end_ < window.ops && !window.entries[fill_end_].begins_fill);
  Enter(Stage::kGather);
}

void Engine::Commit() {
  merged_ops_ += window_ops_;
  merged_bytes_ += workspace_->window.bytes;
  DMU_CHECK(merged_ops_ <= total_ops());
  window_ops_ = 0;
  staged_ = state_durable_ = base_flushed_ = false;
  if (on_commit_ != nullptr) {
    on_commit_(on_commit_context_, replay_ ? nullptr : &workspace_->window);
  }
  if (replay_) {
    replay_ = false;
    scratch_.clear();  // keeps its memory: nothing is freed or taken here
  }
  Enter(Stage::kEdge);
}

void Engine::CheckSector() {
  const uint8_t* sector = workspace_->sector;
  const cow::Header header = cow::DecodeHeader(sector);
  if (LoadLe<uint64_t>(sector) != cow::kMagic ||
      header.num_merge_ops != merged_ops_ ||
      header.major_version != image_.header.major_version ||
      header.op_count != image_.header.op_count ||
      header.buffer_size != image_.header.buffer_size) {
    Fail(
        "the header of the COW file is not what it was when the file was "
        "attached: something else writes to it. Attach it again");
    return;
  }
  sector_valid_ = true;
}

void Engine::Fail(const char* format, ...) {
  if (failing_) return;  // the first error is the one to know
  failing_ = true;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(error_, sizeof(error_), format, arguments);
  va_end(arguments);
}

void Engine::FailCommand(const UnderWay& command, IoStatus status) {
  using Kind = Command::Kind;
  const unsigned long long offset = command.offset;
  switch (command.kind) {
    case Kind::kLoadUnit:
    case Kind::kXorUnit:
      if (status == IoStatus::kCorrupt) {
        Fail(
            "the data of block %u, at offset %llu of the COW file, is "
            "corrupt; the merge stopped before it touched the base with it",
            command.op_block, offset);
        return;
      }
      [[fallthrough]];
    case Kind::kReadSector:
    case Kind::kReadOps:
    case Kind::kReadChecks:
    case Kind::kReadSequence:
    case Kind::kReadScratch:
      Fail(
          "reading the COW file at offset %llu failed: %s; the merge waits "
          "to be started again",
          offset, IoStatusName(status));
      return;
    case Kind::kReadOld:
    case Kind::kReadSource:
      Fail(
          "reading %u bytes at offset %llu of the base failed: %s; the merge "
          "waits to be started again",
          command.length_bytes, offset, IoStatusName(status));
      return;
    case Kind::kWriteScratch:
    case Kind::kMark:
    case Kind::kWriteState:
    case Kind::kCommit:
      Fail(
          "writing %u bytes at offset %llu of the COW file failed: %s; the "
          "merge waits to be started again",
          command.length_bytes, offset, IoStatusName(status));
      return;
    case Kind::kWriteBase:
    case Kind::kZeroBase:
      Fail(
          "writing %u bytes at offset %llu of the base failed: %s; the merge "
          "waits to be started again",
          command.length_bytes, offset, IoStatusName(status));
      return;
    case Kind::kReadUndo:
      break;  // never asked for here
    case Kind::kWriteUndo:
    case Kind::kFlushUndo:
      Fail(
          "writing %u bytes at offset %llu of the undo log failed: %s; the "
          "merge waits to be started again",
          command.length_bytes, offset, IoStatusName(status));
      return;
    case Kind::kFlushCow:
    case Kind::kFlushBase:
      Fail("flushing the %s failed: %s; the merge waits to be started again",
           command.kind == Kind::kFlushCow ? "COW file" : "base",
           IoStatusName(status));
      return;
  }
}

void Engine::EnterFailed() {
  failing_ = false;
  state_ = State::kFailed;
  if (!page_decoded_) page_ = cow::OpTable::Page();
  switch (stage_) {
    case Stage::kEdge:
    case Stage::kReadSector:
    case Stage::kFlushLog:
    case Stage::kMark:
      sector_valid_ = false;
      Enter(Stage::kEdge);
      return;
    case Stage::kPlan:
      // The window keeps what it has; the walk asks again for what is missing.
      return;
    case Stage::kGatherXor:
      // What has been xored is marked.
      cursor_ = fill_first_;
      return;
    default:
      // A flush that failed may have dropped any write of the stage.
      if (flush_sent_) {
        if (stage_ == Stage::kSaveWrite) {
          undo_ = undo_durable_;
          EnterSave();
        } else if (stage_ == Stage::kApply && fill_first_ > 0) {
          EnterFill(0);
        } else {
          Enter(stage_);
        }
        return;
      }
      cursor_ = std::min(cursor_, retry_cursor_);
      retry_cursor_ = UINT32_MAX;
      return;
  }
}

const uint8_t* Engine::Staged(uint32_t block) const {
  if (!staged_) return nullptr;
  const uint16_t slot = workspace_->window.staged.Find(block);
  return slot == BlockMap::kNone ? nullptr : StagingAt(slot);
}

bool Engine::InScratch(uint32_t block, uint64_t* offset) const {
  const auto it =
      std::lower_bound(scratch_.begin(), scratch_.end(), block,
                       [](const cow::ScratchEntry& entry, uint32_t b) {
                         return entry.new_block < b;
                       });
  if (it == scratch_.end() || it->new_block != block) return false;
  *offset = it->file_offset;
  return true;
}

uint32_t Engine::NextInScratch(uint32_t block) const {
  const auto it =
      std::upper_bound(scratch_.begin(), scratch_.end(), block,
                       [](uint32_t b, const cow::ScratchEntry& entry) {
                         return b < entry.new_block;
                       });
  return it == scratch_.end() ? UINT32_MAX : it->new_block;
}

void Engine::CheckInvariants() const {
  DMU_CHECK(merged_ops_ <= total_ops());
  DMU_CHECK(window_end() <= total_ops());
  DMU_CHECK(under_way_ <= kCommandsMax);
  uint32_t used = 0;
  for (const UnderWay& command : commands_) {
    if (!command.used) continue;
    ++used;
    // Commands of two stages are never under way together.
    const bool write = command.kind == Command::Kind::kWriteBase ||
                       command.kind == Command::Kind::kZeroBase;
    DMU_CHECK(!write || stage_ == Stage::kApply);
    DMU_CHECK(!write || replay_ || !leases_.AnyBelow(lease_end()));
    DMU_CHECK(!write || !keeps_undo_ || undo_durable_.position >= window_end());
    DMU_CHECK(command.kind != Command::Kind::kCommit || base_flushed_);
  }
  DMU_CHECK(used == under_way_);
  if (staged_) DMU_CHECK(window_ops_ > 0 && attached());
  if (stage_ == Stage::kEdge) DMU_CHECK(window_ops_ == 0 && !staged_);
  if (stage_ == Stage::kApply) {
    DMU_CHECK(staged_);
    DMU_CHECK(replay_ || !workspace_->window.through_scratch || state_durable_);
  }
  if (stage_ == Stage::kCommit) DMU_CHECK(base_flushed_ && staged_);
  if (state_ == State::kDone) DMU_CHECK(merged_ops_ == total_ops());
  if (state_ == State::kFailed) DMU_CHECK(error_[0] != '\0');
  if (replay_) DMU_CHECK(!scratch_.empty());
}

}  // namespace dmu::merge
