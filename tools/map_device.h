// SPDX-License-Identifier: Apache-2.0
//
// map_device.h - a dm device and the daemon that serves it, made and removed.
//
// Nothing is made before everything that can be judged beforehand is: files,
// sizes, kernel, daemon. What fails later is undone.
#ifndef TOOLS_MAP_DEVICE_H_
#define TOOLS_MAP_DEVICE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/control.pb.h"

namespace dmu::tools {

// "60", "forever": as the target's table takes it. kInvalidArgument.
absl::StatusOr<std::string> ParseOrphanTimeout(const std::string& text);

// attach: paths are made absolute. orphan_ms: of ParseOrphanTimeout. Codes as
// the loader, CheckBase, dm.h and the daemon say; kAlreadyExists when there is
// a device of the name.
absl::Status MapDevice(proto::Attach attach, const std::string& orphan_ms,
                       const std::string& control_path);

// Also ends what the daemon does for it. kNotFound.
absl::Status UnmapDevice(const std::string& name,
                         const std::string& control_path);

}  // namespace dmu::tools

#endif  // TOOLS_MAP_DEVICE_H_
