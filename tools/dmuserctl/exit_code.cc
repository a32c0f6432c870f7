// SPDX-License-Identifier: Apache-2.0
//
// exit_code.cc - see exit_code.h.
#include "tools/dmuserctl/exit_code.h"

namespace dmu::tools {

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kDataLoss:
      return kExitCorrupt;
    case absl::StatusCode::kFailedPrecondition:
      return kExitWrongBase;
    case absl::StatusCode::kAborted:
      return kExitBusy;
    case absl::StatusCode::kUnavailable:
      return kExitNoKernelSupport;
    case absl::StatusCode::kInternal:
      return kExitIoError;
    case absl::StatusCode::kPermissionDenied:
      return kExitPermission;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    // Throughout the tools: the daemon does not answer.
    case absl::StatusCode::kDeadlineExceeded:
      return kExitNoDaemon;
    case absl::StatusCode::kAlreadyExists:
      return kExitAlreadyExists;
    case absl::StatusCode::kUnimplemented:
      return kExitUnsupportedFormat;
    case absl::StatusCode::kOutOfRange:
      return kExitWrongState;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailure;
  }
}

}  // namespace dmu::tools
