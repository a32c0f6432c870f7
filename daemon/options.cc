// SPDX-License-Identifier: Apache-2.0
//
// options.cc - see options.h.
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"

namespace dmu {
namespace {

// Below two buffers a long write and a read could not go on together.
constexpr uint64_t kMemoryBytesMin = 2 * BufferPool::kBufferBytes;
constexpr uint64_t kMemoryBytesMax = uint64_t{1} << 30;

void PrintUsage(FILE* to) {
  fprintf(
      to,
      "Usage: dmuserd [--control PATH] [--state-dir DIR] [--memory KIB] "
      "[--log WHERE] [--ready-fd N]\n"
      "\n"
      "Serves dm-user and ublk devices. Stays in the foreground and logs to "
      "standard "
      "error;\n"
      "dmuserctl tells it what to serve.\n"
      "\n"
      "  --control PATH   socket dmuserctl talks to (%s);\n"
      "                   systemd's own, when it passes one of that path\n"
      "  --state-dir DIR  what to serve after a restart (DIR of the socket "
      "+ /state)\n"
      "  --memory KIB     payload buffers, taken from the system as they "
      "are used (%llu)\n"
      "  --io HOW         uring: no disk holds up another; sync: plain system "
      "calls;\n"
      "                   auto: uring where the kernel has it (auto)\n"
      "  --channel WAY    how dm-user's requests come. uring: by a command of "
      "an "
      "io_uring\n"
      "                   that takes answers along (Linux 6.8); batch: many in "
      "a "
      "read or\n"
      "                   write; stream: one at a time, Android's way; auto: "
      "the "
      "cheapest\n"
      "                   for the device that there is (auto)\n"
      "  --merge-rate KIB all merges together write so much in a second (no "
      "limit)\n"
      "  --merge-pressure PERCENT\n"
      "                   hold merges while others wait for I/O or memory more "
      "of the\n"
      "                   time than this (never)\n"
      "  --merges N       merges that go on at once, the others in turn (%u)\n"
      "  --look-group GROUP, --merge-group GROUP, --serve-group GROUP\n"
      "                   who besides root may ask for status, control merges, "
      "do all\n"
      "  --android-socket PATH\n"
      "                   also take the commands of Android's snapuserd, on "
      "this socket;\n"
      "                   init's own, when it passes one of that name\n"
      "  --take-over      have the daemon that owns the control socket leave "
      "its "
      "devices\n"
      "                   to this one\n"
      "  --log WHERE      auto, stderr, prefix (stderr with <priority>), "
      "journal or\n"
      "                   kmsg, the kernel's log (auto: the journal when "
      "stderr "
      "is it)\n"
      "  --root-storage   the root file system is on these devices: lock all "
      "memory, keep\n"
      "                   the mounts of now, be spared by systemd's and the "
      "kernel's kills\n"
      "  --ready-fd N     write a newline to this open file once requests "
      "are served\n"
      "  --version        print the version and exit\n"
      "  --help           print this and exit\n"
      "\n"
      "Started at nice 0 it goes to -5, where it may, and back while it "
      "merges; "
      "at\n"
      "another it stays there.\n"
      "\n"
      "Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failure, 2 usage, 5 "
      "another\n"
      "dmuserd owns the control socket.\n",
      kDefaultControlPath,
      static_cast<unsigned long long>(kMemoryBytesDefault / 1024),
      kMergesDefault);
}

// Reads optarg.
bool ParseNumber(const char* name, uint64_t min, uint64_t max,
                 uint64_t* value) {
  char* end = nullptr;
  errno = 0;
  *value = strtoull(optarg, &end, 10);
  if (errno == 0 && *end == '\0' && end != optarg && optarg[0] != '-' &&
      *value >= min && *value <= max) {
    return true;
  }
  fprintf(stderr, "dmuserd: %s %s: expected a number from %llu to %llu\n", name,
          optarg, static_cast<unsigned long long>(min),
          static_cast<unsigned long long>(max));
  return false;
}

// Reads optarg: a number or a line of /etc/group. That file alone: a static
// daemon has no other source, and none may be down when it starts.
bool ParseGroup(const char* name, gid_t* group) {
  char* end = nullptr;
  errno = 0;
  const unsigned long number = strtoul(optarg, &end, 10);
  if (errno == 0 && *end == '\0' && end != optarg && optarg[0] != '-' &&
      number < RoleGroups::kNobody) {
    *group = static_cast<gid_t>(number);
    return true;
  }
  std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/etc/group", "re"), fclose);
  const size_t length = strlen(optarg);
  char line[4096];
  while (file != nullptr && fgets(line, sizeof(line), file.get()) != nullptr) {
    if (strncmp(line, optarg, length) != 0 || line[length] != ':') continue;
    const char* number_at = strchr(line + length + 1, ':');
    if (number_at == nullptr) continue;
    *group = static_cast<gid_t>(strtoul(number_at + 1, nullptr, 10));
    return true;
  }
  fprintf(stderr,
          "dmuserd: %s %s: expected a group of /etc/group, or its number\n",
          name, optarg);
  return false;
}

// Reads optarg.
bool ParseLog(LogTarget* target) {
  static constexpr struct {
    const char* name;
    LogTarget target;
  } kTargets[] = {{"auto", LogTarget::kAuto},
                  {"stderr", LogTarget::kStderr},
                  {"prefix", LogTarget::kPrefix},
                  {"journal", LogTarget::kJournal},
                  {"kmsg", LogTarget::kKmsg}};
  for (const auto& known : kTargets) {
    if (strcmp(optarg, known.name) != 0) continue;
    *target = known.target;
    return true;
  }
  fprintf(stderr,
          "dmuserd: --log %s: expected auto, stderr, prefix, journal or kmsg\n",
          optarg);
  return false;
}

}  // namespace

int ParseOptions(int argc, char** argv, Options* options) {
  enum {
    kControl = 1,
    kStateDir,
    kMemory,
    kIo,
    kChannel,
    kMergeRate,
    kMergePressure,
    kMerges,
    kLookGroup,
    kMergeGroup,
    kServeGroup,
    kAndroidSocket,
    kTakeOver,
    kRootStorage,
    kLog,
    kReadyFd,
    kVersionOption,
    kHelp
  };
  static const option kLong[] = {
      {"control", required_argument, nullptr, kControl},
      {"state-dir", required_argument, nullptr, kStateDir},
      {"memory", required_argument, nullptr, kMemory},
      {"io", required_argument, nullptr, kIo},
      {"channel", required_argument, nullptr, kChannel},
      {"merge-rate", required_argument, nullptr, kMergeRate},
      {"merge-pressure", required_argument, nullptr, kMergePressure},
      {"merges", required_argument, nullptr, kMerges},
      {"look-group", required_argument, nullptr, kLookGroup},
      {"merge-group", required_argument, nullptr, kMergeGroup},
      {"serve-group", required_argument, nullptr, kServeGroup},
      {"android-socket", required_argument, nullptr, kAndroidSocket},
      {"take-over", no_argument, nullptr, kTakeOver},
      {"root-storage", no_argument, nullptr, kRootStorage},
      {"log", required_argument, nullptr, kLog},
      {"ready-fd", required_argument, nullptr, kReadyFd},
      {"version", no_argument, nullptr, kVersionOption},
      {"help", no_argument, nullptr, kHelp},
      {}};
  int choice = 0;
  while ((choice = getopt_long(argc, argv, "", kLong, nullptr)) != -1) {
    switch (choice) {
      case kControl:
        options->control_path = optarg;
        break;
      case kStateDir:
        options->state_directory = optarg;
        break;
      case kMemory: {
        uint64_t kib = 0;
        if (!ParseNumber("--memory", kMemoryBytesMin / 1024,
                         kMemoryBytesMax / 1024, &kib)) {
          return kExitUsage + 1;
        }
        options->memory_bytes = kib * 1024;
        break;
      }
      case kIo:
        if (strcmp(optarg, "auto") == 0) {
          options->io = Options::Io::kAuto;
        } else if (strcmp(optarg, "uring") == 0) {
          options->io = Options::Io::kUring;
        } else if (strcmp(optarg, "sync") == 0) {
          options->io = Options::Io::kSync;
        } else {
          fprintf(stderr, "dmuserd: --io %s: expected auto, uring or sync\n",
                  optarg);
          return kExitUsage + 1;
        }
        break;
      case kChannel: {
        const auto way = ParseChannelWay(optarg);
        if (!way.has_value()) {
          fprintf(stderr,
                  "dmuserd: --channel %s: expected auto, uring, batch or "
                  "stream\n",
                  optarg);
          return kExitUsage + 1;
        }
        options->channel = *way;
        break;
      }
      case kMergeRate: {
        uint64_t kib = 0;
        if (!ParseNumber("--merge-rate", 0, UINT32_MAX, &kib)) {
          return kExitUsage + 1;
        }
        options->limits.rate_bytes_per_s = kib * 1024;
        break;
      }
      case kMergePressure: {
        uint64_t percent = 0;
        if (!ParseNumber("--merge-pressure", 0, 100, &percent)) {
          return kExitUsage + 1;
        }
        options->limits.pressure_percent = static_cast<uint32_t>(percent);
        break;
      }
      case kMerges: {
        uint64_t merges = 0;
        if (!ParseNumber("--merges", 1, kMergesMax, &merges)) {
          return kExitUsage + 1;
        }
        options->limits.active_max = static_cast<uint32_t>(merges);
        break;
      }
      case kLookGroup:
        if (!ParseGroup("--look-group", &options->roles.look)) {
          return kExitUsage + 1;
        }
        break;
      case kMergeGroup:
        if (!ParseGroup("--merge-group", &options->roles.merge)) {
          return kExitUsage + 1;
        }
        break;
      case kServeGroup:
        if (!ParseGroup("--serve-group", &options->roles.serve)) {
          return kExitUsage + 1;
        }
        break;
      case kAndroidSocket:
        options->android_socket_path = optarg;
        break;
      case kTakeOver:
        options->take_over = true;
        break;
      case kRootStorage:
        options->root_storage_name = argv[0];
        break;
      case kLog:
        if (!ParseLog(&options->log)) return kExitUsage + 1;
        break;
      case kReadyFd: {
        uint64_t fd = 0;
        if (!ParseNumber("--ready-fd", 3, 1023, &fd)) return kExitUsage + 1;
        options->ready_fd = static_cast<int>(fd);
        break;
      }
      case kVersionOption:
        printf("dmuserd %s (control protocol %u)\n", kVersion, kControlVersion);
        return kExitOk + 1;
      case kHelp:
        PrintUsage(stdout);
        return kExitOk + 1;
      default:
        PrintUsage(stderr);
        return kExitUsage + 1;
    }
  }
  if (optind != argc) {
    fprintf(stderr, "dmuserd: unexpected argument '%s'\n", argv[optind]);
    return kExitUsage + 1;
  }
  if (options->state_directory.empty()) {
    const size_t slash = options->control_path.rfind('/');
    options->state_directory =
        slash == std::string::npos
            ? "state"
            : absl::StrCat(options->control_path.substr(0, slash), "/state");
  }
  return 0;
}

}  // namespace dmu
