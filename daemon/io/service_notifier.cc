// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/service_notifier.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/log.h"

namespace dmu {
namespace {

// The watchdog is for this process only if WATCHDOG_PID says so, or is not set.
uint64_t WatchdogUs() {
  const char* us = getenv("WATCHDOG_USEC");
  const char* pid = getenv("WATCHDOG_PID");
  if (us == nullptr) return 0;
  if (pid != nullptr && strtoll(pid, nullptr, 10) != getpid()) return 0;
  return strtoull(us, nullptr, 10);
}

}  // namespace

ServiceNotifier::ServiceNotifier(Loop* loop)
    : loop_(loop), watchdog_(OnWatchdog, this) {
  const char* path = getenv("NOTIFY_SOCKET");
  if (path == nullptr || path[0] == '\0') return;
  path_ = path;
  if (path_.size() >= sizeof(sockaddr_un::sun_path)) path_.clear();
  if (!path_.empty() && path_[0] == '@') path_[0] = '\0';
  fd_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  watchdog_us_ = WatchdogUs() / 2;
}

ServiceNotifier::~ServiceNotifier() { loop_->Disarm(&watchdog_); }

void ServiceNotifier::Ready() {
  Send("READY=1");
  if (watchdog_us_ > 0 && !path_.empty()) loop_->Arm(&watchdog_, watchdog_us_);
}

void ServiceNotifier::Stopping() { Send("STOPPING=1"); }

void ServiceNotifier::OnWatchdog(void* context) {
  auto* self = static_cast<ServiceNotifier*>(context);
  self->Send("WATCHDOG=1");
  self->loop_->Arm(&self->watchdog_, self->watchdog_us_);
}

void ServiceNotifier::Send(const char* state) {
  if (path_.empty()) return;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path_.data(), path_.size());
  const auto bytes =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_.size());
  if (!fd_.valid() ||
      sendto(fd_.get(), state, strlen(state), MSG_NOSIGNAL,
             reinterpret_cast<const sockaddr*>(&address), bytes) < 0) {
    Log(LogLevel::kWarning, "cannot tell the service manager %s: %s", state,
        strerror(errno));
  }
}

}  // namespace dmu
