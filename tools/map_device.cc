// SPDX-License-Identifier: Apache-2.0
//
// map_device.cc - see map_device.h.
#include "tools/map_device.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/cow/loader.h"
#include "tools/client/control_client.h"
#include "tools/cow_file.h"
#include "tools/dm.h"
#include "tools/file_io.h"

namespace dmu::tools {
namespace {

// What the target's tables take for "no deadline".
constexpr char kForever[] = "forever";

absl::Status MakeAbsolute(std::string* path) {
  char resolved[PATH_MAX];
  if (realpath(path->c_str(), resolved) == nullptr) {
    return ErrnoStatus(errno, *path);
  }
  *path = resolved;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PrepareSnapshot(proto::SnapshotBackend* snapshot) {
  absl::Status status = MakeAbsolute(snapshot->mutable_cow_path());
  if (status.ok()) status = MakeAbsolute(snapshot->mutable_base_path());
  if (!status.ok()) return status;
  auto cow = OpenCowFile(snapshot->cow_path());
  if (!cow.ok()) return cow.status();
  auto base = File::OpenForRead(snapshot->base_path());
  if (!base.ok()) return base.status();
  status = cow::CheckBase(*cow->image, base->size_bytes(),
                          /*for_merge=*/false);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(snapshot->base_path(), ": ",
                                                    status.message()));
  }
  return cow::TargetBytes(*cow->image, base->size_bytes());
}

absl::StatusOr<uint64_t> PrepareFile(proto::FileBackend* back) {
  absl::Status status = MakeAbsolute(back->mutable_path());
  if (!status.ok()) return status;
  auto file = File::OpenForRead(back->path());
  if (!file.ok()) return file.status();
  return file->size_bytes() / kSectorBytes * kSectorBytes;
}

// Judges the back end and returns the device's size in bytes.
absl::StatusOr<uint64_t> PrepareBackend(proto::Attach* attach) {
  absl::StatusOr<uint64_t> bytes = uint64_t{0};
  switch (attach->backend_case()) {
    case proto::Attach::kNull:
      bytes = attach->null().size_bytes();
      if (*bytes % kSectorBytes != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("a device of ", *bytes,
                         " bytes: the size has to be a multiple of 512"));
      }
      break;
    case proto::Attach::kFile:
      bytes = PrepareFile(attach->mutable_file());
      break;
    case proto::Attach::kSnapshot:
      bytes = PrepareSnapshot(attach->mutable_snapshot());
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          attach->name(), ": nothing says what the device is to show"));
  }
  if (bytes.ok() && *bytes == 0) {
    return absl::InvalidArgumentError(
        "what is to be mapped is empty; a device has at least one sector");
  }
  return bytes;
}

// Whether the kernel can read parts of a device of that size from the base: a
// block device whose blocks the device's size is a multiple of.
bool CanRedirect(const std::string& base_path, uint64_t bytes) {
  struct stat info = {};
  if (stat(base_path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode))
    return false;
  const int fd = open(base_path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  int block_bytes = 0;
  const bool known = ioctl(fd, BLKSSZGET, &block_bytes) == 0;
  close(fd);
  return known && block_bytes > 0 &&
         bytes % static_cast<uint64_t>(block_bytes) == 0;
}

}  // namespace

absl::StatusOr<std::string> ParseOrphanTimeout(const std::string& text) {
  if (text == kForever) return text;
  uint32_t seconds = 0;
  if (!absl::SimpleAtoi(text, &seconds) || seconds > 86400) {
    return absl::InvalidArgumentError(
        absl::StrCat("orphan timeout '", text,
                     "': expected 0 to 86400 seconds, or 'forever'"));
  }
  return absl::StrCat(uint64_t{seconds} * 1000);
}

absl::Status MapDevice(proto::Attach attach, const std::string& orphan_ms,
                       const std::string& control_path) {
  absl::Status root = CheckRoot();
  if (!root.ok()) return root;
  auto bytes = PrepareBackend(&attach);
  if (!bytes.ok()) return bytes.status();
  absl::Status kernel = CheckKernelSupport();
  if (!kernel.ok()) return kernel;
  auto client = ControlClient::Connect({.path = control_path});
  if (!client.ok()) return client.status();

  UserDevice device;
  device.name = attach.name();
  device.size_sectors = *bytes / kSectorBytes;
  device.read_only =
      attach.has_snapshot() || (attach.has_file() && attach.file().read_only());
  device.orphan_ms = orphan_ms;
  // What the daemon carries in one piece.
  device.max_io_sectors = BufferPool::kBufferBytes / kSectorBytes;
  device.discard = !device.read_only;
  if (attach.has_snapshot() && KernelKnowsRedirect() &&
      CanRedirect(attach.snapshot().base_path(), *bytes)) {
    device.redirect_path = attach.snapshot().base_path();
  }
  absl::Status created = CreateUserDevice(device);
  if (!created.ok()) return created;
  const std::string name = attach.name();
  absl::Status attached = client->Attach(attach);
  if (attached.ok()) return attached;
  absl::Status removed = RemoveUserDevice(name);
  if (!removed.ok()) {
    fprintf(stderr, "dmuserctl: %s\n", std::string(removed.message()).c_str());
  }
  return attached;
}

absl::Status UnmapDevice(const std::string& name,
                         const std::string& control_path) {
  absl::Status kernel = CheckKernelSupport();
  if (!kernel.ok()) return kernel;
  absl::Status removed = RemoveUserDevice(name);
  if (!removed.ok()) return removed;
  // The daemon notices by itself that the device is gone; wait until it has let
  // go of the files. Without a daemon nobody holds them.
  auto client = ControlClient::Connect({.path = control_path});
  if (!client.ok()) {
    return absl::IsDeadlineExceeded(client.status()) ? absl::OkStatus()
                                                     : client.status();
  }
  absl::Status detached = client->Detach(name);
  return absl::IsNotFound(detached) ? absl::OkStatus() : detached;
}

}  // namespace dmu::tools
