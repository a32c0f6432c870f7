// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/registry.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/device/describe.h"
#include "daemon/device/registry_entry.h"

namespace dmu {

namespace {

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

}  // namespace

void LogWait(const std::string& name, const BusyWait& wait) {
  LogWith(LogLevel::kWarning, {.device = name.c_str()},
          "%s: waits until it is free: %s", name.c_str(), wait.why().c_str());
}

void LogFree(const std::string& name, uint64_t waited_us) {
  LogWith(LogLevel::kInfo, {.device = name.c_str()},
          "%s: what was in use is free, after %llu ms", name.c_str(),
          static_cast<unsigned long long>(waited_us / 1000));
}

absl::Status NotServed(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(
      name,
      ": this daemon serves no such device; 'dmuserctl list' names them"));
}

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
  AttachRecord(record, Purpose::kAttach, std::move(done), nullptr);
}

void Registry::Prepare(const proto::Attach& attach, Done done) {
  proto::DeviceRecord record;
  *record.mutable_attach() = attach;
  AttachRecord(record, Purpose::kPrepare, std::move(done), nullptr);
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
                            Done done, std::function<void()> settled) {
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
  if (const Entry* other = Find(attach.name())) {
    const bool waits = other->state == proto::DeviceStatus::WAITING;
    done(absl::AlreadyExistsError(absl::StrCat(
        attach.name(),
        waits ? ": is there already, and will be served when what it needs is "
                "free: "
              : ": is served already",
        other->files_wait.why(), "; unmap it first, or choose another name")));
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
  entry->settled = std::move(settled);
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
  const uint64_t limit_us =
      purpose == Purpose::kRecover ? BusyWait::kForever : kBusyUs;
  entry->files_wait.Begin(loop_->NowUs(), limit_us);
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
  if (absl::IsAborted(backend.status()) &&
      WaitForFiles(entry, backend.status())) {
    return;
  }
  if (entry->files_wait.End()) {
    LogFree(entry->name(), entry->files_wait.WaitedUs(loop_->NowUs()));
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

bool Registry::WaitForFiles(Entry* entry, const absl::Status& busy) {
  const uint64_t now_us = loop_->NowUs();
  const std::optional<uint64_t> next_us = entry->files_wait.NextUs(now_us);
  if (!next_us.has_value()) return false;
  if (entry->purpose == Purpose::kRecover) {
    if (factories_.is_gone && factories_.is_gone(entry->record)) {
      Erase(entry, absl::UnavailableError("its device is gone"));
      return true;
    }
    entry->state = proto::DeviceStatus::WAITING;
    if (entry->files_wait.Explain(std::string(busy.message()))) {
      LogWait(entry->name(), entry->files_wait);
      Tell(std::string(entry->name()));
    }
    if (entry->settled && entry->files_wait.WaitedUs(now_us) >= kReadyUs) {
      std::exchange(entry->settled, nullptr)();
    }
  }
  entry->between_tries = true;
  loop_->Arm(&entry->open_again, *next_us);
  return true;
}

void Registry::OnOpenAgain(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->between_tries = false;
  entry->state = proto::DeviceStatus::ATTACHING;
  entry->registry->OpenBackend(entry);
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
    entry->log_wait.Begin(loop_->NowUs(), BusyWait::kForever);
    StartMerge(entry, [name = entry->name()](absl::Status merging) {
      // Cancelled: it was paused, or the daemon or the device ends.
      if (merging.ok() || absl::IsCancelled(merging)) return;
      LogWith(LogLevel::kError, {.device = name.c_str(), .op = "merge"},
              "%s: the merge does not go on: %s", name.c_str(),
              std::string(merging.message()).c_str());
    });
  }
  LogWith(LogLevel::kInfo, {.device = entry->name().c_str()}, "%s: serving",
          entry->name().c_str());
  const std::string name = entry->name();
  const bool recovered = entry->purpose == Purpose::kRecover;
  auto settled = std::exchange(entry->settled, nullptr);
  if (Done done = std::exchange(entry->attach_done, nullptr)) done(status);
  if (settled) settled();
  // Who watches has seen it wait, perhaps.
  if (recovered) Tell(name);
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
    if (entry->unserved != nullptr) {
      entry->unserved->Drain(&entry->stopped);
    } else if (entry->between_tries) {
      loop_->Disarm(&entry->open_again);
      loop_->Post(&entry->stopped);
    }
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
  const bool unserved = !opened && entry->purpose == Purpose::kRecover &&
                        !absl::IsUnavailable(attach_result);
  const bool keep = entry->keep_record || unserved;
  const proto::DeviceRecord record = entry->record;
  const absl::Status removed = keep ? absl::OkStatus() : ForgetRecord(entry);
  if (!removed.ok()) {
    LogWith(LogLevel::kError, {.device = name.c_str()}, "%s",
            std::string(removed.message()).c_str());
  }
  Done attach_done = std::move(entry->attach_done);
  Done log_done = std::move(entry->log_done);
  std::function<void()> settled = std::move(entry->settled);
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
  if (settled) settled();
  if (log_done) log_done(absl::CancelledError(name + ": no longer served"));
  if (unserved && !detach_done.empty()) {
    // As for one that was given up: not to be recovered the next time either.
    DetachUnserved(record, [detach_done](const absl::Status& status) {
      for (const Done& done : detach_done) done(status);
    });
  } else {
    for (Done& done : detach_done) done(removed);
  }
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

void Registry::OnClosed(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->loop_->Post(&entry->closed_later);
}

void Registry::OnClosedLater(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->StopEntry(entry, /*keep_record=*/false);
}

void Registry::OnFailed(void* context) {
  auto* entry = static_cast<Entry*>(context);
  entry->registry->Tell(std::string(entry->name()));
}

void Registry::Tell(const std::string& name) {
  for (const Observer& observer : observers_) observer(name);
}

absl::StatusOr<std::vector<proto::DeviceStatus>> Registry::Status(
    const std::string& name, bool with_latency) const {
  std::vector<proto::DeviceStatus> all;
  for (const auto& entry : entries_) {
    if (!name.empty() && entry->name() != name) continue;
    proto::DeviceStatus& status = all.emplace_back();
    status.set_name(entry->name());
    status.set_state(entry->state);
    if (entry->state == proto::DeviceStatus::WAITING) {
      status.set_waits_for(entry->files_wait.why());
    } else if (entry->state == proto::DeviceStatus::SERVING) {
      status.set_waits_for(entry->log_wait.why());
    }
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
    auto counts = std::make_shared<bool>(true);
    auto settled = [counts, end] {
      if (std::exchange(*counts, false)) end();
    };
    AttachRecord(
        record, Purpose::kRecover,
        [name, settled](absl::Status result) {
          // Cancelled: by unmap, or because the daemon stops.
          if (!result.ok() && !absl::IsCancelled(result)) {
            LogWith(LogLevel::kError, {.device = name.c_str()},
                    "%s: not recovered: %s", name.c_str(),
                    std::string(result.message()).c_str());
          }
          settled();
        },
        settled);
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
