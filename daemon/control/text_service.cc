// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/text_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dmu {

namespace {

using Verb = TextCommand::Verb;

bool IsRunning(const proto::DeviceStatus& device) {
  return device.state() == proto::DeviceStatus::SERVING && device.has_merge() &&
         device.merge().state() == proto::MergeStatus::RUNNING;
}

}  // namespace

TextService::TextService(Registry* registry, std::function<void()> end)
    : registry_(registry), end_(std::move(end)) {
  registry_->AddObserver(
      [this](const std::string& name) { OnDeviceChanged(name); });
}

void TextService::OnFrame(uint64_t session, Role role, const uint8_t* bytes,
                          uint32_t count) {
  const TextCommand command = ParseTextCommand(
      std::string_view(reinterpret_cast<const char*>(bytes), count));
  if (command.verb == Verb::kUnknown) {
    Answer(session, "a command",
           absl::UnimplementedError("no command that is known"));
    server_->Close(session);
    return;
  }
  if (role < TextRole(command.verb)) {
    Answer(session, "a command",
           absl::PermissionDeniedError(absl::StrCat(
               "it needs the role \"", RoleName(TextRole(command.verb)),
               "\", the client has \"", RoleName(role), "\"")));
    return;
  }
  if (!command.complete) {
    if (command.verb == Verb::kGetStatus) {
      server_->Send(session, kTextMergeFailed);
    } else {
      Answer(session, "a command",
             absl::InvalidArgumentError(
                 "it has not the fields that belong to its verb"));
    }
    return;
  }
  const std::string name(command.name);
  switch (command.verb) {
    case Verb::kInit:
      Init(session, command);
      return;
    case Verb::kStart:
      AnswerWhenDone(session, "start", [&](Registry::Done done) {
        if (leaving_) {
          done(absl::FailedPreconditionError("the daemon is leaving"));
        } else {
          registry_->Serve(name, std::move(done));
        }
      });
      return;
    case Verb::kInitiateMerge:
      AnswerWhenDone(session, "initiate_merge", [&](Registry::Done done) {
        if (leaving_) {
          done(absl::FailedPreconditionError("the daemon is leaving"));
          return;
        }
        proto::Merge merge;
        merge.set_name(name);
        merge.set_action(proto::Merge::START);
        registry_->SetMerge(merge, std::move(done));
      });
      return;
    case Verb::kDelete:
      AnswerWhenDone(session, "delete", [&](Registry::Done done) {
        registry_->Detach(name, [done = std::move(done)](absl::Status status) {
          // It went with its dm device.
          done(absl::IsNotFound(status) ? absl::OkStatus() : std::move(status));
        });
      });
      return;
    case Verb::kGetStatus:
      AnswerStatus(session, name);
      return;
    case Verb::kMergePercent:
      server_->Send(session, TextMergePercent(Devices(), merged_and_gone_));
      return;
    case Verb::kPauseMerge:
      PauseMerges(/*resume_later=*/true);
      server_->Send(session, kTextSuccess);
      return;
    case Verb::kResumeMerge:
      ResumeMerges();
      server_->Send(session, kTextSuccess);
      return;
    case Verb::kQuery:
      server_->Send(session, leaving_ ? "passive" : "active");
      return;
    case Verb::kSupports:
    case Verb::kUpdateVerify:
      server_->Send(session, kTextFail);
      return;
    case Verb::kDetach:
      PauseMerges(/*resume_later=*/false);
      Leave();
      return;
    case Verb::kStop:
      Leave();
      return;
    case Verb::kUnknown:
      return;
  }
}

void TextService::Init(uint64_t session, const TextCommand& command) {
  proto::Attach attach;
  attach.set_name(std::string(command.name));
  proto::SnapshotBackend* snapshot = attach.mutable_snapshot();
  snapshot->set_cow_path(std::string(command.cow_path));
  snapshot->set_base_path(std::string(command.base_path));
  if (command.source_path != command.base_path) {
    snapshot->set_source_path(std::string(command.source_path));
  }
  if (leaving_) {
    Answer(session, "init",
           absl::FailedPreconditionError("the daemon is leaving"));
    return;
  }
  // The first device of another update: what was merged before counts no more.
  const auto devices = Devices();
  if (std::none_of(devices.begin(), devices.end(),
                   [](const auto& device) { return device.has_merge(); })) {
    merged_and_gone_ = 0;
  }
  server_->Hold(session);
  registry_->Prepare(
      attach, [this, session, name = attach.name()](absl::Status status) {
        server_->Release(session);
        if (status.ok() && leaving_) {
          // Nobody would start it.
          registry_->Detach(name, [](absl::Status) {});
          status = absl::FailedPreconditionError("the daemon is leaving");
        }
        const auto devices = registry_->Status(name);
        if (status.ok()) status = devices.status();
        if (!status.ok()) {
          Answer(session, "init", status);
          return;
        }
        server_->Send(session, TextSectors(devices->front().size_bytes()));
      });
}

void TextService::AnswerStatus(uint64_t session, const std::string& name) {
  const auto devices = registry_->Status(name);
  // Without a name that would be all of them.
  server_->Send(session, name.empty() || !devices.ok()
                             ? kTextMergeFailed
                             : TextMergeStatus(devices->front()));
}

void TextService::AnswerWhenDone(
    uint64_t session, const char* verb,
    const std::function<void(Registry::Done)>& work) {
  struct State {
    bool answered = false;
    bool held = false;
  };
  auto state = std::make_shared<State>();
  work([this, session, verb, state](absl::Status status) {
    state->answered = true;
    if (state->held) server_->Release(session);
    Answer(session, verb, status);
  });
  if (state->answered) return;
  state->held = true;
  server_->Hold(session);
}

void TextService::Answer(uint64_t session, const char* verb,
                         const absl::Status& status) {
  uint64_t dropped = 0;
  // The answer has no room for the reason.
  if (!status.ok() && failures_.Allow(&dropped)) {
    Log(LogLevel::kWarning,
        "%s of an Android client failed: %s (%llu such "
        "lines left out)",
        verb, std::string(status.message()).c_str(),
        static_cast<unsigned long long>(dropped));
  }
  server_->Send(session, status.ok() ? kTextSuccess : kTextFail);
}

std::vector<proto::DeviceStatus> TextService::Devices() const {
  auto devices = registry_->Status("");
  return devices.ok() ? *std::move(devices)
                      : std::vector<proto::DeviceStatus>();
}

void TextService::PauseMerges(bool resume_later) {
  if (!resume_later) paused_.clear();
  for (const proto::DeviceStatus& device : Devices()) {
    if (!IsRunning(device)) continue;
    proto::Merge merge;
    merge.set_name(device.name());
    merge.set_action(proto::Merge::PAUSE);
    registry_->SetMerge(merge, [&](absl::Status status) {
      if (!status.ok()) {
        Log(LogLevel::kError, "%s: not paused: %s", device.name().c_str(),
            std::string(status.message()).c_str());
      } else if (resume_later) {
        paused_.push_back(device.name());
      }
    });
  }
}

void TextService::ResumeMerges() {
  for (const std::string& name : std::exchange(paused_, {})) {
    proto::Merge merge;
    merge.set_name(name);
    merge.set_action(proto::Merge::START);
    registry_->SetMerge(merge, [name](absl::Status status) {
      // It may have gone away meanwhile.
      if (status.ok() || absl::IsNotFound(status)) return;
      Log(LogLevel::kError, "%s: not resumed: %s", name.c_str(),
          std::string(status.message()).c_str());
    });
  }
}

void TextService::Leave() {
  leaving_ = true;
  for (const proto::DeviceStatus& device : Devices()) {
    // Nobody will start it.
    if (device.state() == proto::DeviceStatus::PREPARED) {
      registry_->Detach(device.name(), [](absl::Status) {});
    }
  }
  EndIfLeft();
}

void TextService::EndIfLeft() {
  if (leaving_ && end_ && Devices().empty()) std::exchange(end_, nullptr)();
}

void TextService::OnDeviceChanged(const std::string& name) {
  const auto devices = registry_->Status(name);
  const auto at = std::find(merged_.begin(), merged_.end(), name);
  if (!devices.ok()) {
    std::erase(paused_, name);
    if (at != merged_.end()) {
      merged_.erase(at);
      ++merged_and_gone_;
    }
    EndIfLeft();
    return;
  }
  if (at == merged_.end() &&
      devices->front().merge().state() == proto::MergeStatus::DONE) {
    merged_.push_back(name);
  }
}

}  // namespace dmu
