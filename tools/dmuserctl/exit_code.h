// SPDX-License-Identifier: Apache-2.0
//
// exit_code.h - dmuserctl's exit codes; stable, scripts depend on them.
//
// Statuses carry the kind of an error through the tools; this is the one place
// that says what number each kind becomes.
#ifndef TOOLS_DMUSERCTL_EXIT_CODE_H_
#define TOOLS_DMUSERCTL_EXIT_CODE_H_

#include "absl/status/status.h"

namespace dmu::tools {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,             // what no other code says
  kExitUsage = 2,               // command line, or an argument of no use
  kExitCorrupt = 3,             // not a COW file, truncated or corrupt
  kExitWrongBase = 4,           // the base does not fit the COW file
  kExitBusy = 5,                // device or file in use
  kExitNoKernelSupport = 6,     // no dm-user target or no device mapper
  kExitIoError = 7,             // storage failed or is full
  kExitPermission = 8,          // not root, or no access to a file
  kExitNotFound = 9,            // no such file or device
  kExitNoDaemon = 10,           // dmuserd does not answer
  kExitAlreadyExists = 11,      // output file or device name in use
  kExitUnsupportedFormat = 12,  // a version, op or compressor not served
  kExitWrongState = 13,         // the update's state does not allow the verb
  kExitInterrupted = 130,       // as a shell says of SIGINT
};

ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_EXIT_CODE_H_
