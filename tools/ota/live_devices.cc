// SPDX-License-Identifier: Apache-2.0
//
// live_devices.cc - see live_devices.h.
#include "tools/ota/live_devices.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "tools/control_client.h"
#include "tools/dm.h"
#include "tools/map_device.h"

namespace dmu::ota {
namespace {

using tools::ControlClient;

// Root file systems wait for a daemon; an error would be the end of them.
constexpr char kOrphanTimeout[] = "forever";

bool IsSame(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || std::filesystem::equivalent(a, b, error);
}

absl::StatusOr<proto::DeviceStatus> StatusOf(ControlClient* client,
                                             const std::string& name) {
  proto::Request request;
  request.mutable_status()->set_name(name);
  absl::StatusOr<proto::Response> response = client->Call(request);
  if (!response.ok()) return response.status();
  if (response->devices_size() != 1) {
    return absl::NotFoundError(absl::StrCat(name, ": not served"));
  }
  return response->devices(0);
}

absl::Status MergeResult(const proto::DeviceStatus& device) {
  switch (device.merge().state()) {
    case proto::MergeStatus::DONE:
      return absl::OkStatus();
    case proto::MergeStatus::FAILED:
      return absl::InternalError(absl::StrCat(
          device.name(), ": the merge stopped: ", device.merge().error(),
          "; the device still reads right. Mend the cause and start the merge "
          "again"));
    default:
      return absl::CancelledError(
          absl::StrCat(device.name(),
                       ": the merge was paused; the same command "
                       "goes on with it"));
  }
}

}  // namespace

absl::StatusOr<Devices::Presence> LiveDevices::Look(const Snapshot& snapshot) {
  const absl::Status support = tools::CheckKernelSupport();
  // Without the target there is no device of it.
  if (absl::IsUnavailable(support)) return Presence::kNone;
  if (!support.ok()) {
    std::error_code error;
    const std::string node = absl::StrCat("/dev/mapper/", snapshot.name);
    if (!std::filesystem::exists(node, error)) return Presence::kNone;
    return support;
  }
  const absl::Status kernel = tools::UserDeviceStatus(snapshot.name).status();
  if (absl::IsNotFound(kernel)) return Presence::kNone;
  if (!kernel.ok()) return Presence::kOrphan;
  absl::StatusOr<ControlClient> client = ControlClient::Connect(control_path_);
  // Without a daemon nobody serves it.
  if (absl::IsDeadlineExceeded(client.status())) return Presence::kOrphan;
  if (!client.ok()) return client.status();
  absl::StatusOr<proto::DeviceStatus> device =
      StatusOf(&*client, snapshot.name);
  if (absl::IsNotFound(device.status())) return Presence::kOrphan;
  if (!device.ok()) return device.status();
  return device->kind() == "snapshot" &&
                 IsSame(device->cow_path(), snapshot.cow) &&
                 IsSame(device->base_path(), snapshot.base)
             ? Presence::kServed
             : Presence::kOrphan;
}

absl::Status LiveDevices::Map(const Snapshot& snapshot) {
  absl::StatusOr<Presence> presence = Look(snapshot);
  if (!presence.ok()) return presence.status();
  if (*presence == Presence::kServed) return absl::OkStatus();
  if (*presence == Presence::kOrphan) {
    absl::Status removed = tools::RemoveUserDevice(snapshot.name);
    if (!removed.ok()) return removed;
  }
  proto::Attach attach;
  attach.set_name(snapshot.name);
  attach.mutable_snapshot()->set_cow_path(snapshot.cow);
  attach.mutable_snapshot()->set_base_path(snapshot.base);
  return tools::MapDevice(attach, kOrphanTimeout, control_path_);
}

absl::Status LiveDevices::Unmap(const std::string& name) {
  const absl::Status unmapped = tools::UnmapDevice(name, control_path_);
  return absl::IsNotFound(unmapped) || absl::IsUnavailable(unmapped)
             ? absl::OkStatus()
             : unmapped;
}

absl::Status LiveDevices::Merge(const Snapshot& snapshot,
                                const std::string& undo_log,
                                const std::atomic<bool>* stop) {
  absl::StatusOr<ControlClient> client = ControlClient::Connect(control_path_);
  if (!client.ok()) return client.status();
  proto::Request request;
  request.mutable_merge()->set_name(snapshot.name);
  request.mutable_merge()->set_action(proto::Merge::START);
  request.mutable_merge()->set_undo_log_path(undo_log);
  absl::Status started = client->Call(request).status();
  if (!started.ok()) return started;
  proto::Request watch;
  watch.mutable_watch()->set_name(snapshot.name);
  absl::StatusOr<proto::Response> response = client->Call(watch);
  for (;; response = client->Next()) {
    if (!response.ok()) return response.status();
    if (response->devices_size() > 0) {
      if (progress_) progress_(response->devices(0).merge());
      if (!response->more()) return MergeResult(response->devices(0));
    }
    if (stop != nullptr && stop->load()) {
      return absl::CancelledError(
          absl::StrCat(snapshot.name,
                       ": not waited for; the daemon goes on with the merge"));
    }
  }
}

absl::Status LiveDevices::PauseMerge(const std::string& name) {
  absl::StatusOr<ControlClient> client = ControlClient::Connect(control_path_);
  if (!client.ok()) return client.status();
  proto::Request request;
  request.mutable_merge()->set_name(name);
  request.mutable_merge()->set_action(proto::Merge::PAUSE);
  return client->Call(request).status();
}

}  // namespace dmu::ota
