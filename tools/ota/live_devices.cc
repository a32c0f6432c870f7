// SPDX-License-Identifier: Apache-2.0
//
// live_devices.cc - see live_devices.h.
#include "tools/ota/live_devices.h"

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/types.h"
#include "tools/client/control_client.h"
#include "tools/dm.h"
#include "tools/file_io.h"
#include "tools/map_device.h"

namespace dmu::ota {
namespace {

// Root file systems wait for a daemon; an error would be the end of them.
constexpr char kOrphanTimeout[] = "forever";

// The daemon knows /dev/vda by that name, whatever link led there.
// std::filesystem::equivalent() calls no two device nodes the same.
bool IsSame(const std::string& a, const std::string& b) {
  if (a == b) return true;
  struct stat of_a = {};
  struct stat of_b = {};
  if (stat(a.c_str(), &of_a) != 0 || stat(b.c_str(), &of_b) != 0) return false;
  if (S_ISBLK(of_a.st_mode)) {
    return S_ISBLK(of_b.st_mode) && of_a.st_rdev == of_b.st_rdev;
  }
  return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

bool HasNode(const std::string& name) {
  std::error_code error;
  return std::filesystem::exists(absl::StrCat("/dev/mapper/", name), error);
}

// Whether a device of ours has the name. kPermissionDenied when only root could
// tell.
absl::StatusOr<bool> IsThere(
    const std::string& name,
    const std::function<absl::Status(const std::string&)>& look) {
  const absl::Status mapper = tools::CheckDeviceMapper();
  if (absl::IsUnavailable(mapper)) return false;
  if (!mapper.ok() && !HasNode(name)) return false;
  if (!mapper.ok()) return mapper;
  const absl::Status found = look(name);
  // One of another kind shows nothing of an update.
  if (absl::IsNotFound(found) || absl::IsInvalidArgument(found)) return false;
  if (!found.ok()) return found;
  return true;
}

ReadableImage ImageOf(const tools::File& file) {
  return {.name = file.path(),
          .bytes = file.size_bytes(),
          .read = [&file](uint64_t offset, ByteSpan out) {
            return file.ReadAt(offset, out);
          }};
}

absl::Status ReadFirstBlock(const std::string& device) {
  absl::StatusOr<tools::File> file = tools::File::OpenOnDisk(device);
  if (!file.ok()) return file.status();
  uint8_t sector[kSectorBytes];
  return file->ReadAt(0, sector);
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
  // Not the target: with the kernel's own driver it is a linear table.
  const absl::Status mapper = tools::CheckDeviceMapper();
  if (absl::IsUnavailable(mapper)) return Presence::kNone;
  if (!mapper.ok()) {
    if (!HasNode(snapshot.name)) return Presence::kNone;
    return mapper;
  }
  const absl::Status kernel = tools::UserDeviceStatus(snapshot.name).status();
  if (absl::IsNotFound(kernel)) return Presence::kNone;
  if (!kernel.ok()) return Presence::kOrphan;
  absl::StatusOr<ControlClient> client =
      ControlClient::Connect({.path = control_path_});
  // Without a daemon nobody serves it.
  if (absl::IsDeadlineExceeded(client.status())) return Presence::kOrphan;
  if (!client.ok()) return client.status();
  const auto status = client->Status(snapshot.name);
  if (absl::IsNotFound(status.status())) return Presence::kOrphan;
  if (!status.ok()) return status.status();
  const proto::DeviceStatus& device = status->devices.at(0);
  return device.kind() == "snapshot" &&
                 IsSame(device.cow_path(), snapshot.cow) &&
                 IsSame(device.base_path(), snapshot.base)
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
  return tools::MapDevice(attach, kOrphanTimeout, proto::REDIRECT_AUTO,
                          control_path_);
}

absl::Status LiveDevices::Unmap(const std::string& name) {
  const absl::StatusOr<bool> is_there = IsThere(
      name,
      [](const std::string& of) { return tools::ReadTable(of).status(); });
  if (!is_there.ok() || !*is_there) return is_there.status();
  const absl::Status unmapped = tools::UnmapDevice(name, control_path_);
  return absl::IsNotFound(unmapped) ? absl::OkStatus() : unmapped;
}

absl::Status LiveDevices::MapVerity(const Verified& verified) {
  if (tools::VerityStatus(verified.name).ok()) return absl::OkStatus();
  absl::StatusOr<tools::File> data =
      tools::File::OpenOnDisk(verified.data_device);
  if (!data.ok()) return data.status();
  absl::StatusOr<tools::File> hashes =
      tools::File::OpenOnDisk(verified.hash_device);
  if (!hashes.ok()) return hashes.status();
  const ReadableImage data_image = ImageOf(*data);
  const ReadableImage hash_image = ImageOf(*hashes);
  const bool is_one = verified.data_device == verified.hash_device;
  absl::StatusOr<VerityTree> tree =
      ReadVerityTree(data_image, is_one ? data_image : hash_image,
                     verified.hash_offset_bytes, verified.root_hash);
  if (!tree.ok()) return tree.status();
  const auto table = [&](bool restarts) {
    return tools::VerityDevice{
        .name = verified.name,
        .size_sectors = tree->data_bytes() / kSectorBytes,
        .parameters =
            VerityTable(*tree, verified.data_device, verified.hash_device,
                        verified.root_hash, restarts)};
  };
  absl::Status status = tools::CreateVerityDevice(table(/*restarts=*/false));
  if (!status.ok()) return status;
  // Whether it can be read at all is found out while that is an error and not
  // a restart.
  status = ReadFirstBlock(absl::StrCat("/dev/mapper/", verified.name));
  if (status.ok() && verified.restarts) {
    status = tools::SwapVerityTable(table(/*restarts=*/true));
  }
  if (status.ok()) return status;
  const absl::Status removed = tools::RemoveVerityDevice(verified.name);
  if (removed.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), "; ", removed.message()));
}

absl::Status LiveDevices::UnmapVerity(const std::string& name) {
  const absl::StatusOr<bool> is_there = IsThere(
      name,
      [](const std::string& of) { return tools::VerityStatus(of).status(); });
  if (!is_there.ok() || !*is_there) return is_there.status();
  const absl::Status removed = tools::RemoveVerityDevice(name);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

absl::Status LiveDevices::CheckVerity(const std::string& name) {
  const absl::StatusOr<std::string> status = tools::VerityStatus(name);
  if (!status.ok()) return status.status();
  // 'V', then nothing or figures of error correction.
  if (absl::StartsWith(*status, "V")) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("/dev/mapper/", name,
                   ": something was read that does not fit its hash (status ",
                   *status, "); the new image is damaged"));
}

absl::Status LiveDevices::Merge(const Snapshot& snapshot,
                                const std::string& undo_log,
                                const std::atomic<bool>* stop) {
  absl::StatusOr<ControlClient> client =
      ControlClient::Connect({.path = control_path_});
  if (!client.ok()) return client.status();
  absl::Status started =
      client->StartMerge(snapshot.name, {.undo_log_path = undo_log});
  if (!started.ok()) return started;
  bool is_stopped = false;
  const absl::StatusOr<proto::DeviceStatus> last =
      client->Watch(snapshot.name, [&](const proto::DeviceStatus& device) {
        if (progress_) progress_(snapshot.name, device.merge());
        is_stopped = stop != nullptr && stop->load();
        return !is_stopped;
      });
  if (!last.ok()) return last.status();
  if (is_stopped) {
    return absl::CancelledError(absl::StrCat(
        snapshot.name, ": not waited for; the daemon goes on with the merge"));
  }
  return MergeResult(*last);
}

absl::Status LiveDevices::Finish(const std::string& name) {
  return tools::FinishDevice(name, control_path_);
}

absl::Status LiveDevices::PauseMerge(const std::string& name) {
  absl::StatusOr<ControlClient> client =
      ControlClient::Connect({.path = control_path_});
  if (!client.ok()) return client.status();
  return client->PauseMerge(name);
}

}  // namespace dmu::ota
