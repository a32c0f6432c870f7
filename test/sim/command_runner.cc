// SPDX-License-Identifier: Apache-2.0
//
// command_runner.cc - see command_runner.h.
#include "test/sim/command_runner.h"

#include <cstring>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu::sim {
namespace {

using Kind = merge::Command::Kind;

enum class Place : uint8_t { kBase, kCow, kUndo };

Place PlaceOf(Kind kind) {
  switch (kind) {
    case Kind::kReadSource:
    case Kind::kReadOld:
    case Kind::kWriteBase:
    case Kind::kZeroBase:
    case Kind::kFlushBase:
      return Place::kBase;
    case Kind::kReadUndo:
    case Kind::kWriteUndo:
    case Kind::kFlushUndo:
      return Place::kUndo;
    default:
      return Place::kCow;
  }
}

bool IsWrite(Kind kind) {
  switch (kind) {
    case Kind::kWriteBase:
    case Kind::kZeroBase:
    case Kind::kWriteScratch:
    case Kind::kMark:
    case Kind::kWriteState:
    case Kind::kCommit:
    case Kind::kWriteUndo:
      return true;
    default:
      return false;
  }
}

bool IsFlush(Kind kind) {
  return kind == Kind::kFlushBase || kind == Kind::kFlushCow ||
         kind == Kind::kFlushUndo;
}

}  // namespace

Work& Work::operator+=(const Work& other) {
  base_bytes += other.base_bytes;
  scratch_bytes += other.scratch_bytes;
  header_bytes += other.header_bytes;
  undo_bytes += other.undo_bytes;
  flushes += other.flushes;
  commits += other.commits;
  scratch_windows += other.scratch_windows;
  return *this;
}

CommandRunner::CommandRunner(Disks disks, const FaultOptions& faults,
                             uint64_t seed)
    : disks_(std::move(disks)), faults_(faults), rng_(seed) {}

SimDisk& CommandRunner::DiskOf(Kind kind) {
  switch (PlaceOf(kind)) {
    case Place::kBase:
      return disks_.base;
    case Place::kUndo:
      return *disks_.undo;
    case Place::kCow:
      break;
  }
  return disks_.cow;
}

void CommandRunner::Count(const merge::Command& command) {
  switch (command.kind) {
    case Kind::kWriteBase:
    case Kind::kZeroBase:
      work_.base_bytes += command.length_bytes;
      break;
    case Kind::kWriteScratch:
      work_.scratch_bytes += command.length_bytes;
      break;
    case Kind::kWriteState:
      ++work_.scratch_windows;
      work_.header_bytes += command.length_bytes;
      break;
    case Kind::kCommit:
      ++work_.commits;
      work_.header_bytes += command.length_bytes;
      break;
    case Kind::kMark:
      work_.header_bytes += command.length_bytes;
      break;
    case Kind::kWriteUndo:
      work_.undo_bytes += command.length_bytes;
      break;
    default:
      if (IsFlush(command.kind)) ++work_.flushes;
  }
}

bool CommandRunner::HandOut(const merge::Command& command) {
  Running running;
  running.command = command;
  Count(command);
  transcript_ += merge::CommandName(command.kind);
  if (!IsFlush(command.kind)) {
    transcript_ += ' ' + std::to_string(command.offset) + '+' +
                   std::to_string(command.length_bytes);
  }
  transcript_ += '\n';
  if (IsWrite(command.kind)) {
    const std::vector<uint8_t> zeros(
        command.kind == Kind::kZeroBase ? command.length_bytes : 0);
    const ConstByteSpan bytes =
        command.kind == Kind::kZeroBase
            ? ConstByteSpan(zeros)
            : ConstByteSpan(command.data, command.length_bytes);
    if (!DiskOf(command.kind)
             .SubmitWrite(command.offset, bytes, &running.ticket)) {
      return false;
    }
    wrote_ = true;
    if (PlaceOf(command.kind) == Place::kCow) last_cow_write_ = command.kind;
  }
  running_.push_back(running);
  return true;
}

bool CommandRunner::TakeWrote() {
  const bool wrote = wrote_;
  wrote_ = false;
  return wrote;
}

bool CommandRunner::FlushIsLost(Kind kind) const {
  if (kind == Kind::kFlushBase) {
    return faults_.lost_flush == LostFlush::kBase;
  }
  if (kind == Kind::kFlushUndo) {
    return faults_.lost_flush == LostFlush::kUndo;
  }
  switch (last_cow_write_) {
    case Kind::kReadSector:  // none yet
    case Kind::kMark:
      return faults_.lost_flush == LostFlush::kStart;
    case Kind::kWriteScratch:
      return faults_.lost_flush == LostFlush::kScratch;
    case Kind::kWriteState:
      return faults_.lost_flush == LostFlush::kState;
    default:
      return faults_.lost_flush == LostFlush::kCommit;
  }
}

IoStatus CommandRunner::LoadUnit(const cow::Op& op, const uint32_t* check,
                                 ByteSpan out) const {
  std::vector<uint8_t> stored(op.data_length);
  const IoStatus status = disks_.cow.Read(op.data_offset, stored);
  if (status != IoStatus::kOk) return status;
  return cow::DecodeUnit(codec_, op.compression, check, stored, out);
}

IoStatus CommandRunner::Execute(const Running& running) {
  const merge::Command& command = running.command;
  SimDisk& disk = DiskOf(command.kind);
  const ByteSpan out(command.data, command.length_bytes);
  const uint32_t* check = command.has_check ? &command.check : nullptr;
  if (IsWrite(command.kind)) {
    disk.Complete(running.ticket);
    return IoStatus::kOk;
  }
  if (IsFlush(command.kind)) {
    if (!FlushIsLost(command.kind)) disk.Flush();
    return IoStatus::kOk;
  }
  if (command.kind == Kind::kLoadUnit) return LoadUnit(command.op, check, out);
  if (command.kind == Kind::kXorUnit) {
    std::vector<uint8_t> unit(command.length_bytes);
    const IoStatus status = LoadUnit(command.op, check, unit);
    if (status == IoStatus::kOk) {
      cow::XorOnto(unit.data(), unit.size(), out.data());
    }
    return status;
  }
  return disk.Read(command.offset, out);
}

void CommandRunner::Break(const Running& running) {
  const merge::Command& command = running.command;
  if (IsWrite(command.kind)) {
    DiskOf(command.kind).CutShort(running.ticket, &rng_);
  } else if (IsFlush(command.kind)) {
    DiskOf(command.kind).FailFlush(&rng_);
  } else if (command.kind != Kind::kXorUnit) {
    std::memset(command.data, 0xee, command.length_bytes);
  }
}

CommandRunner::Ended CommandRunner::FinishOne() {
  const size_t pick = rng_.Below(running_.size());
  const Running running = running_[pick];
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(pick));
  ++ended_;
  Ended ended;
  ended.id = running.command.id;
  if (ended_ == faults_.fail_command ||
      (faults_.fail_one_in != 0 && rng_.OneIn(faults_.fail_one_in))) {
    Break(running);
    ended.status = rng_.OneIn(3) && IsWrite(running.command.kind)
                       ? IoStatus::kNoSpace
                       : IoStatus::kIoError;
    return ended;
  }
  ended.status = Execute(running);
  return ended;
}

}  // namespace dmu::sim
