// SPDX-License-Identifier: Apache-2.0
//
// dm.h - device-mapper devices with the target "user", by libdevmapper; those
// of target "linear" that stand before a ublk device or, after the merge,
// before the base itself; those of target "verity" on top of them. Ours are
// known by their UUID.
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
  // Longest request in sectors; the kernel splits longer ones. 0: no bound but
  // that of redirect_path.
  uint64_t max_io_sectors = 0;
  // Are passed on.
  bool discard = false;
  bool write_zeroes = false;
  // Flushes go to redirect_path alone, if a write went there.
  bool no_flush = false;
  // What requests are multiples of: 512 to 4096.
  uint32_t logical_block_bytes = 512;
  // A block device the kernel may read parts of the device from; empty: none.
  std::string redirect_path;
};

// A device that shows the first sectors of another one.
struct LinearDevice {
  std::string name;
  uint64_t size_sectors = 0;
  std::string path;  // of the other one
  bool read_only = false;
};

// What the kernel does with a device of ours.
struct DeviceTable {
  std::string target;  // "user" or "linear"
  std::string parameters;
  uint64_t size_sectors = 0;
};

// kPermissionDenied without root.
absl::Status CheckRoot();

// As CheckRoot, and kUnavailable when the kernel has no device mapper.
absl::Status CheckDeviceMapper();

// As CheckDeviceMapper, and kUnavailable without the target "user"; the
// sentence says what to do.
absl::Status CheckKernelSupport();

// kAlreadyExists when there is any device-mapper device of that name.
absl::Status CheckNameIsFree(const std::string& name);

// Makes /dev/mapper/NAME. Codes as CreateUserDevice.
absl::Status CreateLinearDevice(const LinearDevice& device);

// Puts this in the place of the device's table, whatever it was, without an
// error to anybody who uses the device: what is in flight ends first, what
// comes meanwhile waits. What fails leaves the table as it was. kAborted while
// the other device is held by somebody; kNotFound.
absl::Status SwapToLinear(const LinearDevice& device);

// A read-only device with the kernel's target "verity", on a device of ours.
struct VerityDevice {
  std::string name;
  uint64_t size_sectors = 0;
  std::string parameters;
};
// Codes as CreateUserDevice.
absl::Status CreateVerityDevice(const VerityDevice& device);
// Puts this in the place of its table; what fails leaves the table as it was.
absl::Status SwapVerityTable(const VerityDevice& device);
// Status line of the target: "V", or "C" once something did not fit its hash.
// kNotFound; kInvalidArgument when it is none of ours.
absl::StatusOr<std::string> VerityStatus(const std::string& name);
// As RemoveUserDevice.
absl::Status RemoveVerityDevice(const std::string& name);

// kNotFound; kInvalidArgument when it is none of ours.
absl::StatusOr<DeviceTable> ReadTable(const std::string& name);

// Whether the target takes UserDevice::redirect_path.
bool KernelKnowsRedirect();
// And whether a daemon can answer with places there.
bool KernelKnowsRemap();

// Makes the device and its control node, on which a daemon can begin to serve;
// nobody can use it before ActivateUserDevice. A device of the name that was
// left in this state is replaced. kAlreadyExists when the name is taken.
absl::Status CreateUserDevice(const UserDevice& device);

// Makes /dev/mapper/NAME. Returns when udev has looked at it, which reads from
// it: it has to be served by now. kNotFound.
absl::Status ActivateUserDevice(const std::string& name);

// kAborted while it is open (mounted), kNotFound, kInvalidArgument when it is
// none of ours.
absl::Status RemoveUserDevice(const std::string& name);

// Status line of the target, as `dmsetup status` prints it after the target's
// name; of a linear device its table. kNotFound; kInvalidArgument when it is
// none of ours.
absl::StatusOr<std::string> UserDeviceStatus(const std::string& name);

// What the kernel sends straight to a backing device.
struct RedirectFigures {
  uint64_t bios = 0;
  uint64_t extents = 0;
};
// nullopt without root, without the device, or with a target that knows none.
std::optional<RedirectFigures> UserDeviceRedirect(const std::string& name);

// Names of all devices of ours, sorted.
absl::StatusOr<std::vector<std::string>> ListUserDevices();

}  // namespace dmu::tools

#endif  // TOOLS_DM_H_
