// SPDX-License-Identifier: Apache-2.0
//
// keeper.h - keeps a ring open for a moment after its daemon has gone.
//
// ublk before Linux 6.15 (Debian's 6.12 too) frees a command that is about to
// carry a request to a process that ends just then, and the kernel crashes: a
// daemon that is killed under load takes the machine with it. The driver does
// that when the last file of the ring is closed. So a second process holds the
// ring until the daemon has ended, and kLingerMs longer: by then what was on
// its way has found nobody and gone back to the queue, and those who sent it
// wait. What is sent at the very end of that time can still meet the old bug;
// only a newer kernel mends that.
//
// The process shares the daemon's memory, runs a few system calls on a stack of
// its own and sleeps all its life. It costs a page here and a task in the
// kernel, and no wake-up. Drivers that tell of kFeatureQuiesce (Linux 6.16) are
// mended and get none.
#ifndef DAEMON_CHANNEL_UBLK_KEEPER_H_
#define DAEMON_CHANNEL_UBLK_KEEPER_H_

#include <sys/types.h>

#include "daemon/io/unique_fd.h"

namespace dmu::ublk {

class Keeper {
 public:
  static constexpr long kLingerMs = 50;

  Keeper() = default;
  // Lets it linger.
  ~Keeper() { Leave(); }
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // 0 or an errno value.
  int Begin(int ring_fd);
  // The daemon closes the ring: it lingers, then ends.
  void Leave();
  // The ring has no command any more: it ends at once.
  void Dismiss();

 private:
  struct Files {
    int ring;
    int read_end;
    pid_t daemon;
  };

  static int Run(void* context);
  void Reap(int flags);

  void* stack_ = nullptr;
  pid_t process_ = -1;
  UniqueFd write_fd_;
};

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_KEEPER_H_
