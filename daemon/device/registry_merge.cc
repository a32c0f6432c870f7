// SPDX-License-Identifier: Apache-2.0
//
// registry_merge.cc - of registry.h: merges, and what comes after them.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/device/registry.h"
#include "daemon/device/registry_entry.h"

namespace dmu {

void Registry::OnLogAgain(void* context) {
  auto* entry = static_cast<Entry*>(context);
  Done done = std::exchange(entry->log_done, nullptr);
  if (entry->state != proto::DeviceStatus::SERVING) {
    done(NotServed(entry->name()));
    return;
  }
  entry->registry->StartMerge(entry, std::move(done));
}

void Registry::ShareBase(const std::string& name, Done done) {
  Entry* entry = Find(name);
  if (entry == nullptr || entry->state != proto::DeviceStatus::SERVING) {
    done(NotServed(name));
    return;
  }
  MergeControl* merge = entry->merge();
  if (merge == nullptr || !entry->record.attach().has_snapshot()) {
    done(absl::InvalidArgumentError(
        absl::StrCat(name, ": has nothing to merge: it is no snapshot")));
    return;
  }
  if (entry->record.attach().snapshot().share_base()) {
    done(absl::OkStatus());
    return;
  }
  const MergeStatus status = merge->status();
  if (status.state != MergeStatus::State::kDone) {
    done(absl::AbortedError(absl::StrCat(
        name, ": ", status.merged_ops, " of ", status.total_ops,
        " ops are merged; wait for the rest (dmuserctl merge NAME --wait)")));
    return;
  }
  proto::Attach shared = entry->record.attach();
  shared.mutable_snapshot()->set_share_base(true);
  factories_.open_backend(
      shared, [this, name, serial = entry->serial, done = std::move(done)](
                  absl::StatusOr<std::unique_ptr<Backend>> backend) {
        OnShared(name, serial, std::move(backend), done);
      });
}

// A second back end for the same files, opened with others allowed, takes over
// from the first, which lets go of its locks when it has answered.
void Registry::OnShared(const std::string& name, uint64_t serial,
                        absl::StatusOr<std::unique_ptr<Backend>> backend,
                        const Done& done) {
  if (!backend.ok()) {
    done(backend.status());
    return;
  }
  Entry* entry = Find(name);
  if (entry == nullptr || entry->serial != serial ||
      entry->state != proto::DeviceStatus::SERVING) {
    done(NotServed(name));
    return;
  }
  if (entry->record.attach().snapshot().share_base()) {
    done(absl::OkStatus());
    return;
  }
  proto::DeviceRecord record = entry->record;
  record.mutable_attach()->mutable_snapshot()->set_share_base(true);
  absl::Status saved = store_->Save(record);
  if (!saved.ok()) {
    done(saved);
    return;
  }
  entry->record = record;
  entry->merge()->SetListener(nullptr);
  entry->device->Replace(std::move(*backend),
                         [done] { done(absl::OkStatus()); });
  entry->merge()->SetListener(&entry->merge_changed);
}

void Registry::OnMerge(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->OnMergeChanged(entry);
}

void Registry::OnMergeChanged(Entry* entry) {
  MergeControl* merge = entry->merge();
  if (merge == nullptr) return;
  const MergeStatus status = merge->status();
  const LogFields fields = {.device = entry->name().c_str(), .op = "merge"};
  if (status.state == MergeStatus::State::kDone &&
      entry->record.merge_wanted()) {
    entry->record.set_merge_wanted(false);
    absl::Status saved = store_->Save(entry->record);
    // A record that still wants the merge costs the next daemon one look.
    if (!saved.ok()) {
      LogWith(LogLevel::kError, fields, "%s",
              std::string(saved.message()).c_str());
    }
    LogWith(LogLevel::kInfo, fields, "%s: merge finished",
            entry->name().c_str());
  }
  if (status.state == MergeStatus::State::kFailed) {
    LogWith(LogLevel::kError, fields, "%s: merge stopped: %s",
            entry->name().c_str(), status.error);
  }
  Tell(std::string(entry->name()));
}

void Registry::SetMerge(const proto::Merge& merge, Done done) {
  Entry* entry = Find(merge.name());
  if (entry == nullptr || entry->state != proto::DeviceStatus::SERVING) {
    done(NotServed(merge.name()));
    return;
  }
  MergeControl* control = entry->merge();
  if (control == nullptr) {
    done(absl::InvalidArgumentError(absl::StrCat(
        merge.name(), ": has nothing to merge: it is no snapshot")));
    return;
  }
  if (merge.action() == proto::Merge::PAUSE) {
    done(PauseMerge(entry));
    return;
  }
  const MergeStatus status = control->status();
  if (status.state == MergeStatus::State::kDone) {
    done(absl::OkStatus());
    return;
  }
  if (merge.has_rate_bytes_per_s()) {
    entry->record.set_rate_bytes_per_s(merge.rate_bytes_per_s());
  }
  const std::string& log = merge.undo_log_path();
  const std::string known = entry->record.undo_log_path();
  if (!log.empty() && log != known) {
    if (!known.empty() && status.merged_ops > 0) {
      done(absl::FailedPreconditionError(
          absl::StrCat(merge.name(), ": the merge keeps its undo log in ",
                       known, " and must go on with that")));
      return;
    }
    if (status.state == MergeStatus::State::kRunning) {
      done(absl::FailedPreconditionError(absl::StrCat(
          merge.name(), ": the merge is running without an undo log")));
      return;
    }
    entry->record.set_undo_log_path(log);
    entry->keeps_undo_log = false;
    // A log that cannot be used is forgotten.
    done = [this, name = merge.name(), known,
            done = std::move(done)](absl::Status status) {
      Entry* at = Find(name);
      if (!status.ok() && at != nullptr && !at->keeps_undo_log) {
        at->record.set_undo_log_path(known);
      }
      done(std::move(status));
    };
  }
  if (entry->log_done == nullptr) {
    entry->log_wait.Begin(loop_->NowUs(), kBusyUs);
  }
  StartMerge(entry, std::move(done));
}

absl::Status Registry::PauseMerge(Entry* entry) {
  proto::DeviceRecord record = entry->record;
  record.set_merge_wanted(false);
  absl::Status saved = store_->Save(record);
  if (!saved.ok()) return saved;
  entry->record = record;
  entry->merge()->Pause();
  if (Done waiting = std::exchange(entry->log_done, nullptr)) {
    loop_->Disarm(&entry->log_again);
    entry->log_wait.End();
    waiting(absl::CancelledError(entry->name() + ": the merge was paused"));
  }
  return absl::OkStatus();
}

bool Registry::WaitForLog(Entry* entry, const absl::Status& busy, Done* done) {
  if (entry->log_done != nullptr) return false;
  const std::optional<uint64_t> next_us =
      entry->log_wait.NextUs(loop_->NowUs());
  if (!next_us.has_value()) return false;
  if (entry->log_wait.is_endless() &&
      entry->log_wait.Explain(std::string(busy.message()))) {
    LogWait(entry->name(), entry->log_wait);
    Tell(std::string(entry->name()));
  }
  entry->log_done = std::move(*done);
  loop_->Arm(&entry->log_again, *next_us);
  return true;
}

void Registry::StartMerge(Entry* entry, Done done) {
  const std::string& path = entry->record.undo_log_path();
  if (path.empty() || entry->keeps_undo_log) {
    proto::DeviceRecord record = entry->record;
    record.set_merge_wanted(true);
    // The wish, and where the log is, are durable before the first block is
    // overwritten.
    absl::Status saved = store_->Save(record);
    if (saved.ok()) {
      entry->record = record;
      entry->merge()->SetRate(record.rate_bytes_per_s());
      entry->merge()->Start();
    }
    done(saved);
    return;
  }
  absl::StatusOr<std::unique_ptr<Disk>> log = factories_.open_disk(path);
  if (absl::IsAborted(log.status()) && WaitForLog(entry, log.status(), &done)) {
    return;
  }
  if (entry->log_done == nullptr && entry->log_wait.End()) {
    LogFree(entry->name(), entry->log_wait.WaitedUs(loop_->NowUs()));
  }
  if (!log.ok()) {
    done(log.status());
    return;
  }
  const std::string name = entry->name();
  entry->merge()->KeepUndoLog(
      std::move(*log), [this, name, serial = entry->serial,
                        done = std::move(done)](absl::Status status) {
        Entry* at = Find(name);
        if (at == nullptr || at->serial != serial ||
            at->state != proto::DeviceStatus::SERVING) {
          done(NotServed(name));
          return;
        }
        if (!status.ok()) {
          done(absl::Status(status.code(),
                            absl::StrCat(name, ": ", status.message())));
          return;
        }
        at->keeps_undo_log = true;
        StartMerge(at, done);
      });
}

}  // namespace dmu
