// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/root_storage.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

namespace {

// As deep as a turn of the loop gets, and more.
constexpr size_t kStackBytes = 256 * 1024;

// The stack grows by faults, which locking does not take ahead.
__attribute__((noinline)) void TouchStack() {
  volatile char stack[kStackBytes];
  for (size_t i = 0; i < sizeof(stack); i += 4096) stack[i] = 0;
}

bool SparedByOom() {
  const UniqueFd fd(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  constexpr char kNever[] = "-1000";
  return fd.valid() && write(fd.get(), kNever, strlen(kNever)) > 0;
}

}  // namespace

bool EnterRootStorage(char* name) {
  name[0] = '@';
  // What is freed stays: to give it back and to take it again is a fault.
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_MMAP_MAX, 0);
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
    Log(LogLevel::kError,
        "cannot lock memory for root storage: %s; run as root, with "
        "LimitMEMLOCK=infinity under systemd",
        strerror(errno));
    return false;
  }
  TouchStack();
  if (unshare(CLONE_NEWNS) != 0 ||
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    Log(LogLevel::kError,
        "cannot have file systems of its own for root storage: %s; run as root",
        strerror(errno));
    return false;
  }
  if (!SparedByOom()) {
    Log(LogLevel::kWarning, "cannot ask to be spared when memory is short: %s",
        strerror(errno));
  }
  return true;
}

}  // namespace dmu
