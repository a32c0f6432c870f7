// SPDX-License-Identifier: Apache-2.0
//
// usertab.h - reads /etc/dm-usertab (proto/usertab.proto).
#ifndef TOOLS_DMUSERCTL_USERTAB_H_
#define TOOLS_DMUSERCTL_USERTAB_H_

#include <string>

#include "absl/status/statusor.h"
#include "proto/usertab.pb.h"

namespace dmu::tools {

inline constexpr char kUserTabPath[] = "/etc/dm-usertab";

// kInvalidArgument, with line and column, for what is no table, and for a name
// that stands there twice; else as the file cannot be read.
absl::StatusOr<proto::UserTab> ReadUserTab(const std::string& path);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_USERTAB_H_
