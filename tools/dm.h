// SPDX-License-Identifier: Apache-2.0
//
// dm.h - device-mapper devices with the target "user", by libdevmapper.
//
// The only place that knows libdevmapper. Uses udev cookies where udev runs and
// makes the nodes itself where it does not.
#ifndef TOOLS_DM_H_
#define TOOLS_DM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dmu::tools {

struct UserDevice {
  std::string name;
  uint64_t size_sectors = 0;
  bool read_only = false;
  // How long requests wait, in milliseconds, while no daemon serves the device.
  // A number, or "forever".
  std::string orphan_ms;
  // Longest request in sectors; the kernel splits longer ones.
  uint64_t max_io_sectors = 0;
  // Discards and write-zeroes are passed on.
  bool discard = false;
  // A block device the kernel may read parts of the device from; empty: none.
  std::string redirect_path;
};

// kPermissionDenied without root.
absl::Status CheckRoot();

// As CheckRoot, and kUnavailable when the kernel has no device mapper or no
// target "user"; the sentence says which and what to do.
absl::Status CheckKernelSupport();

// Whether the target takes UserDevice::redirect_path.
bool KernelKnowsRedirect();

// Makes /dev/mapper/NAME; its requests wait for a daemon. kAlreadyExists when
// the name is taken.
absl::Status CreateUserDevice(const UserDevice& device);

// kAborted while it is open (mounted), kNotFound, kInvalidArgument when it is
// no device of target "user".
absl::Status RemoveUserDevice(const std::string& name);

// Status line of the target, as `dmsetup status` prints it after the target's
// name. kNotFound; kInvalidArgument when it is no device of target "user".
absl::StatusOr<std::string> UserDeviceStatus(const std::string& name);

// What the kernel sends straight to a backing device.
struct RedirectFigures {
  uint64_t bios = 0;
  uint64_t extents = 0;
};
// nullopt without root, without the device, or with a target that knows none.
std::optional<RedirectFigures> UserDeviceRedirect(const std::string& name);

// Names of all devices whose table is one target "user", sorted.
absl::StatusOr<std::vector<std::string>> ListUserDevices();

}  // namespace dmu::tools

#endif  // TOOLS_DM_H_
