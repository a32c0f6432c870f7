// SPDX-License-Identifier: Apache-2.0
//
// map_verbs.cc - map and unmap: a dm device and the daemon that serves it.
//
// Map makes nothing before everything that can be judged beforehand is: the
// files, the sizes, the kernel, the daemon. What fails later is undone.
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/control/frame.h"
#include "daemon/cow/loader.h"
#include "tools/control_client.h"
#include "tools/cow_file.h"
#include "tools/dm.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/file_io.h"

ABSL_DECLARE_FLAG(std::string, base);
ABSL_DECLARE_FLAG(bool, quiet);

ABSL_FLAG(std::string, control, dmu::kDefaultControlPath,
          "control socket of dmuserd");
ABSL_FLAG(std::string, cow, "", "map: COW file or device to show");
ABSL_FLAG(std::string, file, "", "map: file or device to show as it is");
ABSL_FLAG(std::string, null, "", "map: show this many bytes of zeros");
ABSL_FLAG(bool, read_only, false, "map --file: refuse writes");
ABSL_FLAG(std::string, orphan_timeout, "60",
          "map: seconds that requests wait while no daemon serves the device, "
          "or 'forever'; then they fail");

namespace dmu::tools {

namespace {

// What the target's tables take for "no deadline".
constexpr char kForever[] = "forever";

absl::StatusOr<std::string> Absolute(const std::string& path) {
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) == nullptr) {
    return ErrnoStatus(errno, path);
  }
  return std::string(resolved);
}

absl::StatusOr<std::string> OrphanMs() {
  const std::string text = absl::GetFlag(FLAGS_orphan_timeout);
  if (text == kForever) return text;
  uint32_t seconds = 0;
  if (!absl::SimpleAtoi(text, &seconds) || seconds > 86400) {
    return absl::InvalidArgumentError(
        absl::StrCat("--orphan_timeout '", text,
                     "': expected 0 to 86400 seconds, or "
                     "'forever'"));
  }
  return absl::StrCat(uint64_t{seconds} * 1000);
}

absl::StatusOr<uint64_t> PrepareSnapshot(proto::Attach* attach) {
  const std::string base = absl::GetFlag(FLAGS_base);
  if (base.empty()) {
    return absl::InvalidArgumentError(
        "map --cow needs --base: the file or device the COW was made for");
  }
  auto cow_path = Absolute(absl::GetFlag(FLAGS_cow));
  if (!cow_path.ok()) return cow_path.status();
  auto base_path = Absolute(base);
  if (!base_path.ok()) return base_path.status();
  auto cow = OpenCowFile(*cow_path);
  if (!cow.ok()) return cow.status();
  auto base_file = File::OpenForRead(*base_path);
  if (!base_file.ok()) return base_file.status();
  absl::Status fits = cow::CheckBase(*cow->image, base_file->size_bytes(),
                                     /*for_merge=*/false);
  if (!fits.ok()) {
    return absl::Status(fits.code(),
                        absl::StrCat(*base_path, ": ", fits.message()));
  }
  attach->mutable_snapshot()->set_cow_path(*cow_path);
  attach->mutable_snapshot()->set_base_path(*base_path);
  return cow::TargetBytes(*cow->image, base_file->size_bytes());
}

absl::StatusOr<uint64_t> PrepareFile(proto::Attach* attach) {
  auto path = Absolute(absl::GetFlag(FLAGS_file));
  if (!path.ok()) return path.status();
  auto file = File::OpenForRead(*path);
  if (!file.ok()) return file.status();
  attach->mutable_file()->set_path(*path);
  attach->mutable_file()->set_read_only(absl::GetFlag(FLAGS_read_only));
  return file->size_bytes() / kSectorBytes * kSectorBytes;
}

absl::StatusOr<uint64_t> PrepareNull(proto::Attach* attach) {
  uint64_t bytes = 0;
  if (!absl::SimpleAtoi(absl::GetFlag(FLAGS_null), &bytes) ||
      bytes % kSectorBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--null '", absl::GetFlag(FLAGS_null),
                     "': expected a size in bytes, a multiple of 512"));
  }
  attach->mutable_null()->set_size_bytes(bytes);
  return bytes;
}

// Fills the back end in and returns the device's size in bytes.
absl::StatusOr<uint64_t> PrepareBackend(proto::Attach* attach) {
  const int kinds = !absl::GetFlag(FLAGS_cow).empty() +
                    !absl::GetFlag(FLAGS_file).empty() +
                    !absl::GetFlag(FLAGS_null).empty();
  if (kinds != 1) {
    return absl::InvalidArgumentError(
        "map needs one of --cow FILE --base DEV, --file FILE, --null BYTES");
  }
  auto bytes = !absl::GetFlag(FLAGS_cow).empty()    ? PrepareSnapshot(attach)
               : !absl::GetFlag(FLAGS_file).empty() ? PrepareFile(attach)
                                                    : PrepareNull(attach);
  if (bytes.ok() && *bytes == 0) {
    return absl::InvalidArgumentError(
        "what is to be mapped is empty; a device has at least one sector");
  }
  return bytes;
}

}  // namespace

absl::Status Map(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "map needs the name of the new device, and nothing else");
  }
  const std::string& name = arguments[0];
  proto::Request request;
  proto::Attach* attach = request.mutable_attach();
  attach->set_name(name);
  auto orphan_ms = OrphanMs();
  if (!orphan_ms.ok()) return orphan_ms.status();
  absl::Status root = CheckRoot();
  if (!root.ok()) return root;
  auto bytes = PrepareBackend(attach);
  if (!bytes.ok()) return bytes.status();
  absl::Status kernel = CheckKernelSupport();
  if (!kernel.ok()) return kernel;
  auto client = ControlClient::Connect(absl::GetFlag(FLAGS_control));
  if (!client.ok()) return client.status();

  UserDevice device;
  device.name = name;
  device.size_sectors = *bytes / kSectorBytes;
  device.read_only = attach->has_snapshot() ||
                     (attach->has_file() && attach->file().read_only());
  device.orphan_ms = *orphan_ms;
  // What the daemon carries in one piece.
  device.max_io_sectors = BufferPool::kBufferBytes / kSectorBytes;
  device.discard = !device.read_only;
  absl::Status created = CreateUserDevice(device);
  if (!created.ok()) return created;
  auto attached = client->Call(request);
  if (!attached.ok()) {
    absl::Status removed = RemoveUserDevice(name);
    if (!removed.ok()) {
      fprintf(stderr, "dmuserctl: %s\n",
              std::string(removed.message()).c_str());
    }
    return attached.status();
  }
  if (!absl::GetFlag(FLAGS_quiet)) printf("/dev/mapper/%s\n", name.c_str());
  return absl::OkStatus();
}

absl::Status Unmap(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "unmap needs the name of the device, and nothing else");
  }
  absl::Status kernel = CheckKernelSupport();
  if (!kernel.ok()) return kernel;
  absl::Status removed = RemoveUserDevice(arguments[0]);
  if (!removed.ok()) return removed;
  // The daemon notices by itself that the device is gone; wait until it has let
  // go of the files. Without a daemon nobody holds them.
  auto client = ControlClient::Connect(absl::GetFlag(FLAGS_control));
  if (!client.ok()) {
    return absl::IsDeadlineExceeded(client.status()) ? absl::OkStatus()
                                                     : client.status();
  }
  proto::Request request;
  request.mutable_detach()->set_name(arguments[0]);
  absl::Status detached = client->Call(request).status();
  return absl::IsNotFound(detached) ? absl::OkStatus() : detached;
}

}  // namespace dmu::tools
