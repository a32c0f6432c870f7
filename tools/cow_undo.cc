// SPDX-License-Identifier: Apache-2.0
//
// cow_undo.cc - see cow_undo.h.
#include "tools/cow_undo.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/merge/undo_engine.h"
#include "tools/base_identity.h"
#include "tools/command_io.h"
#include "tools/cow_file.h"
#include "tools/progress_bar.h"
#include "tools/undo_log.h"

namespace dmu::tools {
namespace {

using State = merge::UndoEngine::State;
using Turn = merge::UndoEngine::Turn;

struct Inputs {
  CowFile cow;
  File base;
  File log_file;
  std::unique_ptr<merge::UndoLoader> log;
};

absl::StatusOr<Inputs> Open(const UndoOptions& options) {
  const auto open = options.dry_run ? File::OpenForRead : File::OpenForWrite;
  Inputs in;
  absl::StatusOr<File> file = open(options.cow_path);
  if (!file.ok()) return file.status();
  in.cow.file = *std::move(file);
  for (const std::string& other : {options.base_path, options.log_path}) {
    if (in.cow.file.IsAt(other)) {
      return absl::InvalidArgumentError(
          absl::StrCat(other, " is the COW file itself"));
    }
  }
  file = open(options.base_path);
  if (!file.ok()) return file.status();
  in.base = *std::move(file);
  if (in.base.IsAt(options.log_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the undo log ", options.log_path, " is the base itself"));
  }
  file = open(options.log_path);
  if (!file.ok()) return file.status();
  in.log_file = *std::move(file);
  absl::StatusOr<std::unique_ptr<cow::Image>> image = LoadImage(in.cow.file);
  if (!image.ok()) return image.status();
  in.cow.image = *std::move(image);
  absl::Status status = CheckBaseIdentity(in.cow, in.base);
  if (!status.ok()) return status;
  auto log = LoadUndoLog(in.log_file, *in.cow.image, options.progress);
  if (!log.ok()) return log.status();
  in.log = *std::move(log);
  return in;
}

// The base can hold both images while it becomes the old one.
absl::Status GrowBase(const Inputs& in, File* base) {
  const merge::UndoSuperblock& super = in.log->super();
  const uint64_t bytes = std::max(
      super.base_bytes, uint64_t{in.cow.image->span_blocks} * kBlockBytes);
  if (base->size_bytes() >= bytes) return absl::OkStatus();
  if (base->is_block_device()) {
    return absl::FailedPreconditionError(
        absl::StrCat(base->path(), " has ", base->size_bytes(),
                     " bytes; the old image needs ", bytes));
  }
  absl::Status status = base->Resize(bytes);
  return status.ok() ? base->Sync() : status;
}

absl::Status Drive(const UndoOptions& options, const merge::UndoLoader& log,
                   merge::UndoEngine* engine, CommandIo* io) {
  ProgressBar bar("undoing ", options.progress);
  merge::Command command;
  engine->Start();
  for (;;) {
    if (engine->steps() >= options.steps_max ||
        (options.stop != nullptr && options.stop->load())) {
      engine->Pause();
    }
    switch (engine->Next(&command)) {
      case Turn::kCommand:
        engine->Done(command.id, io->Execute(command));
        bar.Update(engine->restored_blocks() * kBlockBytes,
                   log.blocks() * kBlockBytes);
        break;
      case Turn::kStop:
        if (engine->state() != State::kFailed) return absl::OkStatus();
        if (!io->error().ok()) return io->error();
        return absl::DataLossError(
            absl::StrCat(options.log_path, ": ", engine->error()));
      default:
        // Nothing is under way.
        DMU_CHECK(engine->state() == State::kRunning);
        break;
    }
  }
}

}  // namespace

absl::StatusOr<UndoSummary> UndoOffline(const UndoOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  absl::StatusOr<Inputs> in = Open(options);
  if (!in.ok()) return in.status();
  UndoSummary summary;
  summary.total_ops = in->log->super().merge_ops;
  summary.merged_ops = in->cow.image->progress.merged_ops;
  summary.log_bytes = in->log->tail().offset;
  summary.old_bytes = in->log->super().base_bytes;
  if (!options.dry_run) {
    absl::Status status = GrowBase(*in, &in->base);
    if (!status.ok()) return status;
    merge::UndoEngine engine(*in->cow.image, in->cow.file.size_bytes(),
                             *in->log);
    CommandIo io({.image = in->cow.image.get(),
                  .cow = &in->cow.file,
                  .base = &in->base,
                  .undo = &in->log_file});
    status = Drive(options, *in->log, &engine, &io);
    if (!status.ok()) return status;
    summary.finished = engine.state() == State::kDone;
    summary.merged_ops = engine.merged_ops();
    summary.base_bytes = io.work().base_bytes;
    summary.cow_bytes = io.work().cow_bytes;
    summary.flushes = io.work().flushes;
    if (summary.finished && !in->base.is_block_device() &&
        in->base.size_bytes() != summary.old_bytes) {
      status = in->base.Resize(summary.old_bytes);
      if (status.ok()) status = in->base.Sync();
      if (!status.ok()) return status;
    }
  }
  summary.elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return summary;
}

}  // namespace dmu::tools
