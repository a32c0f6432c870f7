// SPDX-License-Identifier: Apache-2.0
//
// cow_merge.cc - see cow_merge.h. One command of the engine after the other:
// what it waits for is the disk, which the page cache keeps busy.
#include "tools/cow_merge.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/merged_bytes.h"
#include "tools/base_identity.h"
#include "tools/command_io.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/progress_bar.h"
#include "tools/undo_log.h"

namespace dmu::tools {
namespace {

using Turn = merge::Engine::Turn;

class Merger {
 public:
  // `log`: nullptr when none is kept.
  Merger(const MergeOptions& options, const CowFile& cow, const File& base,
         const UndoLog* log)
      : options_(options),
        cow_(cow),
        io_({.image = cow.image.get(),
             .cow = &cow.file,
             .base = &base,
             .undo = log == nullptr ? nullptr : &log->file,
             .dry_run = options.dry_run}),
        engine_(*cow.image, BaseBytes(options, cow, base),
                cow.file.size_bytes(),
                {.merged_bytes = MergedSoFar(*cow.image)}),
        workspace_(options.window_blocks),
        staging_(size_t{options.window_blocks} * kBlockBytes) {
    if (log == nullptr) return;
    engine_.KeepUndoLog(log->tail, log->limit_bytes);
    undo_buffer_.resize(merge::Engine::kUndoBufferBytes);
  }

  absl::StatusOr<MergeSummary> Run() {
    const auto start = std::chrono::steady_clock::now();
    if (!io_.valid() || !workspace_.valid()) {
      return absl::ResourceExhaustedError("no memory for the merge");
    }
    if (engine_.refusal()[0] != '\0') {
      return absl::FailedPreconditionError(
          absl::StrCat(cow_.file.path(), ": ", engine_.refusal()));
    }
    engine_.Attach(&workspace_, staging_, undo_buffer_);
    ProgressBar bar(options_.dry_run ? "checking" : "merging ",
                    options_.progress);
    engine_.Start();
    if (absl::Status status = Drive(&bar); !status.ok()) return status;
    const CommandIo::Work& work = io_.work();
    MergeSummary summary;
    summary.finished = engine_.state() == merge::Engine::State::kDone;
    summary.merged_ops = engine_.merged_ops();
    summary.total_ops = engine_.total_ops();
    summary.base_bytes = work.base_bytes;
    summary.scratch_bytes = work.cow_bytes;
    summary.undo_bytes = work.undo_bytes;
    summary.windows = work.windows;
    summary.scratch_windows = work.scratch_windows;
    summary.flushes = work.flushes;
    summary.elapsed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return summary;
  }

  const merge::UndoTail& undo_tail() const { return engine_.undo_tail(); }

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
      if (io_.work().windows >= options_.windows_max ||
          (options_.stop != nullptr && options_.stop->load())) {
        engine_.Pause();
      }
      switch (engine_.Next(&command)) {
        case Turn::kCommand:
          engine_.Done(command.id, io_.Execute(command));
          bar->Update(engine_.merged_bytes(), cow_.image->merge_bytes);
          break;
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

  // The file's own sentence is better than the engine's.
  absl::Status Stopped() {
    if (engine_.state() != merge::Engine::State::kFailed) {
      return absl::OkStatus();
    }
    if (!io_.error().ok()) return io_.error();
    return absl::DataLossError(
        absl::StrCat(cow_.file.path(), ": ", engine_.error()));
  }

  const MergeOptions& options_;
  const CowFile& cow_;
  CommandIo io_;
  merge::Engine engine_;
  merge::Workspace workspace_;
  std::vector<uint8_t> staging_;
  std::vector<uint8_t> undo_buffer_;
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

bool MustCutBase(const cow::Image& image, const File& base) {
  return image.has_extension && !base.is_block_device() &&
         base.size_bytes() > image.extension.target_bytes;
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
  if (!status.ok()) return status;
  std::optional<UndoLog> log;
  if (!options.undo_log_path.empty() && !options.dry_run) {
    if (base->IsAt(options.undo_log_path) ||
        cow.file.IsAt(options.undo_log_path)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the undo log ", options.undo_log_path, " is the base or COW file"));
    }
    absl::StatusOr<UndoLog> opened =
        OpenUndoLog(options.undo_log_path, *cow.image, base->size_bytes());
    if (!opened.ok()) return opened.status();
    log = *std::move(opened);
  }
  if (status.ok()) status = GrowBase(options, *cow.image, &*base);
  if (status.ok() && !options.dry_run) {
    status = cow::CheckBase(*cow.image, base->size_bytes(), /*for_merge=*/true);
    if (!status.ok()) {
      status = absl::Status(status.code(),
                            absl::StrCat(base->path(), ": ", status.message()));
    }
  }
  if (!status.ok()) return status;
  Merger merger(options, cow, *base, log.has_value() ? &*log : nullptr);
  absl::StatusOr<MergeSummary> summary = merger.Run();
  if (!summary.ok() || options.dry_run || !summary->finished) return summary;
  const bool cut = MustCutBase(*cow.image, *base);
  if (cut && log.has_value()) {
    status = SaveTail(*log, *base, cow.image->extension.target_bytes,
                      merger.undo_tail());
  }
  if (cut && status.ok()) {
    status = base->Resize(cow.image->extension.target_bytes);
    if (status.ok()) status = base->Sync();
  }
  if (!status.ok()) return status;
  return summary;
}

}  // namespace dmu::tools
