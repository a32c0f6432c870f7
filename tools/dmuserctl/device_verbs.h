// SPDX-License-Identifier: Apache-2.0
//
// device_verbs.h - the verbs that need a kernel and a daemon: map, unmap,
// finish, merge, status, metrics, list.
//
// Each takes the words behind the verb and prints its result; an error comes
// back as a status, for main.cc to print and to turn into an exit code.
#ifndef TOOLS_DMUSERCTL_DEVICE_VERBS_H_
#define TOOLS_DMUSERCTL_DEVICE_VERBS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace dmu::tools {

using Arguments = std::vector<std::string>;

absl::Status Map(const Arguments& arguments);
absl::Status Finish(const Arguments& arguments);
absl::Status Unmap(const Arguments& arguments);
absl::Status Up(const Arguments& arguments);
absl::Status Down(const Arguments& arguments);
// Needs neither kernel nor daemon.
absl::Status Units(const Arguments& arguments);
absl::Status Merge(const Arguments& arguments);
// What "merge NAME" does; undo_log: "" for none; rate 0: what it had.
absl::Status StartMerge(const std::string& name, const std::string& undo_log,
                        uint64_t rate_bytes_per_s);
absl::Status Throttle(const Arguments& arguments);
absl::Status Status(const Arguments& arguments);
absl::Status Metrics(const Arguments& arguments);
absl::Status List(const Arguments& arguments);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_DEVICE_VERBS_H_
