// SPDX-License-Identifier: Apache-2.0
//
// service_notifier.h - tells a service manager how the daemon is, by the
// sd_notify protocol: datagrams to the socket that NOTIFY_SOCKET names. Without
// one, nothing happens.
//
// The watchdog is fed from the loop, at half the time that WATCHDOG_USEC gives:
// a loop that hangs feeds nothing. That is the only wake-up an idle daemon has,
// and only under a manager that asks for it.
#ifndef DAEMON_IO_SERVICE_NOTIFIER_H_
#define DAEMON_IO_SERVICE_NOTIFIER_H_

#include <cstdint>
#include <string>

#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class ServiceNotifier {
 public:
  // Reads the environment, once.
  explicit ServiceNotifier(Loop* loop);
  ~ServiceNotifier();
  ServiceNotifier(const ServiceNotifier&) = delete;
  ServiceNotifier& operator=(const ServiceNotifier&) = delete;

  // Requests are served; the watchdog begins.
  void Ready();
  void Stopping();

 private:
  static void OnWatchdog(void* context);
  void Send(const char* state);

  Loop* const loop_;
  std::string path_;  // a leading NUL for the abstract namespace
  UniqueFd fd_;
  uint64_t watchdog_us_ = 0;  // between two signs of life; 0: none
  Timer watchdog_;
};

}  // namespace dmu

#endif  // DAEMON_IO_SERVICE_NOTIFIER_H_
