// SPDX-License-Identifier: Apache-2.0
//
// cow_merge.cc - see cow_merge.h. One command of the engine after the other:
// what it waits for is the disk, which the page cache keeps busy.
#include "tools/cow_merge.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/cow/codec.h"
#include "daemon/cow/unit.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/merged_bytes.h"
#include "tools/base_identity.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/progress_bar.h"

namespace dmu::tools {
namespace {

using Kind = merge::Command::Kind;
using Turn = merge::Engine::Turn;

class Merger {
 public:
  Merger(const MergeOptions& options, const CowFile& cow, const File& base)
      : options_(options),
        cow_(cow),
        base_(base),
        codec_(cow::Codec::Create(cow.image->compressions)),
        engine_(*cow.image, BaseBytes(options, cow, base),
                cow.file.size_bytes(),
                {.merged_bytes = MergedSoFar(*cow.image)}),
        workspace_(options.window_blocks),
        staging_(size_t{options.window_blocks} * kBlockBytes),
        stored_(std::max<size_t>(cow.image->stored_bytes_max, 1)),
        block_(kBlockBytes),
        zeros_(merge::kCommandBytesMax) {}

  absl::StatusOr<MergeSummary> Run() {
    const auto start = std::chrono::steady_clock::now();
    if (codec_ == nullptr || !workspace_.valid()) {
      return absl::ResourceExhaustedError("no memory for the merge");
    }
    if (engine_.refusal()[0] != '\0') {
      return absl::FailedPreconditionError(
          absl::StrCat(cow_.file.path(), ": ", engine_.refusal()));
    }
    engine_.Attach(&workspace_, staging_);
    ProgressBar bar(options_.dry_run ? "checking" : "merging ",
                    options_.progress);
    engine_.Start();
    if (absl::Status status = Drive(&bar); !status.ok()) return status;
    summary_.finished = engine_.state() == merge::Engine::State::kDone;
    summary_.merged_ops = engine_.merged_ops();
    summary_.total_ops = engine_.total_ops();
    summary_.elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return summary_;
  }

 private:
  // A trial has not grown the base as the merge would.
  static uint64_t BaseBytes(const MergeOptions& options, const CowFile& cow,
                            const File& base) {
    if (!options.dry_run || base.is_block_device()) return base.size_bytes();
    return std::max(base.size_bytes(),
                    cow::TargetBytes(*cow.image, base.size_bytes()));
  }

  static uint64_t MergedSoFar(const cow::Image& image) {
    merge::MergedBytes merged(image.index, image.progress.merged_ops);
    while (!merged.Step(UINT32_MAX)) {
    }
    return merged.bytes();
  }

  absl::Status Drive(ProgressBar* bar) {
    merge::Command command;
    for (;;) {
      if (summary_.windows >= options_.windows_max ||
          (options_.stop != nullptr && options_.stop->load())) {
        engine_.Pause();
      }
      switch (engine_.Next(&command)) {
        case Turn::kCommand: {
          const IoStatus status = Execute(command);
          engine_.Done(command.id, status);
          bar->Update(engine_.merged_bytes(), cow_.image->merge_bytes);
          break;
        }
        case Turn::kStop:
          return Stopped();
        case Turn::kWaitDone:
        case Turn::kWaitLease:
          // Nothing is under way and nobody reads.
          DMU_CHECK(engine_.state() == merge::Engine::State::kRunning);
          break;
      }
    }
  }

  absl::Status Stopped() {
    if (engine_.state() != merge::Engine::State::kFailed) {
      return absl::OkStatus();
    }
    if (!io_error_.ok()) return io_error_;
    return absl::DataLossError(
        absl::StrCat(cow_.file.path(), ": ", engine_.error()));
  }

  IoStatus Execute(const merge::Command& command) {
    const ByteSpan data(command.data, command.length_bytes);
    switch (command.kind) {
      case Kind::kReadSector:
      case Kind::kReadOps:
      case Kind::kReadChecks:
      case Kind::kReadSequence:
      case Kind::kReadScratch:
        return Note(cow_.file.ReadAt(command.offset, data));
      case Kind::kReadSource:
        return Note(base_.ReadAt(command.offset, data));
      case Kind::kLoadUnit:
      case Kind::kXorUnit:
        return LoadUnit(command);
      case Kind::kMark:
      case Kind::kWriteScratch:
        summary_.scratch_bytes += data.size();
        return Write(cow_.file, command.offset, data);
      case Kind::kWriteState:
        summary_.scratch_bytes += data.size();
        ++summary_.scratch_windows;
        return Write(cow_.file, command.offset, data);
      case Kind::kCommit:
        summary_.scratch_bytes += data.size();
        ++summary_.windows;
        return Write(cow_.file, command.offset, data);
      case Kind::kWriteBase:
        summary_.base_bytes += data.size();
        return Write(base_, command.offset, data);
      case Kind::kZeroBase:
        summary_.base_bytes += command.length_bytes;
        return Write(base_, command.offset,
                     ConstByteSpan(zeros_.data(), command.length_bytes));
      case Kind::kFlushCow:
        return Flush(cow_.file);
      case Kind::kFlushBase:
        return Flush(base_);
    }
    return IoStatus::kUnsupported;
  }

  IoStatus LoadUnit(const merge::Command& command) {
    const bool is_xor = command.kind == Kind::kXorUnit;
    const ByteSpan stored(stored_.data(), command.op.data_length);
    const IoStatus read = Note(cow_.file.ReadAt(command.offset, stored));
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

  IoStatus Write(const File& file, uint64_t offset, ConstByteSpan bytes) {
    if (options_.dry_run) return IoStatus::kOk;
    return Note(file.WriteAt(offset, bytes));
  }

  IoStatus Flush(const File& file) {
    ++summary_.flushes;
    if (options_.dry_run) return IoStatus::kOk;
    return Note(file.SyncData());
  }

  // The file's own sentence is better than the engine's.
  IoStatus Note(absl::Status status) {
    if (status.ok()) return IoStatus::kOk;
    if (io_error_.ok()) io_error_ = std::move(status);
    return IoStatus::kIoError;
  }

  const MergeOptions& options_;
  const CowFile& cow_;
  const File& base_;
  std::unique_ptr<cow::Codec> codec_;
  merge::Engine engine_;
  merge::Workspace workspace_;
  std::vector<uint8_t> staging_;
  std::vector<uint8_t> stored_;  // a unit as it is in the file
  std::vector<uint8_t> block_;   // what is xored
  const std::vector<uint8_t> zeros_;
  MergeSummary summary_;
  absl::Status io_error_;
};

// The base must hold the whole target before, and nothing more after the merge.
absl::Status GrowBase(const MergeOptions& options, const cow::Image& image,
                      File* base) {
  if (!image.has_extension || base->is_block_device() || options.dry_run) {
    return absl::OkStatus();
  }
  const cow::Extension& ext = image.extension;
  if (base->size_bytes() != ext.base_bytes ||
      ext.target_bytes <= ext.base_bytes) {
    return absl::OkStatus();
  }
  absl::Status status = base->Resize(ext.target_bytes);
  return status.ok() ? base->Sync() : status;
}

absl::Status CutBase(const cow::Image& image, File* base) {
  if (!image.has_extension || base->is_block_device() ||
      base->size_bytes() <= image.extension.target_bytes) {
    return absl::OkStatus();
  }
  absl::Status status = base->Resize(image.extension.target_bytes);
  return status.ok() ? base->Sync() : status;
}

}  // namespace

absl::StatusOr<MergeSummary> MergeOffline(const MergeOptions& options) {
  const auto open = options.dry_run ? File::OpenForRead : File::OpenForWrite;
  absl::StatusOr<File> cow_file = open(options.cow_path);
  if (!cow_file.ok()) return cow_file.status();
  if (cow_file->IsAt(options.base_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the base ", options.base_path, " is the COW file itself"));
  }
  absl::StatusOr<File> base = open(options.base_path);
  if (!base.ok()) return base.status();
  absl::StatusOr<std::unique_ptr<cow::Image>> image = LoadImage(*cow_file);
  if (!image.ok()) return image.status();
  const CowFile cow = {*std::move(cow_file), *std::move(image)};
  absl::Status status = CheckBaseIdentity(cow, *base);
  if (status.ok()) status = GrowBase(options, *cow.image, &*base);
  if (status.ok() && !options.dry_run) {
    status = cow::CheckBase(*cow.image, base->size_bytes(), /*for_merge=*/true);
    if (!status.ok()) {
      status = absl::Status(status.code(),
                            absl::StrCat(base->path(), ": ", status.message()));
    }
  }
  if (!status.ok()) return status;
  absl::StatusOr<MergeSummary> summary = Merger(options, cow, *base).Run();
  if (!summary.ok() || options.dry_run || !summary->finished) return summary;
  status = CutBase(*cow.image, &*base);
  if (!status.ok()) return status;
  return summary;
}

}  // namespace dmu::tools
