// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/control/frame.h"

namespace dmu {

namespace {

proto::Response MakeResponse(uint64_t id, const absl::Status& status) {
  proto::Response response;
  response.set_id(id);
  response.set_code(static_cast<int>(status.code()));
  response.set_message(std::string(status.message()));
  return response;
}

Role RoleFor(const proto::Request& request) {
  switch (request.verb_case()) {
    case proto::Request::kAttach:
    case proto::Request::kDetach:
    case proto::Request::kHandOver:
    case proto::Request::kShareBase:
      return Role::kServe;
    case proto::Request::kMerge:
      // Who names a file has the daemon write to it.
      return request.merge().undo_log_path().empty() ? Role::kMerge
                                                     : Role::kServe;
    case proto::Request::kThrottle:
      return Role::kMerge;
    default:
      return Role::kLook;
  }
}

// Whether a watcher has seen everything there will be.
bool IsLast(const proto::DeviceStatus& device) {
  if (!device.has_merge()) return false;
  return device.merge().state() == proto::MergeStatus::DONE ||
         device.merge().state() == proto::MergeStatus::FAILED;
}

}  // namespace

Service::Service(Registry* registry, Daemon daemon)
    : registry_(registry), daemon_(std::move(daemon)) {
  registry_->AddObserver(
      [this](const std::string& name) { OnDeviceChanged(name); });
}

void Service::OnFrame(uint64_t session, Role role, const uint8_t* bytes,
                      uint32_t count) {
  proto::Request request;
  if (!request.ParseFromArray(bytes, static_cast<int>(count))) {
    Answer(session, 0, absl::InvalidArgumentError("not a request"));
    return;
  }
  const uint64_t id = request.id();
  if (request.version() == 0 || request.version() > kControlVersion) {
    Answer(session, id,
           absl::UnimplementedError(absl::StrCat(
               "the client speaks version ", request.version(),
               " of the control protocol, this daemon ", kControlVersion,
               "; use the dmuserctl that came with it")));
    return;
  }
  if (const Role needed = RoleFor(request); role < needed) {
    Answer(session, id,
           absl::PermissionDeniedError(absl::StrCat(
               "this needs the role \"", RoleName(needed),
               "\", and you have \"", RoleName(role),
               "\"; use sudo, or be a member of the group that dmuserd was "
               "given for it")));
    return;
  }
  auto answer = [this, session, id](absl::Status status) {
    Answer(session, id, status);
  };
  switch (request.verb_case()) {
    case proto::Request::kAttach:
      registry_->Attach(request.attach(),
                        [this, session, id, name = request.attach().name()](
                            const absl::Status& status) {
                          if (status.ok()) {
                            proto::Status of;
                            of.set_name(name);
                            AnswerStatus(session, id, of);
                          } else {
                            Answer(session, id, status);
                          }
                        });
      return;
    case proto::Request::kShareBase:
      registry_->ShareBase(request.share_base().name(), answer);
      return;
    case proto::Request::kDetach:
      registry_->Detach(request.detach().name(), answer);
      return;
    case proto::Request::kMerge:
      registry_->SetMerge(request.merge(), answer);
      return;
    case proto::Request::kStatus:
      AnswerStatus(session, id, request.status());
      return;
    case proto::Request::kWatch:
      BeginWatch(session, id, request.watch());
      return;
    case proto::Request::kThrottle:
      AnswerThrottle(session, id, request.throttle());
      return;
    case proto::Request::kHandOver:
      answer(absl::OkStatus());
      daemon_.stop();
      return;
    default:
      answer(absl::UnimplementedError(
          "this daemon does not know the verb; use the dmuserctl that came "
          "with it"));
  }
}

void Service::Answer(uint64_t session, uint64_t id,
                     const absl::Status& status) {
  Send(session, MakeResponse(id, status));
}

void Service::AnswerStatus(uint64_t session, uint64_t id,
                           const proto::Status& what) {
  auto devices = registry_->Status(what.name(), what.latency());
  if (!devices.ok()) {
    Answer(session, id, devices.status());
    return;
  }
  proto::Response response = MakeResponse(id, absl::OkStatus());
  for (proto::DeviceStatus& device : *devices) {
    *response.add_devices() = std::move(device);
  }
  daemon_.fill_status(response.mutable_daemon());
  Send(session, response);
}

void Service::AnswerThrottle(uint64_t session, uint64_t id,
                             const proto::Throttle& throttle) {
  const absl::Status status = daemon_.throttle(throttle);
  proto::Response response = MakeResponse(id, status);
  if (status.ok()) daemon_.fill_status(response.mutable_daemon());
  Send(session, response);
}

void Service::BeginWatch(uint64_t session, uint64_t id,
                         const proto::Watch& what) {
  const auto watches = std::count_if(
      watchers_.begin(), watchers_.end(),
      [session](const Watcher& at) { return at.session == session; });
  if (static_cast<size_t>(watches) >= kWatchesPerSessionMax) {
    Answer(session, id,
           absl::ResourceExhaustedError(absl::StrCat(
               "a client may watch ", kWatchesPerSessionMax,
               " devices; end some of its watches by ending the session")));
    return;
  }
  const Watcher watcher{.session = session,
                        .id = id,
                        .name = what.name(),
                        .past_merge = what.past_merge()};
  if (SendEvent(watcher)) watchers_.push_back(watcher);
}

bool Service::SendEvent(const Watcher& watcher) {
  auto devices = registry_->Status(watcher.name);
  if (!devices.ok() || watcher.name.empty()) {
    Answer(watcher.session, watcher.id,
           devices.ok()
               ? absl::InvalidArgumentError("watch needs the name of a device")
               : devices.status());
    return false;
  }
  proto::Response response = MakeResponse(watcher.id, absl::OkStatus());
  const bool last = !watcher.past_merge && IsLast(devices->front());
  response.set_more(!last);
  *response.add_devices() = std::move(devices->front());
  Send(watcher.session, response);
  return !last;
}

void Service::OnDeviceChanged(const std::string& name) {
  // By index: sending may end a session and so take watchers away.
  for (size_t i = 0; i < watchers_.size();) {
    if (watchers_[i].name != name) {
      ++i;
      continue;
    }
    if (server_->Backlogged(watchers_[i].session)) {
      watchers_[i].stale = true;
      ++i;
      continue;
    }
    const Watcher watcher = watchers_[i];
    const bool goes_on = SendEvent(watcher);
    const bool still_there = i < watchers_.size() &&
                             watchers_[i].session == watcher.session &&
                             watchers_[i].id == watcher.id;
    if (!still_there) continue;
    if (goes_on) {
      ++i;
    } else {
      watchers_.erase(watchers_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

void Service::OnDrained(uint64_t session) {
  for (size_t i = 0; i < watchers_.size(); ++i) {
    if (watchers_[i].session != session || !watchers_[i].stale) continue;
    watchers_[i].stale = false;
    const std::string name = watchers_[i].name;
    OnDeviceChanged(name);
    return;
  }
}

void Service::OnEnd(uint64_t session) {
  std::erase_if(watchers_, [session](const Watcher& watcher) {
    return watcher.session == session;
  });
}

void Service::Send(uint64_t session, const proto::Response& response) {
  server_->Send(session, response.SerializeAsString());
}

}  // namespace dmu
