// SPDX-License-Identifier: Apache-2.0
//
// command_io.cc - see command_io.h.
#include "tools/command_io.h"

#include <algorithm>
#include <utility>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu::tools {
namespace {

using Kind = merge::Command::Kind;

}  // namespace

CommandIo::CommandIo(const Files& files)
    : files_(files),
      codec_(cow::Codec::Create(files.image->compressions)),
      stored_(std::max<size_t>(files.image->stored_bytes_max, 1)),
      block_(kBlockBytes),
      zeros_(merge::kCommandBytesMax) {}

IoStatus CommandIo::Execute(const merge::Command& command) {
  const ByteSpan data(command.data, command.length_bytes);
  switch (command.kind) {
    case Kind::kReadSector:
    case Kind::kReadOps:
    case Kind::kReadChecks:
    case Kind::kReadSequence:
    case Kind::kReadScratch:
      return Note(files_.cow->ReadAt(command.offset, data));
    case Kind::kReadSource:
    case Kind::kReadOld:
      return Note(files_.base->ReadAt(command.offset, data));
    case Kind::kReadUndo:
      return Note(files_.undo->ReadAt(command.offset, data));
    case Kind::kLoadUnit:
    case Kind::kXorUnit:
      return LoadUnit(command);
    case Kind::kWriteState:
      ++work_.scratch_windows;
      break;
    case Kind::kCommit:
      ++work_.windows;
      break;
    case Kind::kMark:
    case Kind::kWriteScratch:
      break;
    case Kind::kWriteBase:
      work_.base_bytes += data.size();
      return Write(*files_.base, command.offset, data);
    case Kind::kZeroBase:
      work_.base_bytes += command.length_bytes;
      return Write(*files_.base, command.offset,
                   ConstByteSpan(zeros_.data(), command.length_bytes));
    case Kind::kWriteUndo:
      work_.undo_bytes += data.size();
      return Write(*files_.undo, command.offset, data);
    case Kind::kFlushCow:
      return Flush(*files_.cow);
    case Kind::kFlushBase:
      return Flush(*files_.base);
    case Kind::kFlushUndo:
      return Flush(*files_.undo);
  }
  work_.cow_bytes += data.size();
  return Write(*files_.cow, command.offset, data);
}

IoStatus CommandIo::LoadUnit(const merge::Command& command) {
  const bool is_xor = command.kind == Kind::kXorUnit;
  const ByteSpan stored(stored_.data(), command.op.data_length);
  const IoStatus read = Note(files_.cow->ReadAt(command.offset, stored));
  if (read != IoStatus::kOk) return read;
  const IoStatus status = cow::DecodeUnit(
      codec_.get(), command.op.compression,
      command.has_check ? &command.check : nullptr, stored,
      {is_xor ? block_.data() : command.data, command.length_bytes});
  if (status == IoStatus::kOk && is_xor) {
    cow::XorOnto(block_.data(), command.length_bytes, command.data);
  }
  return status;
}

IoStatus CommandIo::Write(const File& file, uint64_t offset,
                          ConstByteSpan bytes) {
  if (files_.dry_run) return IoStatus::kOk;
  return Note(file.WriteAt(offset, bytes));
}

IoStatus CommandIo::Flush(const File& file) {
  ++work_.flushes;
  if (files_.dry_run) return IoStatus::kOk;
  return Note(file.SyncData());
}

IoStatus CommandIo::Note(absl::Status status) {
  if (status.ok()) return IoStatus::kOk;
  if (error_.ok()) error_ = std::move(status);
  return IoStatus::kIoError;
}

}  // namespace dmu::tools
