// SPDX-License-Identifier: Apache-2.0
//
// map_device.h - a dm device and the daemon that serves it, made and removed.
//
// /dev/mapper/NAME is a table of target "user" (dm-user.ko), or one of target
// "linear" on the ublk device that the daemon makes: a stable name, whose table
// can be switched when the merge is done.
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
#include "proto/usertab.pb.h"

namespace dmu::tools {

// "60", "forever": as the target's table takes it. kInvalidArgument.
absl::StatusOr<std::string> ParseOrphanTimeout(const std::string& text);

// "auto", "dm-user", "ublk". kInvalidArgument.
absl::StatusOr<proto::Transport> ParseTransport(const std::string& text);

// "auto", "on", "off". kInvalidArgument.
absl::StatusOr<proto::DirectIo> ParseDirectIo(const std::string& text);
absl::StatusOr<proto::Redirect> ParseRedirect(const std::string& text);

// attach: paths are made absolute; TRANSPORT_AUTO is dm-user where the kernel
// has the target, else ublk where it has that driver. orphan_ms: of
// ParseOrphanTimeout. redirect: REDIRECT_ON is kInvalidArgument where it cannot
// be.
// Codes as the loader, CheckBase, dm.h and the daemon say; kAlreadyExists when
// there is a device of the name.
absl::Status MapDevice(proto::Attach attach, const std::string& orphan_ms,
                       proto::Redirect redirect,
                       const std::string& control_path);

// Puts /dev/mapper/NAME on the base itself, whose merge is done, and has the
// daemon let go of it; whoever reads the device notices nothing. Can be
// repeated whatever interrupted it. kAborted while the merge is not done;
// kNotFound.
absl::Status FinishDevice(const std::string& name,
                          const std::string& control_path);

// Also ends what the daemon does for it. kNotFound.
absl::Status UnmapDevice(const std::string& name,
                         const std::string& control_path);

}  // namespace dmu::tools

#endif  // TOOLS_MAP_DEVICE_H_
