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
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/cow/loader.h"
#include "daemon/io/queue_limits.h"
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

constexpr char kUblkControl[] = "/dev/ublk-control";

// Which it is to be, when the kernel can do it.
absl::StatusOr<proto::Transport> ChooseTransport(proto::Transport wanted) {
  if (wanted == proto::TRANSPORT_DM_USER) {
    absl::Status kernel = CheckKernelSupport();
    if (!kernel.ok()) return kernel;
    return wanted;
  }
  absl::Status mapper = CheckDeviceMapper();
  if (!mapper.ok()) return mapper;
  if (wanted == proto::TRANSPORT_AUTO) {
    absl::Status kernel = CheckKernelSupport();
    if (kernel.ok()) return proto::TRANSPORT_DM_USER;
    if (access(kUblkControl, F_OK) == 0) return proto::TRANSPORT_UBLK;
    return absl::UnavailableError(
        absl::StrCat(std::string(kernel.message()),
                     "; or the kernel's own driver with 'modprobe ublk_drv'"));
  }
  if (access(kUblkControl, F_OK) == 0) return wanted;
  return absl::UnavailableError(absl::StrCat(
      kUblkControl,
      ": there is no such node: load the driver with 'modprobe ublk_drv', or "
      "use a kernel that has it (CONFIG_BLK_DEV_UBLK, since Linux 6.5)"));
}

bool IsReadOnly(const proto::Attach& attach) {
  return attach.has_snapshot() ||
         (attach.has_file() && attach.file().read_only());
}

absl::Status Detach(ControlClient* client, const std::string& name) {
  absl::Status detached = client->Detach(name);
  return absl::IsNotFound(detached) ? absl::OkStatus() : detached;
}

// After what could not be completed: says it when that fails too.
void Undo(const absl::Status& undone) {
  if (undone.ok()) return;
  fprintf(stderr, "dmuserctl: %s\n", std::string(undone.message()).c_str());
}

// What the storage behind a file's device takes in one piece: parts of it would
// each have to be read first. A file has no such blocks.
uint32_t BlockBytes(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int bytes = 0;
  const bool known = fd >= 0 && ioctl(fd, BLKSSZGET, &bytes) == 0;
  if (fd >= 0) close(fd);
  if (!known || bytes < 512 || bytes > 4096) return 512;
  return static_cast<uint32_t>(bytes);
}

// The longest I/O that the storage behind a file's device takes whole.
uint64_t MaxIoBytes(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return QueueLimits().transfer_bytes_max;
  const QueueLimits limits = AskQueueLimits(fd);
  close(fd);
  return limits.transfer_bytes_max;
}

// Has the kernel send what the daemon is asked for to the block device itself.
// The table holds it, bounds nothing the device does not, and flushes it.
absl::Status PrepareRemap(const std::string& path, UserDevice* device) {
  if (!KernelKnowsRemap()) {
    return absl::UnavailableError(
        "--direct-io remap needs dm-user.ko 1.5 or later; load the one that "
        "comes with this dmuserctl");
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info = {};
  if (fd < 0 || fstat(fd, &info) != 0 || !S_ISBLK(info.st_mode)) {
    if (fd >= 0) close(fd);
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": is no block device, and the kernel can send requests to one "
        "only; map it from a loop device (losetup), or without "
        "--direct-io remap"));
  }
  const QueueOps ops = AskQueueOps(fd);
  close(fd);
  device->redirect_path = path;
  device->max_io_sectors = 0;
  device->discard = !device->read_only && ops.discard;
  device->write_zeroes = !device->read_only && ops.write_zeroes;
  device->no_flush = true;
  return absl::OkStatus();
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

absl::Status NoRedirect() {
  return absl::InvalidArgumentError(
      "redirect needs a snapshot whose base is a block device, and dm-user.ko "
      "1.3 or later; 'auto' does without where that is missing");
}

// The daemon serves before the device can be used: udev reads from it at once,
// and whoever activates it waits for udev.
absl::Status MapOnUser(ControlClient* client, const proto::Attach& attach,
                       const std::string& orphan_ms, proto::Redirect redirect,
                       uint64_t size_sectors) {
  UserDevice device;
  device.name = attach.name();
  device.size_sectors = size_sectors;
  device.read_only = IsReadOnly(attach);
  device.orphan_ms = orphan_ms;
  // What the daemon carries in one piece, and the storage below.
  uint64_t request_bytes_max = BufferPool::kBufferBytes;
  if (attach.has_file()) {
    request_bytes_max = std::min<uint64_t>(BufferPool::kRunBytesMax,
                                           MaxIoBytes(attach.file().path()));
  }
  device.max_io_sectors = request_bytes_max / kSectorBytes;
  device.discard = !device.read_only;
  device.write_zeroes = !device.read_only;
  if (attach.has_file()) {
    device.logical_block_bytes = BlockBytes(attach.file().path());
  }
  if (attach.has_file() &&
      attach.file().direct_io() == proto::DIRECT_IO_REMAP) {
    absl::Status prepared = PrepareRemap(attach.file().path(), &device);
    if (!prepared.ok()) return prepared;
  } else if (redirect != proto::REDIRECT_OFF && attach.has_snapshot() &&
             KernelKnowsRedirect() &&
             CanRedirect(attach.snapshot().base_path(),
                         size_sectors * kSectorBytes)) {
    device.redirect_path = attach.snapshot().base_path();
  } else if (redirect == proto::REDIRECT_ON) {
    return NoRedirect();
  }
  absl::Status created = CreateUserDevice(device);
  if (!created.ok() && !absl::IsAlreadyExists(created) &&
      attach.has_snapshot() && !device.redirect_path.empty() &&
      redirect == proto::REDIRECT_AUTO) {
    // The base is somebody else's, to hold it for the device: its daemon can
    // read it all the same.
    device.redirect_path.clear();
    created = CreateUserDevice(device);
  }
  if (!created.ok()) return created;
  absl::Status mapped = client->Attach(attach);
  const bool attached = mapped.ok();
  if (attached) mapped = ActivateUserDevice(device.name);
  if (mapped.ok()) return mapped;
  Undo(RemoveUserDevice(device.name));
  if (attached) Undo(Detach(client, device.name));
  return mapped;
}

// The daemon first: it makes the device that the table is put on.
absl::Status MapOnUblk(ControlClient* client, const proto::Attach& attach,
                       uint64_t size_sectors) {
  const std::string& name = attach.name();
  absl::Status is_free = CheckNameIsFree(name);
  if (!is_free.ok()) return is_free;
  proto::Request request;
  *request.mutable_attach() = attach;
  auto response = client->Call(request);
  if (!response.ok()) return response.status();
  LinearDevice device;
  device.name = name;
  device.size_sectors = size_sectors;
  device.read_only = IsReadOnly(attach);
  if (response->devices_size() == 1) {
    device.path = response->devices(0).block_path();
  }
  absl::Status created =
      device.path.empty()
          ? absl::UnimplementedError(
                "the daemon does not say which device it made; use the "
                "dmuserd that came with this dmuserctl")
          : CreateLinearDevice(device);
  if (!created.ok()) Undo(Detach(client, name));
  return created;
}

// Whether the table is one on a ublk device: "MAJOR:MINOR SECTOR".
bool IsOnUblk(const DeviceTable& table) {
  const std::string number =
      table.parameters.substr(0, table.parameters.find(' '));
  char target[PATH_MAX] = {};
  const std::string link = absl::StrCat("/sys/dev/block/", number);
  if (table.target != "linear" ||
      readlink(link.c_str(), target, sizeof(target) - 1) < 0) {
    return false;
  }
  return absl::StrContains(target, "/ublkb");
}

// What stands behind the device when all of it is merged.
absl::StatusOr<LinearDevice> MergedBase(const proto::DeviceStatus& device) {
  if (!device.has_merge()) {
    return absl::InvalidArgumentError(absl::StrCat(
        device.name(), ": has nothing to merge: it is no snapshot"));
  }
  struct stat info = {};
  if (stat(device.base_path().c_str(), &info) != 0) {
    return ErrnoStatus(errno, device.base_path());
  }
  if (!S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        device.base_path(),
        ": is a file, and a table needs a block device; unmap ", device.name(),
        " and use the file, or map it from a loop device (losetup)"));
  }
  LinearDevice base;
  base.name = device.name();
  base.size_sectors = device.size_bytes() / kSectorBytes;
  base.path = device.base_path();
  // It is the base from now on, and as writable as that.
  base.read_only = access(base.path.c_str(), W_OK) != 0;
  return base;
}

// One of some words, as what it stands for.
template <typename Value>
absl::StatusOr<Value> ParseWord(
    const char* what, const std::string& text,
    std::initializer_list<std::pair<const char*, Value>> words) {
  std::string expected;
  size_t left = words.size();
  for (const auto& [word, value] : words) {
    if (text == word) return value;
    --left;
    absl::StrAppend(&expected, word, left > 1 ? ", " : left == 1 ? " or " : "");
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " '", text, "': expected ", expected));
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

absl::StatusOr<proto::Transport> ParseTransport(const std::string& text) {
  return ParseWord<proto::Transport>("transport", text,
                                     {{"auto", proto::TRANSPORT_AUTO},
                                      {"dm-user", proto::TRANSPORT_DM_USER},
                                      {"ublk", proto::TRANSPORT_UBLK}});
}

absl::StatusOr<proto::DirectIo> ParseDirectIo(const std::string& text) {
  return ParseWord<proto::DirectIo>("direct I/O", text,
                                    {{"auto", proto::DIRECT_IO_AUTO},
                                     {"on", proto::DIRECT_IO_ON},
                                     {"off", proto::DIRECT_IO_OFF},
                                     {"remap", proto::DIRECT_IO_REMAP}});
}

absl::StatusOr<proto::Redirect> ParseRedirect(const std::string& text) {
  return ParseWord<proto::Redirect>("redirect", text,
                                    {{"auto", proto::REDIRECT_AUTO},
                                     {"on", proto::REDIRECT_ON},
                                     {"off", proto::REDIRECT_OFF}});
}

absl::Status MapDevice(proto::Attach attach, const std::string& orphan_ms,
                       proto::Redirect redirect,
                       const std::string& control_path) {
  absl::Status root = CheckRoot();
  if (!root.ok()) return root;
  auto bytes = PrepareBackend(&attach);
  if (!bytes.ok()) return bytes.status();
  auto transport = ChooseTransport(attach.transport());
  if (!transport.ok()) return transport.status();
  attach.set_transport(*transport);
  auto client = ControlClient::Connect({.path = control_path});
  if (!client.ok()) return client.status();
  const uint64_t size_sectors = *bytes / kSectorBytes;
  if (redirect == proto::REDIRECT_ON && *transport == proto::TRANSPORT_UBLK) {
    return NoRedirect();
  }
  if (attach.has_file() &&
      attach.file().direct_io() == proto::DIRECT_IO_REMAP &&
      *transport == proto::TRANSPORT_UBLK) {
    return absl::InvalidArgumentError(
        "--direct-io remap needs dm-user.ko: ublk has no answers by place");
  }
  return *transport == proto::TRANSPORT_UBLK
             ? MapOnUblk(&*client, attach, size_sectors)
             : MapOnUser(&*client, attach, orphan_ms, redirect, size_sectors);
}

absl::Status FinishDevice(const std::string& name,
                          const std::string& control_path) {
  absl::Status mapper = CheckDeviceMapper();
  if (!mapper.ok()) return mapper;
  auto table = ReadTable(name);
  if (!table.ok()) return table.status();
  auto client = ControlClient::Connect({.path = control_path});
  if (!client.ok()) return client.status();
  const bool served = table->target == "user" || IsOnUblk(*table);
  proto::Request request;
  request.mutable_status()->set_name(name);
  auto response = client->Call(request);
  // Finished before.
  if (!served && absl::IsNotFound(response.status())) return absl::OkStatus();
  if (!response.ok()) return response.status();
  if (served) {
    auto base = MergedBase(response->devices(0));
    if (!base.ok()) return base.status();
    request.mutable_share_base()->set_name(name);
    absl::Status shared = client->Call(request).status();
    if (!shared.ok()) return shared;
    absl::Status swapped = SwapToLinear(*base);
    if (!swapped.ok()) return swapped;
  }
  return Detach(&*client, name);
}

absl::Status UnmapDevice(const std::string& name,
                         const std::string& control_path) {
  absl::Status mapper = CheckDeviceMapper();
  if (!mapper.ok()) return mapper;
  auto table = ReadTable(name);
  if (!table.ok()) return table.status();
  auto client = ControlClient::Connect({.path = control_path});
  // A ublk device is the daemon's to remove; a target goes by itself, and
  // without a daemon nobody holds its files.
  if (!client.ok() &&
      (IsOnUblk(*table) || !absl::IsDeadlineExceeded(client.status()))) {
    return client.status();
  }
  absl::Status removed = RemoveUserDevice(name);
  if (!removed.ok() || !client.ok()) return removed;
  // The daemon notices by itself that a target is gone; wait until it has let
  // go of the files.
  return Detach(&*client, name);
}

}  // namespace dmu::tools
