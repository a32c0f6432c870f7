// SPDX-License-Identifier: Apache-2.0
//
// merge_machine.cc - see merge_machine.h.
#include "test/sim/merge_machine.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"
#include "daemon/merge/undo_loader.h"

namespace dmu::sim {
namespace {

using Where = merge::Piece::Where;

}  // namespace

MergeMachine::MergeMachine(const Scenario& scenario, Disks disks,
                           const MachineOptions& options, uint64_t seed)
    : scenario_(scenario),
      options_(options),
      runner_(std::move(disks), options.faults, seed) {}

MergeMachine::~MergeMachine() {
  for (auto& read : reads_) {
    if (read->lease.held) engine_->leases()->Release(&read->lease);
  }
}

bool MergeMachine::Error(const std::string& what) {
  if (error_.empty()) error_ = what;
  return false;
}

bool MergeMachine::Load() {
  cow::Loader loader(disks().cow.size_bytes());
  const std::string error = sim::Load(disks().cow, &loader);
  if (!error.empty()) return Error(error);
  image_ = loader.Take();
  if (!image_->order_error.empty()) return Error(image_->order_error);
  codec_ = cow::Codec::Create(image_->compressions);
  runner_.SetCodec(codec_.get());
  merge::Engine::Options engine_options;
  engine_options.direct_ops_min = options_.direct_ops_min;
  engine_ =
      std::make_unique<merge::Engine>(*image_, disks().base.size_bytes(),
                                      disks().cow.size_bytes(), engine_options);
  view_ = std::make_unique<merge::View>(*image_, *engine_);
  workspace_ = std::make_unique<merge::Workspace>(options_.window_ops);
  staging_.resize(size_t{options_.staging_blocks} * kBlockBytes);
  if (engine_->refusal()[0] != '\0') return Error(engine_->refusal());
  if (disks().undo.has_value()) {
    if (!LoadUndoLog()) return false;
    undo_buffer_.resize(merge::Engine::kUndoBufferBytes);
  }
  engine_->Attach(workspace_.get(), staging_, undo_buffer_);
  return true;
}

bool MergeMachine::LoadUndoLog() {
  SimDisk* const undo = &*runner_.disks().undo;
  merge::UndoLoader loader(*image_, undo->size_bytes(),
                           merge::UndoLoader::Purpose::kAppend);
  const std::string error = sim::Load(*undo, &loader);
  if (!error.empty()) return Error("undo log: " + error);
  merge::UndoTail tail = loader.tail();
  if (loader.fresh()) {
    uint8_t sector[kSectorBytes];
    tail.previous = merge::EncodeUndoSuperblock(
        merge::UndoLoader::MakeSuperblock(*image_, disks().base.size_bytes()),
        sector);
    uint32_t ticket = 0;
    DMU_CHECK(undo->SubmitWrite(0, sector, &ticket));
    undo->Complete(ticket);
    undo->Flush();
  }
  engine_->KeepUndoLog(tail, undo->size_bytes());
  return true;
}

IoStatus MergeMachine::ReadRecord(uint32_t op_number, cow::Op* op) const {
  const cow::OpTable::Page page = image_->ops.PageOf(op_number);
  std::vector<uint8_t> bytes(page.bytes);
  const IoStatus status = disks().cow.Read(page.offset, bytes);
  if (status != IoStatus::kOk) return status;
  return image_->ops.Decode(page, bytes.data(), op_number, op)
             ? IoStatus::kOk
             : IoStatus::kCorrupt;
}

// Asks the view and, where it takes time, fetches the bytes later (EndRead).
void MergeMachine::BeginRead(uint32_t block) {
  auto read = std::make_unique<Read>();
  read->block = block;
  read->piece = view_->Lookup(block, 1);
  const bool from_source =
      read->piece.where == Where::kCopy || read->piece.where == Where::kXor;
  if (from_source) {
    cow::Op op;
    if (ReadRecord(read->piece.op, &op) != IoStatus::kOk) {
      if (options_.reads_may_fail) return;
      Error("record of a copy or xor cannot be read");
      return;
    }
    read->source_offset = op.source_bytes();
  }
  if (from_source || read->piece.where == Where::kScratch) {
    engine_->leases()->Take(&read->lease, read->piece.position);
  }
  if (read->piece.where == Where::kStaged) {
    // Has no "later": staging is read in the same turn.
    Compare(block, {read->piece.data, kBlockBytes}, "staged");
    return;
  }
  reads_.push_back(std::move(read));
}

IoStatus MergeMachine::Fetch(const Read& read, std::vector<uint8_t>* bytes,
                             const char** how) const {
  cow::Op op;
  IoStatus status = IoStatus::kOk;
  switch (read.piece.where) {
    case Where::kZero:
      *how = "zero";
      break;
    case Where::kBase:
      *how = "base";
      return disks().base.Read(read.piece.offset, *bytes);
    case Where::kStaged:
      DMU_CHECK(false);
      break;
    case Where::kScratch:
      *how = "scratch";
      return disks().cow.Read(read.piece.offset, *bytes);
    case Where::kCopy:
      *how = "copy";
      return disks().base.Read(read.source_offset, *bytes);
    case Where::kXor: {
      *how = "xor";
      std::vector<uint8_t> unit(kBlockBytes);
      status = ReadRecord(read.piece.op, &op);
      if (status != IoStatus::kOk) return status;
      status = runner_.LoadUnit(op, nullptr, unit);
      if (status != IoStatus::kOk) return status;
      status = disks().base.Read(read.source_offset, *bytes);
      cow::XorOnto(unit.data(), kBlockBytes, bytes->data());
      break;
    }
    case Where::kUnit: {
      *how = "unit";
      status = ReadRecord(read.piece.op, &op);
      if (status != IoStatus::kOk) return status;
      if (op.new_block != read.piece.new_block ||
          op.span_log2 != read.piece.span_log2) {
        return IoStatus::kCorrupt;
      }
      std::vector<uint8_t> unit(op.span_bytes());
      status = runner_.LoadUnit(op, nullptr, unit);
      if (status != IoStatus::kOk) return status;
      std::memcpy(bytes->data(),
                  unit.data() + size_t{read.piece.unit_block} * kBlockBytes,
                  kBlockBytes);
      break;
    }
  }
  return status;
}

bool MergeMachine::EndRead(Read* read) {
  std::vector<uint8_t> bytes(kBlockBytes);
  const char* how = "";
  const IoStatus status = Fetch(*read, &bytes, &how);
  if (read->lease.held) engine_->leases()->Release(&read->lease);
  if (status == IoStatus::kIoError && options_.reads_may_fail) return true;
  if (status != IoStatus::kOk) {
    return Error("read failed: block " + std::to_string(read->block) +
                 " from " + how + ", " + IoStatusName(status));
  }
  return Compare(read->block, bytes, how);
}

bool MergeMachine::Compare(uint32_t block, ConstByteSpan bytes,
                           const char* how) {
  if (std::memcmp(bytes.data(),
                  scenario_.target.data() + size_t{block} * kBlockBytes,
                  kBlockBytes) == 0) {
    return true;
  }
  return Error("block " + std::to_string(block) + " reads wrong, from " + how +
               ", counter " + std::to_string(engine_->merged_ops()));
}

bool MergeMachine::EndAllReads() {
  while (!reads_.empty()) {
    const std::unique_ptr<Read> read = std::move(reads_.front());
    reads_.pop_front();
    if (!EndRead(read.get())) return false;
  }
  return true;
}

bool MergeMachine::CheckAllBlocks() {
  for (uint32_t block = 0; block < scenario_.blocks(); ++block) {
    const size_t before = reads_.size();
    BeginRead(block);
    if (!error_.empty()) return false;
    if (reads_.size() == before) continue;
    const std::unique_ptr<Read> read = std::move(reads_.back());
    reads_.pop_back();
    if (!EndRead(read.get())) return false;
  }
  return CheckRuns();
}

// Runs say the same as single blocks.
bool MergeMachine::CheckRuns() {
  for (uint32_t block = 0; block < scenario_.blocks();) {
    const merge::Piece run = view_->Lookup(block, scenario_.blocks() - block);
    for (uint32_t i = 0; i < run.blocks; ++i) {
      const merge::Piece one = view_->Lookup(block + i, 1);
      if (one.where != run.where ||
          (run.where == Where::kBase &&
           one.offset != run.offset + uint64_t{i} * kBlockBytes) ||
          (run.where == Where::kStaged &&
           one.data != run.data + size_t{i} * kBlockBytes) ||
          (run.where == Where::kCopy &&
           (one.op != run.op + i || one.position < run.position)) ||
          (run.where == Where::kUnit && one.unit_block != run.unit_block + i)) {
        return Error("run at block " + std::to_string(block) + " is wrong");
      }
    }
    block += run.blocks;
  }
  return true;
}

bool MergeMachine::Step() {
  stopped_ = false;
  if (engine_->state() == merge::Engine::State::kIdle ||
      engine_->state() == merge::Engine::State::kFailed) {
    engine_->Start();
  }
  Rng* const rng = runner_.rng();
  // A read that stays in flight, now and then.
  if (reads_.size() < 3 && rng->OneIn(2)) {
    BeginRead(rng->Below(scenario_.blocks()));
  }
  const bool prefer_done = !runner_.empty() && rng->OneIn(2);
  merge::Command command;
  const merge::Engine::Turn turn =
      prefer_done ? merge::Engine::Turn::kWaitDone : engine_->Next(&command);
  engine_->CheckInvariants();
  switch (turn) {
    case merge::Engine::Turn::kCommand:
      if (!runner_.HandOut(command)) return Error("a write beyond the end");
      break;
    case merge::Engine::Turn::kWaitDone: {
      if (runner_.empty()) return Error("the engine waits for nothing");
      const CommandRunner::Ended ended = runner_.FinishOne();
      if (ended.status == IoStatus::kUnsupported) {
        return Error("a command reaches beyond the end");
      }
      engine_->Done(ended.id, ended.status);
      break;
    }
    case merge::Engine::Turn::kWaitLease:
      ++lease_waits_;
      if (reads_.empty()) return Error("the engine waits for no lease");
      if (!EndAllReads()) return false;
      break;
    case merge::Engine::Turn::kStop:
      if (engine_->state() == merge::Engine::State::kDone) return FinishMerge();
      if (engine_->state() != merge::Engine::State::kFailed) {
        return Error("the engine stopped by itself");
      }
      if (!options_.faults.any() && !options_.reads_may_fail) {
        return Error(std::string("the engine failed: ") + engine_->error());
      }
      if (++restarts_ > 10'000) return Error("the merge fails for ever");
      stopped_ = true;
      break;
  }
  engine_->CheckInvariants();
  if (reads_.size() >= 3 || (!reads_.empty() && rng->OneIn(3))) {
    const size_t pick = rng->Below(reads_.size());
    const std::unique_ptr<Read> read = std::move(reads_[pick]);
    reads_.erase(reads_.begin() + static_cast<ptrdiff_t>(pick));
    if (!EndRead(read.get())) return false;
  }
  if (options_.check_every_step && !CheckAllBlocks()) return false;
  return error_.empty() && !stopped_;
}

bool MergeMachine::FinishMerge() {
  if (!EndAllReads() || !CheckAllBlocks()) return false;
  if (engine_->merged_ops() != engine_->total_ops()) {
    return Error("done before all ops are merged");
  }
  const std::vector<uint8_t> base = disks().base.Contents();
  if (base.size() < scenario_.target.size() ||
      !std::equal(scenario_.target.begin(), scenario_.target.end(),
                  base.begin())) {
    return Error("the merged base is not the target");
  }
  engine_->Detach();
  finished_ = true;
  return false;
}

}  // namespace dmu::sim
