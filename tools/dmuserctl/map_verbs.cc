// SPDX-License-Identifier: Apache-2.0
//
// map_verbs.cc - map and unmap, and up and down: the same for the devices of a
// table.
#include <stdio.h>

#include <algorithm>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/types.h"
#include "daemon/control/frame.h"
#include "proto/usertab.pb.h"
#include "tools/dm.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/dmuserctl/usertab.h"
#include "tools/map_device.h"

ABSL_DECLARE_FLAG(std::string, base);
ABSL_DECLARE_FLAG(bool, quiet);

ABSL_FLAG(std::string, control, dmu::kDefaultControlPath,
          "control socket of dmuserd");
ABSL_FLAG(std::string, cow, "", "map: COW file or device to show");
ABSL_FLAG(std::string, file, "", "map: file or device to show as it is");
ABSL_FLAG(std::string, null, "", "map: show this many bytes of zeros");
ABSL_FLAG(bool, read_only, false, "map --file: refuse writes");
ABSL_FLAG(std::string, direct_io, "auto",
          "map --file: whether requests go past the daemon's page cache: auto "
          "(on most block devices), on (on a file too), off, or remap (past "
          "the daemon too: it says where, and the kernel sends them to the "
          "block device)");
ABSL_FLAG(std::string, orphan_timeout, "60",
          "map: seconds that requests wait while no daemon serves the device, "
          "or 'forever'; then they fail");
ABSL_FLAG(std::string, redirect, "auto",
          "map --cow: whether the kernel reads from the base, without the "
          "daemon, what is the same there: auto (where it can), on or off");
ABSL_FLAG(std::string, transport, "auto",
          "how requests reach the daemon: dm-user (dm-user.ko), ublk (the "
          "kernel's own driver, Linux 6.5 or later, where requests wait for a "
          "daemon for ever), or auto: the first of them that the kernel has");
ABSL_FLAG(std::string, table, dmu::tools::kUserTabPath,
          "the table of devices, protobuf text (proto/usertab.proto)");

namespace dmu::tools {
namespace {

absl::Status FillBackend(proto::Attach* attach) {
  const std::string cow = absl::GetFlag(FLAGS_cow);
  const std::string file = absl::GetFlag(FLAGS_file);
  const std::string null = absl::GetFlag(FLAGS_null);
  if (!cow.empty() + !file.empty() + !null.empty() != 1) {
    return absl::InvalidArgumentError(
        "map needs one of --cow FILE --base DEV, --file FILE, --null BYTES");
  }
  if (!cow.empty()) {
    if (absl::GetFlag(FLAGS_base).empty()) {
      return absl::InvalidArgumentError(
          "map --cow needs --base: the file or device the COW was made for");
    }
    attach->mutable_snapshot()->set_cow_path(cow);
    attach->mutable_snapshot()->set_base_path(absl::GetFlag(FLAGS_base));
  } else if (!file.empty()) {
    attach->mutable_file()->set_path(file);
    attach->mutable_file()->set_read_only(absl::GetFlag(FLAGS_read_only));
    absl::StatusOr<proto::DirectIo> direct_io =
        ParseDirectIo(absl::GetFlag(FLAGS_direct_io));
    if (!direct_io.ok()) return direct_io.status();
    attach->mutable_file()->set_direct_io(*direct_io);
  } else {
    uint64_t bytes = 0;
    if (!absl::SimpleAtoi(null, &bytes) || bytes % kSectorBytes != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--null '", null, "': expected a size in bytes, a multiple of 512"));
    }
    attach->mutable_null()->set_size_bytes(bytes);
  }
  return absl::OkStatus();
}

// Those named, or all.
absl::StatusOr<std::vector<proto::UserDevice>> Choose(
    const Arguments& arguments) {
  const std::string path = absl::GetFlag(FLAGS_table);
  absl::StatusOr<proto::UserTab> table = ReadUserTab(path);
  if (!table.ok()) return table.status();
  std::vector<proto::UserDevice> chosen(table->device().begin(),
                                        table->device().end());
  if (arguments.empty()) return chosen;
  chosen.clear();
  for (const std::string& name : arguments) {
    const auto at = std::find_if(
        table->device().begin(), table->device().end(),
        [&name](const proto::UserDevice& d) { return d.name() == name; });
    if (at == table->device().end()) {
      return absl::NotFoundError(
          absl::StrCat(path, " has no device '", name, "'"));
    }
    chosen.push_back(*at);
  }
  return chosen;
}

absl::Status BringUp(const proto::UserDevice& device) {
  const std::string timeout =
      device.orphan_timeout().empty() ? "60" : device.orphan_timeout();
  absl::StatusOr<std::string> orphan_ms = ParseOrphanTimeout(timeout);
  if (!orphan_ms.ok()) return orphan_ms.status();
  proto::Attach attach;
  attach.set_name(device.name());
  if (device.has_null()) *attach.mutable_null() = device.null();
  if (device.has_file()) *attach.mutable_file() = device.file();
  if (device.has_snapshot()) *attach.mutable_snapshot() = device.snapshot();
  absl::StatusOr<proto::Transport> transport =
      ParseTransport(absl::GetFlag(FLAGS_transport));
  if (!transport.ok()) return transport.status();
  attach.set_transport(device.transport() != proto::TRANSPORT_AUTO
                           ? device.transport()
                           : *transport);
  absl::StatusOr<proto::Redirect> redirect =
      ParseRedirect(absl::GetFlag(FLAGS_redirect));
  if (!redirect.ok()) return redirect.status();
  if (device.redirect() != proto::REDIRECT_AUTO) redirect = device.redirect();
  absl::Status status =
      MapDevice(attach, *orphan_ms, *redirect, absl::GetFlag(FLAGS_control));
  // There already, as after a second "up".
  if (absl::IsAlreadyExists(status)) status = absl::OkStatus();
  if (!status.ok() || !device.merge()) return status;
  return StartMerge(device.name(), device.undo_log_path(),
                    device.rate_bytes_per_s());
}

// One after the other; what fails does not keep the others from it.
absl::Status ForEach(const Arguments& arguments,
                     absl::Status (*act)(const proto::UserDevice&)) {
  auto devices = Choose(arguments);
  if (!devices.ok()) return devices.status();
  absl::Status first;
  for (const proto::UserDevice& device : *devices) {
    absl::Status status = act(device);
    if (status.ok()) {
      if (!absl::GetFlag(FLAGS_quiet)) printf("%s\n", device.name().c_str());
      continue;
    }
    status = absl::Status(status.code(),
                          absl::StrCat(device.name(), ": ", status.message()));
    if (first.ok()) {
      first = status;
    } else {
      fprintf(stderr, "dmuserctl: %s\n", std::string(status.message()).c_str());
    }
  }
  return first;
}

}  // namespace

absl::Status Map(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "map needs the name of the new device, and nothing else");
  }
  proto::Attach attach;
  attach.set_name(arguments[0]);
  auto orphan_ms = ParseOrphanTimeout(absl::GetFlag(FLAGS_orphan_timeout));
  if (!orphan_ms.ok()) return orphan_ms.status();
  auto transport = ParseTransport(absl::GetFlag(FLAGS_transport));
  if (!transport.ok()) return transport.status();
  attach.set_transport(*transport);
  auto redirect = ParseRedirect(absl::GetFlag(FLAGS_redirect));
  if (!redirect.ok()) return redirect.status();
  absl::Status status = FillBackend(&attach);
  if (status.ok()) {
    status =
        MapDevice(attach, *orphan_ms, *redirect, absl::GetFlag(FLAGS_control));
  }
  if (status.ok() && !absl::GetFlag(FLAGS_quiet)) {
    printf("/dev/mapper/%s\n", arguments[0].c_str());
  }
  return status;
}

absl::Status Unmap(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "unmap needs the name of the device, and nothing else");
  }
  return UnmapDevice(arguments[0], absl::GetFlag(FLAGS_control));
}

absl::Status Finish(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "finish needs the name of the device, and nothing else");
  }
  return FinishDevice(arguments[0], absl::GetFlag(FLAGS_control));
}

absl::Status Up(const Arguments& arguments) {
  return ForEach(arguments, BringUp);
}

absl::Status Down(const Arguments& arguments) {
  return ForEach(arguments, [](const proto::UserDevice& device) {
    absl::Status status =
        UnmapDevice(device.name(), absl::GetFlag(FLAGS_control));
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  });
}

}  // namespace dmu::tools
