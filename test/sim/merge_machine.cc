// SPDX-License-Identifier: Apache-2.0
//
// merge_machine.cc - see merge_machine.h.
#include "test/sim/merge_machine.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu::sim {
namespace {

using Kind = merge::Command::Kind;
using Where = merge::Piece::Where;

bool OnBase(Kind kind) {
  return kind == Kind::kWriteBase || kind == Kind::kZeroBase ||
         kind == Kind::kFlushBase || kind == Kind::kReadSource;
}

bool IsWrite(Kind kind) {
  return kind == Kind::kWriteBase || kind == Kind::kZeroBase ||
         kind == Kind::kWriteScratch || kind == Kind::kWriteState ||
         kind == Kind::kMark || kind == Kind::kCommit;
}

bool IsFlush(Kind kind) {
  return kind == Kind::kFlushBase || kind == Kind::kFlushCow;
}

}  // namespace

MergeMachine::MergeMachine(const Scenario& scenario, SimDisk base, SimDisk cow,
                           const MachineOptions& options, uint64_t seed)
    : scenario_(scenario),
      base_(std::move(base)),
      cow_(std::move(cow)),
      options_(options),
      rng_(seed) {}

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
  cow::Loader loader(cow_.size_bytes());
  std::vector<uint8_t> bytes;
  while (!loader.done()) {
    const cow::Loader::Want want = loader.want();
    bytes.resize(want.bytes);
    if (!cow_.Read(want.offset, bytes)) return Error("loader reads beyond end");
    const absl::Status status = loader.Feed(bytes);
    if (!status.ok()) return Error("load: " + std::string(status.message()));
  }
  image_ = loader.Take();
  if (!image_->order_error.empty()) return Error(image_->order_error);
  codec_ = cow::Codec::Create(image_->compressions);
  merge::Engine::Options engine_options;
  engine_options.direct_ops_min = options_.direct_ops_min;
  engine_ = std::make_unique<merge::Engine>(*image_, base_.size_bytes(),
                                            cow_.size_bytes(), engine_options);
  view_ = std::make_unique<merge::View>(*image_, *engine_);
  workspace_ = std::make_unique<merge::Workspace>(options_.window_ops);
  staging_.resize(size_t{options_.staging_blocks} * kBlockBytes);
  if (engine_->refusal()[0] != '\0') return Error(engine_->refusal());
  engine_->Attach(workspace_.get(), staging_);
  return true;
}

bool MergeMachine::ReadRecord(uint32_t op_number, cow::Op* op) const {
  const cow::OpTable::Page page = image_->ops.PageOf(op_number);
  std::vector<uint8_t> bytes(page.bytes);
  return cow_.Read(page.offset, bytes) &&
         image_->ops.Decode(page, bytes.data(), op_number, op);
}

bool MergeMachine::LoadUnit(const cow::Op& op, const uint32_t* check,
                            ByteSpan out) const {
  std::vector<uint8_t> stored(op.data_length);
  return cow_.Read(op.data_offset, stored) &&
         cow::DecodeUnit(codec_.get(), op.compression, check, stored, out) ==
             IoStatus::kOk;
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
    if (!ReadRecord(read->piece.op, &op)) {
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

bool MergeMachine::EndRead(Read* read) {
  std::vector<uint8_t> bytes(kBlockBytes);
  bool ok = true;
  const char* how = "";
  switch (read->piece.where) {
    case Where::kZero:
      how = "zero";
      break;
    case Where::kBase:
      how = "base";
      ok = base_.Read(read->piece.offset, bytes);
      break;
    case Where::kStaged:
      DMU_CHECK(false);
      break;
    case Where::kScratch:
      how = "scratch";
      ok = cow_.Read(read->piece.offset, bytes);
      break;
    case Where::kCopy:
      how = "copy";
      ok = base_.Read(read->source_offset, bytes);
      break;
    case Where::kXor: {
      how = "xor";
      cow::Op op;
      std::vector<uint8_t> unit(kBlockBytes);
      ok = ReadRecord(read->piece.op, &op) && LoadUnit(op, nullptr, unit) &&
           base_.Read(read->source_offset, bytes);
      cow::XorOnto(unit.data(), kBlockBytes, bytes.data());
      break;
    }
    case Where::kUnit: {
      how = "unit";
      cow::Op op;
      ok = ReadRecord(read->piece.op, &op) &&
           op.new_block == read->piece.new_block &&
           op.span_log2 == read->piece.span_log2;
      std::vector<uint8_t> unit(op.span_bytes());
      ok = ok && LoadUnit(op, nullptr, unit);
      if (ok) {
        std::memcpy(bytes.data(),
                    unit.data() + size_t{read->piece.unit_block} * kBlockBytes,
                    kBlockBytes);
      }
      break;
    }
  }
  if (read->lease.held) engine_->leases()->Release(&read->lease);
  if (!ok) {
    return Error(std::string("read failed: block ") +
                 std::to_string(read->block) + " from " + how);
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
  // Runs say the same as single blocks.
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
  wrote_ = false;
  if (engine_->state() == merge::Engine::State::kIdle) engine_->Start();
  // A read that stays in flight, now and then.
  if (reads_.size() < 3 && rng_.OneIn(2)) {
    BeginRead(rng_.Below(scenario_.blocks()));
  }
  const bool prefer_done = !running_.empty() && rng_.OneIn(2);
  merge::Command command;
  const merge::Engine::Turn turn =
      prefer_done ? merge::Engine::Turn::kWaitDone : engine_->Next(&command);
  engine_->CheckInvariants();
  switch (turn) {
    case merge::Engine::Turn::kCommand:
      HandOut(command);
      break;
    case merge::Engine::Turn::kWaitDone: {
      if (running_.empty()) return Error("the engine waits for nothing");
      const size_t pick = rng_.Below(running_.size());
      const Running running = running_[pick];
      running_.erase(running_.begin() + static_cast<ptrdiff_t>(pick));
      if (!Finish(running)) return false;
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
      if (options_.fail_command == 0 && options_.fail_one_in == 0) {
        return Error(std::string("the engine failed: ") + engine_->error());
      }
      if (++restarts_ > 10'000) return Error("the merge fails for ever");
      engine_->Start();
      break;
  }
  engine_->CheckInvariants();
  if (reads_.size() >= 3 || (!reads_.empty() && rng_.OneIn(3))) {
    const size_t pick = rng_.Below(reads_.size());
    const std::unique_ptr<Read> read = std::move(reads_[pick]);
    reads_.erase(reads_.begin() + static_cast<ptrdiff_t>(pick));
    if (!EndRead(read.get())) return false;
  }
  if (options_.check_every_step && !CheckAllBlocks()) return false;
  return error_.empty();
}

bool MergeMachine::FinishMerge() {
  if (!EndAllReads() || !CheckAllBlocks()) return false;
  if (engine_->merged_ops() != engine_->total_ops()) {
    return Error("done before all ops are merged");
  }
  if (base_.Contents() != scenario_.target) {
    return Error("the merged base is not the target");
  }
  engine_->Detach();
  finished_ = true;
  return false;
}

void MergeMachine::HandOut(const merge::Command& command) {
  Running running;
  running.command = command;
  running.is_write = IsWrite(command.kind);
  transcript_ += merge::CommandName(command.kind);
  if (!IsFlush(command.kind)) {
    transcript_ += ' ' + std::to_string(command.offset) + '+' +
                   std::to_string(command.length_bytes);
  }
  transcript_ += '\n';
  if (running.is_write) {
    SimDisk& disk = OnBase(command.kind) ? base_ : cow_;
    const std::vector<uint8_t> zeros(
        command.kind == Kind::kZeroBase ? command.length_bytes : 0);
    const ConstByteSpan bytes =
        command.kind == Kind::kZeroBase
            ? ConstByteSpan(zeros)
            : ConstByteSpan(command.data, command.length_bytes);
    if (!disk.SubmitWrite(command.offset, bytes, &running.ticket)) {
      Error("write beyond the end");
    }
    wrote_ = true;
    if (!OnBase(command.kind)) last_write_cow_ = command.kind;
  }
  running_.push_back(running);
}

bool MergeMachine::FlushIsLost(const merge::Command& command) const {
  if (command.kind == Kind::kFlushBase) {
    return options_.lost_flush == LostFlush::kBase;
  }
  switch (last_write_cow_) {
    case Kind::kReadSector:  // none yet
    case Kind::kMark:
      return options_.lost_flush == LostFlush::kStart;
    case Kind::kWriteScratch:
      return options_.lost_flush == LostFlush::kScratch;
    case Kind::kWriteState:
      return options_.lost_flush == LostFlush::kState;
    default:
      return options_.lost_flush == LostFlush::kCommit;
  }
}

bool MergeMachine::Execute(const Running& running) {
  const merge::Command& command = running.command;
  SimDisk& disk = OnBase(command.kind) ? base_ : cow_;
  const ByteSpan out(command.data, command.length_bytes);
  switch (command.kind) {
    case Kind::kReadSector:
    case Kind::kReadOps:
    case Kind::kReadChecks:
    case Kind::kReadSequence:
    case Kind::kReadScratch:
    case Kind::kReadSource:
      return disk.Read(command.offset, out);
    case Kind::kLoadUnit:
      return LoadUnit(command.op, command.has_check ? &command.check : nullptr,
                      out);
    case Kind::kXorUnit: {
      std::vector<uint8_t> unit(command.length_bytes);
      if (!LoadUnit(command.op, command.has_check ? &command.check : nullptr,
                    unit)) {
        return false;
      }
      cow::XorOnto(unit.data(), unit.size(), out.data());
      return true;
    }
    case Kind::kFlushBase:
    case Kind::kFlushCow:
      if (!FlushIsLost(command)) disk.Flush();
      return true;
    default:
      disk.Complete(running.ticket);
      return true;
  }
}

bool MergeMachine::Finish(Running running) {
  const merge::Command& command = running.command;
  ++commands_done_;
  const bool fails =
      commands_done_ == options_.fail_command ||
      (options_.fail_one_in != 0 && rng_.OneIn(options_.fail_one_in));
  if (fails) {
    // The worst a failing disk may do: garbage in the buffer of a read, and
    // what a failed flush was for is gone.
    if (!running.is_write && command.data != nullptr &&
        command.kind != Kind::kXorUnit) {
      std::memset(command.data, 0xee, command.length_bytes);
    }
    if (IsFlush(command.kind)) {
      (OnBase(command.kind) ? base_ : cow_).FailFlush(&rng_);
    }
    engine_->Done(command.id, IoStatus::kIoError);
    return true;
  }
  if (!Execute(running)) return Error("a command reaches beyond the end");
  engine_->Done(command.id, IoStatus::kOk);
  return true;
}

}  // namespace dmu::sim
