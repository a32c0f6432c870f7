// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/device/describe.h"

namespace dmu {

struct Registry::Entry {
  Registry* registry = nullptr;
  proto::DeviceRecord record;
  proto::DeviceStatus::State state = proto::DeviceStatus::ATTACHING;
  Purpose purpose = Purpose::kAttach;
  std::unique_ptr<Backend> unserved;  // open, and not yet the device's
  std::unique_ptr<Device> device;
  // Tells it from a later device of the same name.
  uint64_t serial = 0;
  bool keeps_undo_log = false;
  bool keep_record = false;
  // The record in the store is this one's; before it, there was that.
  bool recorded = false;
  StateStore::Bytes record_before;
  // What the attach is answered with when the device goes before it served.
  absl::Status attach_result =
      absl::CancelledError("detached while it was attached");
  Done attach_done;
  std::vector<Done> detach_done;
  Task closed;        // called by the device, deep inside its channel
  Task closed_later;  // takes the device apart, in a turn of its own
  Task stopped;
  Task merge_changed;
  // Until then a file that is in use is tried again.
  uint64_t busy_until_us = 0;
  Timer open_again;
  Timer log_again;
  Done log_done;
  Task failed;  // requests did

  const std::string& name() const { return record.attach().name(); }
  // Somebody waits to hear that it is served, who would be told that it is not:
  // then everything is to be as it was.
  bool is_on_trial() const {
    return purpose != Purpose::kRecover &&
           state != proto::DeviceStatus::SERVING && attach_done != nullptr;
  }
  Backend* backend() const {
    return device != nullptr ? device->backend() : unserved.get();
  }
  // Of what is served: nothing else may be merged.
  MergeControl* merge() const {
    return device != nullptr ? device->backend()->merge() : nullptr;
  }
};

struct Registry::Leftover {
  Registry* registry = nullptr;
  std::string name;
  std::unique_ptr<Channel> channel;
  Done done;
  Task removed;
};

namespace {

// A file is in use until the last I/O on it has ended, of whoever had it: of a
// killed daemon too, whose devices are to be served again.
constexpr uint64_t kBusyRecoverUs = 10'000'000;
constexpr uint64_t kBusyUs = 1'000'000;
constexpr uint64_t kBusyStepUs = 20'000;

// dm names are at most 127 bytes; a slash would leave the state directory.
constexpr size_t kNameBytesMax = 127;

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name.size() > kNameBytesMax || name[0] == '.' ||
      name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", name, "' is no device name: 1 to ", kNameBytesMax,
                     " characters, no '/', not beginning with '.'"));
  }
  return absl::OkStatus();
}

absl::Status NotServed(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(
      name,
      ": this daemon serves no such device; 'dmuserctl list' names them"));
}

}  // namespace

Registry::Registry(Factories factories, StateStore* store, Loop* loop)
    : factories_(std::move(factories)), store_(store), loop_(loop) {}

Registry::~Registry() { DMU_CHECK(entries_.empty()); }

Registry::Entry* Registry::Find(const std::string& name) const {
  for (const auto& entry : entries_) {
    if (entry->name() == name) return entry.get();
  }
  return nullptr;
}

void Registry::Attach(const proto::Attach& attach, Done done) {
  proto::DeviceRecord record;
  *record.mutable_attach() = attach;
  if (factories_.choose_transport) {
    absl::Status chosen = factories_.choose_transport(&record);
    if (!chosen.ok()) {
      done(chosen);
      return;
    }
  }
  AttachRecord(record, Purpose::kAttach, std::move(done));
}

void Registry::Prepare(const proto::Attach& attach, Done done) {
  proto::DeviceRecord record;
  *record.mutable_attach() = attach;
  AttachRecord(record, Purpose::kPrepare, std::move(done));
}

void Registry::Serve(const std::string& name, Done done) {
  Entry* entry = Find(name);
  if (entry != nullptr && entry->state == proto::DeviceStatus::SERVING) {
    done(absl::AlreadyExistsError(absl::StrCat(name, ": is served already")));
    return;
  }
  if (entry == nullptr || entry->state != proto::DeviceStatus::PREPARED) {
    done(absl::NotFoundError(
        absl::StrCat(name, ": no such device is prepared to be served")));
    return;
  }
  entry->attach_done = std::move(done);
  absl::Status result = BringUp(entry);
  if (!result.ok()) std::exchange(entry->attach_done, nullptr)(result);
}

void Registry::AttachRecord(const proto::DeviceRecord& record, Purpose purpose,
                            Done done) {
  const proto::Attach& attach = record.attach();
  absl::Status named = CheckName(attach.name());
  if (!named.ok()) {
    done(named);
    return;
  }
  for (const auto& leftover : leftovers_) {
    if (leftover->name != attach.name()) continue;
    done(absl::AbortedError(
        absl::StrCat(attach.name(), ": is just being removed; try again")));
    return;
  }
  if (Find(attach.name()) != nullptr) {
    done(absl::AlreadyExistsError(
        absl::StrCat(attach.name(),
                     ": is served already; unmap it first, or choose another "
                     "name")));
    return;
  }
  if (purpose != Purpose::kRecover) {
    const auto unserved = store_->Load(attach.name());
    if (unserved.has_value() && unserved->ublk_mark() != 0) {
      // Nothing else knows of the device in the kernel.
      done(absl::AlreadyExistsError(absl::StrCat(
          attach.name(),
          ": a device of that name was not recovered and waits in the kernel; "
          "restart the daemon to serve it, or unmap it first")));
      return;
    }
  }
  entries_.push_back(std::make_unique<Entry>());
  Entry* entry = entries_.back().get();
  entry->registry = this;
  entry->serial = next_serial_++;
  entry->record = record;
  entry->purpose = purpose;
  entry->recorded = purpose == Purpose::kRecover;
  entry->attach_done = std::move(done);
  entry->closed.run = OnClosed;
  entry->closed_later.run = OnClosedLater;
  entry->stopped.run = OnStopped;
  entry->merge_changed.run = OnMerge;
  entry->failed.run = OnFailed;
  for (Task* task : {&entry->closed, &entry->closed_later, &entry->stopped,
                     &entry->merge_changed, &entry->failed}) {
    task->context = entry;
  }
  entry->open_again.task.run = OnOpenAgain;
  entry->open_again.task.context = entry;
  entry->log_again.task.run = OnLogAgain;
  entry->log_again.task.context = entry;
  entry->busy_until_us =
      loop_->NowUs() +
      (purpose == Purpose::kRecover ? kBusyRecoverUs : kBusyUs);
  OpenBackend(entry);
}

void Registry::OpenBackend(Entry* entry) {
  factories_.open_backend(
      entry->record.attach(),
      [this, entry](absl::StatusOr<std::unique_ptr<Backend>> backend) {
        OnBackend(entry, std::move(backend));
      });
}

void Registry::OnBackend(Entry* entry,
                         absl::StatusOr<std::unique_ptr<Backend>> backend) {
  if (entry->state == proto::DeviceStatus::DETACHING) {
    Erase(entry, entry->attach_result);
    return;
  }
  if (IsWorthWaiting(*entry, backend.status())) {
    loop_->Arm(&entry->open_again, kBusyStepUs);
    return;
  }
  if (!backend.ok()) {
    Erase(entry, backend.status());
    return;
  }
  entry->unserved = std::move(*backend);
  if (entry->purpose != Purpose::kPrepare) {
    absl::Status result = BringUp(entry);
    if (!result.ok()) Erase(entry, result);
    return;
  }
  entry->state = proto::DeviceStatus::PREPARED;
  LogWith(LogLevel::kInfo, {.device = entry->name().c_str()}, "%s: prepared",
          entry->name().c_str());
  if (Done done = std::exchange(entry->attach_done, nullptr)) {
    done(absl::OkStatus());
  }
}

bool Registry::IsWorthWaiting(const Entry& entry,
                              const absl::Status& status) const {
  return absl::IsAborted(status) && loop_->NowUs() < entry.busy_until_us;
}

void Registry::OnOpenAgain(void* context) {
  auto* entry = static_cast<Entry*>(context);
  if (entry->state == proto::DeviceStatus::DETACHING) {
    entry->registry->Erase(entry, entry->attach_result);
    return;
  }
  entry->registry->OpenBackend(entry);
}

void Registry::OnLogAgain(void* context) {
  auto* entry = static_cast<Entry*>(context);
  Done done = std::exchange(entry->log_done, nullptr);
  if (entry->state != proto::DeviceStatus::SERVING) {
    done(NotServed(entry->name()));
    return;
  }
  entry->registry->StartMerge(entry, std::move(done));
}

absl::Status Registry::BringUp(Entry* entry) {
  absl::StatusOr<std::unique_ptr<Channel>> channel =
      factories_.open_channel(entry->record, entry->unserved->geometry(),
                              entry->purpose == Purpose::kRecover);
  if (!channel.ok()) return channel.status();
  // The record first: once the device answers, a restart must know of it.
  if (!entry->recorded) {
    entry->record_before = store_->Read(entry->name());
    entry->recorded = true;
    absl::Status saved = store_->Save(entry->record);
    if (!saved.ok()) {
      // It may be there all the same, renamed and not synced.
      absl::Status back = ForgetRecord(entry);
      if (!back.ok()) {
        LogWith(LogLevel::kError, {.device = entry->name().c_str()}, "%s",
                std::string(back.message()).c_str());
      }
      return saved;
    }
  }
  entry->state = proto::DeviceStatus::ATTACHING;
  entry->device = std::make_unique<Device>(entry->name(), std::move(*channel),
                                           std::move(entry->unserved), loop_,
                                           &entry->closed, &entry->failed);
  entry->device->Start(
      [this, entry](const absl::Status& status) { OnStarted(entry, status); });
  return absl::OkStatus();
}

void Registry::OnStarted(Entry* entry, const absl::Status& status) {
  if (!status.ok()) {
    entry->attach_result = status;
    // What cannot be recovered now may be the next time, unless nothing is
    // there any more that waits for it.
    StopEntry(entry, entry->purpose == Purpose::kRecover &&
                         !absl::IsUnavailable(status));
    return;
  }
  entry->state = proto::DeviceStatus::SERVING;
  entry->record_before.reset();
  MergeControl* merge = entry->merge();
  if (merge != nullptr) merge->SetListener(&entry->merge_changed);
  if (merge != nullptr && entry->record.merge_wanted()) {
    StartMerge(entry, [name = entry->name()](absl::Status merging) {
      if (merging.ok()) return;
      LogWith(LogLevel::kError, {.device = name.c_str(), .op = "merge"},
              "%s: the merge does not go on: %s", name.c_str(),
              std::string(merging.message()).c_str());
    });
  }
  LogWith(LogLevel::kInfo, {.device = entry->name().c_str()}, "%s: serving",
          entry->name().c_str());
  if (Done done = std::exchange(entry->attach_done, nullptr)) done(status);
}

void Registry::Detach(const std::string& name, Done done) {
  Entry* entry = Find(name);
  if (entry == nullptr) {
    const auto record =
        CheckName(name).ok() ? store_->Load(name) : std::nullopt;
    if (record.has_value()) {
      DetachUnserved(*record, std::move(done));
      return;
    }
    done(NotServed(name));
    return;
  }
  entry->detach_done.push_back(std::move(done));
  StopEntry(entry, /*keep_record=*/false);
}

void Registry::DetachUnserved(const proto::DeviceRecord& record, Done done) {
  const std::string& name = record.attach().name();
  absl::StatusOr<std::unique_ptr<Channel>> channel =
      factories_.open_channel(record, Geometry{}, /*recovering=*/true);
  if (!channel.ok()) {
    // Nothing is in the kernel, or nothing of the channel's making.
    done(store_->Remove(name));
    return;
  }
  leftovers_.push_back(std::make_unique<Leftover>());
  Leftover* leftover = leftovers_.back().get();
  leftover->registry = this;
  leftover->name = name;
  leftover->channel = std::move(*channel);
  leftover->done = std::move(done);
  leftover->removed.run = OnLeftoverRemoved;
  leftover->removed.context = leftover;
  leftover->channel->Remove(&leftover->removed);
}

void Registry::OnLeftoverRemoved(void* context) {
  auto* leftover = static_cast<Leftover*>(context);
  Registry* self = leftover->registry;
  absl::Status removed = self->store_->Remove(leftover->name);
  Done done = std::move(leftover->done);
  std::erase_if(self->leftovers_,
                [leftover](const auto& at) { return at.get() == leftover; });
  done(removed);
}

void Registry::StopEntry(Entry* entry, bool keep_record) {
  const bool stopping = entry->state == proto::DeviceStatus::DETACHING;
  entry->keep_record = keep_record && (!stopping || entry->keep_record);
  if (stopping) return;
  entry->state = proto::DeviceStatus::DETACHING;
  if (entry->device == nullptr) {
    // While its back end is still being opened, OnBackend finds the state.
    if (entry->unserved != nullptr) entry->unserved->Drain(&entry->stopped);
    return;
  }
  if (MergeControl* merge = entry->merge()) merge->SetListener(nullptr);
  entry->device->Stop(&entry->stopped, /*remove=*/!entry->keep_record);
}

void Registry::OnStopped(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->Erase(entry, entry->attach_result);
}

void Registry::Erase(Entry* entry, absl::Status attach_result) {
  const std::string name = entry->name();
  const bool opened = entry->device != nullptr;
  const bool served = opened && entry->attach_done == nullptr;
  // What could not be recovered now may be recoverable the next time, unless
  // there is no dm device any more that waits for it.
  const bool keep =
      entry->keep_record || (!opened && entry->purpose == Purpose::kRecover &&
                             !absl::IsUnavailable(attach_result));
  const absl::Status removed = keep ? absl::OkStatus() : ForgetRecord(entry);
  if (!removed.ok()) {
    LogWith(LogLevel::kError, {.device = name.c_str()}, "%s",
            std::string(removed.message()).c_str());
  }
  Done attach_done = std::move(entry->attach_done);
  Done log_done = std::move(entry->log_done);
  std::vector<Done> detach_done = std::move(entry->detach_done);
  loop_->Cancel(&entry->closed_later);
  loop_->Cancel(&entry->merge_changed);
  loop_->Disarm(&entry->open_again);
  loop_->Disarm(&entry->log_again);
  std::erase_if(entries_,
                [entry](const auto& at) { return at.get() == entry; });
  if (served) {
    LogWith(LogLevel::kInfo, {.device = name.c_str()}, "%s: no longer served",
            name.c_str());
  }
  if (factories_.trim_memory) factories_.trim_memory();
  if (attach_done) attach_done(attach_result);
  if (log_done) log_done(NotServed(name));
  for (Done& done : detach_done) done(removed);
  Tell(name);
  if (entries_.empty() && all_stopped_) std::exchange(all_stopped_, nullptr)();
}

// What the entry did not write it does not touch: there may be the record of an
// earlier daemon's device that was not recovered.
absl::Status Registry::ForgetRecord(Entry* entry) {
  if (!std::exchange(entry->recorded, false)) return absl::OkStatus();
  const StateStore::Bytes before =
      std::exchange(entry->record_before, std::nullopt);
  return store_->PutBack(entry->name(), before);
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

void Registry::OnClosed(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->loop_->Post(&entry->closed_later);
}

void Registry::OnClosedLater(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->StopEntry(entry, /*keep_record=*/false);
}

void Registry::OnMerge(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->OnMergeChanged(entry);
}

void Registry::OnFailed(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->Tell(std::string(entry->name()));
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

void Registry::Tell(const std::string& name) {
  for (const Observer& observer : observers_) observer(name);
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
  entry->busy_until_us = loop_->NowUs() + kBusyUs;
  StartMerge(entry, std::move(done));
}

absl::Status Registry::PauseMerge(Entry* entry) {
  proto::DeviceRecord record = entry->record;
  record.set_merge_wanted(false);
  absl::Status saved = store_->Save(record);
  if (!saved.ok()) return saved;
  entry->record = record;
  entry->merge()->Pause();
  return absl::OkStatus();
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
  if (entry->log_done == nullptr && IsWorthWaiting(*entry, log.status())) {
    entry->log_done = std::move(done);
    loop_->Arm(&entry->log_again, kBusyStepUs);
    return;
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

absl::StatusOr<std::vector<proto::DeviceStatus>> Registry::Status(
    const std::string& name, bool with_latency) const {
  std::vector<proto::DeviceStatus> all;
  for (const auto& entry : entries_) {
    if (!name.empty() && entry->name() != name) continue;
    proto::DeviceStatus& status = all.emplace_back();
    status.set_name(entry->name());
    status.set_state(entry->state);
    DescribeAttach(entry->record.attach(), &status);
    status.set_transport(entry->record.attach().transport());
    if (entry->device != nullptr) DescribeDevice(*entry->device, &status);
    if (Backend* backend = entry->backend()) DescribeBackend(*backend, &status);
    if (entry->device != nullptr && with_latency) {
      DescribeLatency(*entry->device, &status);
    }
    if (status.has_merge()) {
      status.mutable_merge()->set_undo_log_path(entry->record.undo_log_path());
    }
  }
  if (!name.empty() && all.empty()) return NotServed(name);
  return all;
}

void Registry::Recover(std::function<void()> done) {
  // One for this call itself, so that what fails at once does not end it.
  auto left = std::make_shared<size_t>(1);
  auto end = [left, done = std::move(done)] {
    if (--*left == 0) done();
  };
  for (const proto::DeviceRecord& record : store_->LoadAll()) {
    const std::string name = record.attach().name();
    ++*left;
    AttachRecord(record, Purpose::kRecover, [name, end](absl::Status result) {
      if (!result.ok()) {
        LogWith(LogLevel::kError, {.device = name.c_str()},
                "%s: not recovered: %s", name.c_str(),
                std::string(result.message()).c_str());
      }
      end();
    });
  }
  end();
}

void Registry::StopAll(std::function<void()> done) {
  if (entries_.empty()) {
    done();
    return;
  }
  all_stopped_ = std::move(done);
  std::vector<Entry*> all;
  for (const auto& entry : entries_) all.push_back(entry.get());
  for (Entry* entry : all) {
    StopEntry(entry, /*keep_record=*/!entry->is_on_trial());
  }
}

}  // namespace dmu
