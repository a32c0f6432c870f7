// SPDX-License-Identifier: Apache-2.0
//
// merge_runner.cc - see merge_runner.h.
#include "daemon/backend/merge_runner.h"

#include <stdio.h>

#include <new>

#include "daemon/base/cause_text.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu {
namespace {

using Kind = merge::Command::Kind;
using Turn = merge::Engine::Turn;

// Never written to: reading it costs no memory, the kernel maps its zero page.
alignas(4096) uint8_t zeros[merge::kCommandBytesMax];

}  // namespace

MergeRunner::MergeRunner(const Parts& parts)
    : parts_(parts), step_(OnStep, this), member_(&step_) {
  for (Slot& slot : slots_) {
    slot.runner = this;
    slot.op.done.run = OnDone;
    slot.op.done.context = &slot;
  }
  told_state_ = status().state;
  told_ops_ = parts_.engine->merged_ops();
}

MergeRunner::~MergeRunner() {
  DMU_CHECK(busy_ == 0);
  parts_.governor->Leave(&member_);
  parts_.loop->Cancel(&step_);
}

void MergeRunner::KeepUndoLog(std::unique_ptr<Disk> log,
                              std::function<void(absl::Status)> done) {
  const merge::Engine& engine = *parts_.engine;
  if (stopped_ != nullptr || undo_opener_ != nullptr || engine.attached() ||
      wanted_) {
    done(absl::FailedPreconditionError(
        "the merge is at work; pause it, then start it with the undo log"));
    return;
  }
  const uint64_t limit_bytes = log->size_bytes();
  undo_opener_ = std::make_unique<UndoOpener>(
      std::move(log), *parts_.image, parts_.loop,
      [this, limit_bytes, done = std::move(done)](absl::Status status) {
        OnUndoLog(std::move(status), limit_bytes, done);
      });
  ++busy_;
  undo_opener_->Begin();
}

void MergeRunner::OnUndoLog(absl::Status status, uint64_t limit_bytes,
                            const std::function<void(absl::Status)>& done) {
  const std::unique_ptr<UndoOpener> opener = std::move(undo_opener_);
  --busy_;
  merge::Engine* engine = parts_.engine;
  // The image knows of the merge what was there when it was loaded.
  if (status.ok() && opener->tail().position < engine->undo_begin_min()) {
    status = absl::FailedPreconditionError(
        "the merge went on without this undo log, so it could not bring the "
        "old image back");
  }
  if (status.ok()) {
    engine->KeepUndoLog(opener->tail(), limit_bytes);
    undo_ = opener->TakeDisk();
  }
  if (stopped_ != nullptr && busy_ == 0) parts_.loop->Post(stopped_);
  done(std::move(status));
}

void MergeRunner::Start() {
  if (stopped_ != nullptr || undo_opener_ != nullptr) return;
  no_memory_ = false;
  error_[0] = '\0';
  cause_ = {};
  merge::Engine* engine = parts_.engine;
  if (engine->refusal()[0] != '\0') {
    engine->Start();
    NotifyIfChanged();
    return;
  }
  if (engine->state() == merge::Engine::State::kDone) return;
  if (!wanted_) {
    wanted_ = true;
    wanted_since_us_ = parts_.loop->NowUs();
    wanted_from_bytes_ = engine->merged_bytes();
  }
  to_edge_ = false;
  if (engine->attached()) engine->Start();
  NotifyIfChanged();
  parts_.loop->PostIdle(&step_);
}

void MergeRunner::Pause() {
  if (!wanted_) return;
  wanted_ = false;
  if (parts_.engine->state() != merge::Engine::State::kRunning) {
    parts_.governor->Leave(&member_);
    NotifyIfChanged();
    return;
  }
  EndTurn();
}

// The rest of the window is not asked for: it is little, and what waits for the
// end of it is a person or another merge.
void MergeRunner::EndTurn() {
  to_edge_ = true;
  parts_.engine->Pause();
  parts_.loop->PostIdle(&step_);
}

void MergeRunner::SetRate(uint64_t rate_bytes_per_s) {
  parts_.governor->SetRate(&member_, rate_bytes_per_s);
}

bool MergeRunner::Attach() {
  workspace_.reset(new (std::nothrow)
                       merge::Workspace(merge::kWindowOpsDefault));
  staging_ = MappedMemory::Map(size_t{kStagingBlocks} * kBlockBytes);
  stored_ = MappedMemory::Map(kSlots * room_bytes());
  const bool undo = parts_.engine->keeps_undo_log();
  if (undo) undo_buffer_ = MappedMemory::Map(merge::Engine::kUndoBufferBytes);
  if (workspace_ == nullptr || !workspace_->valid() || staging_.empty() ||
      stored_.empty() || (undo && undo_buffer_.empty())) {
    ReleaseMemory();
    return false;
  }
  parts_.engine->Attach(workspace_.get(), staging_.span(), undo_buffer_.span());
  return true;
}

void MergeRunner::ReleaseMemory() {
  workspace_.reset();
  staging_ = MappedMemory();
  stored_ = MappedMemory();
  undo_buffer_ = MappedMemory();
}

MergeStatus MergeRunner::status() const {
  const merge::Engine& engine = *parts_.engine;
  MergeStatus status;
  status.merged_ops = engine.merged_ops();
  status.total_ops = engine.total_ops();
  status.merged_bytes = engine.merged_bytes();
  status.total_bytes = parts_.image->merge_bytes;
  if (engine.keeps_undo_log()) {
    status.undo_log_bytes = engine.undo_tail().offset;
  }
  status.held = parts_.governor->HeldName(member_);
  const uint64_t us = parts_.loop->NowUs() - wanted_since_us_;
  if (wanted_ && us > 0) {
    const uint64_t bytes = engine.merged_bytes() - wanted_from_bytes_;
    status.rate_bytes_per_s = static_cast<uint64_t>(
        static_cast<double>(bytes) * 1e6 / static_cast<double>(us));
  }
  switch (engine.state()) {
    case merge::Engine::State::kIdle:
      status.state =
          wanted_ ? MergeStatus::State::kRunning : MergeStatus::State::kIdle;
      break;
    case merge::Engine::State::kRunning:
      status.state = MergeStatus::State::kRunning;
      break;
    case merge::Engine::State::kDone:
      status.state = MergeStatus::State::kDone;
      // Blocks that are given twice are written once.
      status.merged_bytes = status.total_bytes;
      break;
    case merge::Engine::State::kFailed:
      status.state = MergeStatus::State::kFailed;
      status.error = error_[0] != '\0' ? error_ : engine.error();
      break;
  }
  if (no_memory_) {
    status.state = MergeStatus::State::kFailed;
    status.error =
        "there is no memory for the merge; start it again when there is";
  }
  return status;
}

void MergeRunner::SetListener(Task* changed) {
  if (listener_ != nullptr) parts_.loop->Cancel(listener_);
  listener_ = changed;
}

void MergeRunner::NotifyIfChanged() {
  const MergeStatus::State state = status().state;
  const uint64_t ops = parts_.engine->merged_ops();
  if (state == told_state_ && ops == told_ops_) return;
  if (state == MergeStatus::State::kDone && parts_.merged != nullptr) {
    parts_.loop->Post(parts_.merged);
  }
  told_state_ = state;
  told_ops_ = ops;
  if (listener_ != nullptr) parts_.loop->Post(listener_);
}

void MergeRunner::OnLeaseReleased() {
  if (!waits_for_lease_) return;
  waits_for_lease_ = false;
  parts_.loop->PostIdle(&step_);
}

void MergeRunner::Stop(Task* stopped) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = stopped;
  parts_.governor->Leave(&member_);
  parts_.loop->Cancel(&step_);
  if (undo_opener_ != nullptr) undo_opener_->Cancel();
  if (busy_ == 0) parts_.loop->Post(stopped_);
}

void MergeRunner::OnStep(void* context) {
  static_cast<MergeRunner*>(context)->Step();
}

bool MergeRunner::MayStep() {
  if (to_edge_) return true;
  MergeGovernor* const governor = parts_.governor;
  if (governor->MayStep(&member_)) return true;
  // Others go first: they need the memory.
  if (governor->held(member_) == MergeGovernor::Held::kTurn &&
      parts_.engine->state() == merge::Engine::State::kRunning) {
    EndTurn();
  }
  return false;
}

// As much as a turn may move; completions bring it back.
void MergeRunner::Step() {
  merge::Engine* const engine = parts_.engine;
  uint64_t moved_bytes = 0;
  while (stopped_ == nullptr && moved_bytes < merge::kCommandBytesMax) {
    if (!wanted_ && !to_edge_) return;
    Slot* slot = nullptr;
    for (Slot& candidate : slots_) {
      if (!candidate.busy) slot = &candidate;
    }
    if (slot == nullptr || !MayStep()) return;
    if (!engine->attached() && !Attach()) {
      no_memory_ = true;
      Stopped();
      NotifyIfChanged();
      return;
    }
    if (wanted_ && !to_edge_) engine->Start();
    const Turn turn = engine->Next(&slot->command);
    NotifyIfChanged();
    switch (turn) {
      case Turn::kCommand:
        moved_bytes += slot->command.length_bytes;
        parts_.governor->Charge(&member_, slot->command.length_bytes);
        Issue(slot);
        break;
      case Turn::kWaitDone:
        return;
      case Turn::kWaitLease:
        waits_for_lease_ = true;
        if (!to_edge_) parts_.governor->Leave(&member_);
        return;
      case Turn::kStop:
        Stopped();
        return;
    }
  }
  if (stopped_ == nullptr) parts_.loop->PostIdle(&step_);
}

// Paused or done, the engine needs no memory; failed, it may hold a window.
void MergeRunner::Stopped() {
  const merge::Engine::State state = parts_.engine->state();
  const bool waits =
      state == merge::Engine::State::kIdle && wanted_ && !no_memory_;
  to_edge_ = false;
  if (state == merge::Engine::State::kFailed) DescribeFailure();
  if (state != merge::Engine::State::kFailed && parts_.engine->attached()) {
    parts_.engine->Detach();
    ReleaseMemory();
  }
  if (waits) {
    // It is in line, or asks for its next turn.
    parts_.loop->PostIdle(&step_);
    return;
  }
  wanted_ = false;
  parts_.governor->Leave(&member_);
  NotifyIfChanged();
}

void MergeRunner::DescribeFailure() {
  if (cause_.where == nullptr) return;
  snprintf(error_, sizeof(error_), "%s%s", parts_.engine->error(),
           CauseText(cause_).text());
}

uint8_t* MergeRunner::StoredBytes(const Slot& slot) const {
  const size_t i = static_cast<size_t>(&slot - slots_);
  return stored_.span().data() + i * room_bytes() + kBlockBytes;
}

// A raw unit needs no way round.
bool MergeRunner::DecodesInPlace(const merge::Command& command) const {
  return command.kind == Kind::kLoadUnit &&
         command.op.compression == cow::Compression::kNone;
}

IoStatus MergeRunner::Decode(const Slot& slot) const {
  const merge::Command& command = slot.command;
  uint8_t* const stored = StoredBytes(slot);
  uint8_t* const block = stored - kBlockBytes;
  const bool is_xor = command.kind == Kind::kXorUnit;
  const IoStatus status = cow::DecodeUnit(
      parts_.codec, command.op.compression,
      command.has_check ? &command.check : nullptr,
      {DecodesInPlace(command) ? command.data : stored, command.op.data_length},
      {is_xor ? block : command.data, command.length_bytes});
  if (status == IoStatus::kOk && is_xor) {
    cow::XorOnto(block, command.length_bytes, command.data);
  }
  return status;
}

void MergeRunner::Issue(Slot* slot) {
  const merge::Command& command = slot->command;
  DiskOp& op = slot->op;
  op.offset = command.offset;
  op.buffer = command.data;
  op.length_bytes = command.length_bytes;
  op.kind = DiskOp::Kind::kRead;
  Disk* disk = parts_.cow;
  switch (command.kind) {
    case Kind::kReadSector:
    case Kind::kReadOps:
    case Kind::kReadChecks:
    case Kind::kReadSequence:
    case Kind::kReadScratch:
      break;
    case Kind::kReadSource:
      disk = parts_.source;
      break;
    case Kind::kReadOld:
      disk = parts_.base;
      break;
    case Kind::kReadUndo:
      DMU_CHECK(false);  // an undo is no merge
      break;
    case Kind::kWriteUndo:
      disk = undo_.get();
      op.kind = DiskOp::Kind::kWrite;
      break;
    case Kind::kFlushUndo:
      disk = undo_.get();
      op.kind = DiskOp::Kind::kFlush;
      break;
    case Kind::kLoadUnit:
    case Kind::kXorUnit:
      op.length_bytes = command.op.data_length;
      if (!DecodesInPlace(command)) op.buffer = StoredBytes(*slot);
      break;
    case Kind::kWriteScratch:
    case Kind::kMark:
    case Kind::kWriteState:
    case Kind::kCommit:
      op.kind = DiskOp::Kind::kWrite;
      break;
    case Kind::kFlushCow:
      op.kind = DiskOp::Kind::kFlush;
      break;
    case Kind::kWriteBase:
      disk = parts_.base;
      op.kind = DiskOp::Kind::kWrite;
      break;
    case Kind::kZeroBase:
      disk = parts_.base;
      op.kind = DiskOp::Kind::kWrite;
      op.buffer = zeros;
      break;
    case Kind::kFlushBase:
      disk = parts_.base;
      op.kind = DiskOp::Kind::kFlush;
      break;
  }
  slot->busy = true;
  ++busy_;
  disk->Submit(&op);
}

void MergeRunner::OnDone(void* context) {
  auto* slot = static_cast<Slot*>(context);
  slot->runner->Finish(slot);
}

void MergeRunner::Finish(Slot* slot) {
  DMU_CHECK(slot->busy && busy_ > 0);
  const merge::Command& command = slot->command;
  IoStatus status = slot->op.status;
  const bool is_unit =
      command.kind == Kind::kLoadUnit || command.kind == Kind::kXorUnit;
  if (status != IoStatus::kOk && cause_.where == nullptr) {
    cause_ = slot->op.cause;
  }
  if (status == IoStatus::kOk && is_unit) status = Decode(*slot);
  slot->busy = false;
  --busy_;
  parts_.engine->Done(command.id, status);
  if (stopped_ == nullptr) {
    parts_.loop->PostIdle(&step_);
  } else if (busy_ == 0) {
    parts_.loop->Post(stopped_);
  }
}

}  // namespace dmu
