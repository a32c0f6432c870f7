// SPDX-License-Identifier: Apache-2.0
//
// take_over.h - has the daemon that runs now let go of its devices.
//
// It answers what it holds, keeps the records of its devices and ends; requests
// that come meanwhile wait in the kernel, so nothing fails. Whoever asked then
// serves the devices: another build of the daemon, or that of the booted system
// after that of the initramfs.
#ifndef DAEMON_CONTROL_TAKE_OVER_H_
#define DAEMON_CONTROL_TAKE_OVER_H_

#include <string>

#include "absl/status/status.h"

namespace dmu {

// Blocks, for kTakeOverSeconds at most; before the loop exists. OK when the
// other has ended, and when there is none. kPermissionDenied; kDeadlineExceeded
// when it does not end: it keeps its devices then.
inline constexpr int kTakeOverSeconds = 30;
absl::Status TakeOver(const std::string& control_path);

}  // namespace dmu

#endif  // DAEMON_CONTROL_TAKE_OVER_H_
