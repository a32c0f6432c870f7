// SPDX-License-Identifier: Apache-2.0
//
// options.h - dmuserd's command line.
#ifndef DAEMON_OPTIONS_H_
#define DAEMON_OPTIONS_H_

#include <cstdint>
#include <string>

#include "daemon/backend/merge_governor.h"
#include "daemon/base/log.h"
#include "daemon/channel/misc_node.h"
#include "daemon/control/frame.h"
#include "daemon/control/role.h"

namespace dmu {

inline constexpr char kVersion[] = "0.1.0";
inline constexpr uint64_t kMemoryBytesDefault = 2 * 1024 * 1024;
// A merge has 3 MiB of memory while it goes on; one thread does not make two of
// them faster than one.
inline constexpr uint32_t kMergesDefault = 1;
inline constexpr uint32_t kMergesMax = 64;

// Exit codes, as systemd and scripts see them.
enum ExitCode { kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitBusy = 5 };

struct Options {
  std::string control_path = kDefaultControlPath;
  std::string android_socket_path;  // "": none
  std::string state_directory;  // default: "state" beside the control socket
  uint64_t memory_bytes = kMemoryBytesDefault;
  RoleGroups roles;
  MergeGovernor::Limits limits = {.active_max = kMergesDefault};
  enum class Io { kAuto, kUring, kSync };
  Io io = Io::kAuto;
  ChannelWay channel = ChannelWay::kAuto;
  LogTarget log = LogTarget::kAuto;
  int ready_fd = -1;
  bool take_over = false;
  char* root_storage_name = nullptr;  // argv[0]; nullptr: not for root storage
};

// 0 when *options is good; else an exit code + 1, and what was to be said has
// been printed.
int ParseOptions(int argc, char** argv, Options* options);

}  // namespace dmu

#endif  // DAEMON_OPTIONS_H_
