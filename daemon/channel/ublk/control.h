// SPDX-License-Identifier: Apache-2.0
//
// control.h - commands to /dev/ublk-control, in a child process.
//
// Most of them block, some until the daemon has answered requests of the very
// device (START_DEV reads the partition table, STOP_DEV waits for what is in
// flight). Sent from the daemon's own ring the kernel would run them in a
// worker thread of the daemon that is never taken back and wakes up every five
// seconds. So each plan runs in a short-lived child with a ring of its own; the
// daemon stays one thread and an idle one stays asleep.
//
// The child has no file of the daemon's but a pipe, sends its result through
// it, and dies with the daemon.
#ifndef DAEMON_CHANNEL_UBLK_CONTROL_H_
#define DAEMON_CHANNEL_UBLK_CONTROL_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "daemon/channel/ublk/abi.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu::ublk {

struct ControlPlan {
  enum class Kind : uint8_t {
    kCreate,        // add a device, set its parameters
    kStart,         // make its block device; all tags are fetched
    kFind,          // find the device of `mark`, begin its recovery
    kEndRecovery,   // requests go on; all tags are fetched
    kStop,          // the block device goes; what is in flight is answered
    kDeleteMarked,  // the device of `mark` goes, if there is one; who serves it
                    // has closed it
  };
  Kind kind = Kind::kCreate;
  uint32_t device = kAnyDevice;  // kStart, kEndRecovery, kStop
  uint64_t mark = 0;
  DeviceInfo info = {};  // kCreate
  Params params = {};    // kCreate; kFind: the device must have the same
};

struct ControlResult {
  enum class Outcome : uint8_t {
    kDone,
    kNoDriver,  // /dev/ublk-control cannot be opened
    kTooOld,    // the driver lacks a feature
    kNotFound,  // no device has the mark, or only one that never was started
    kOther,   // the device has another size or cannot be served by this daemon
    kBusy,    // the device did not come free from its former daemon
    kFailed,  // a command failed
    kDied,    // the child ended without a result
  };
  Outcome outcome = Outcome::kDied;
  int32_t error = 0;     // errno
  uint32_t command = 0;  // kFailed: the command
  uint32_t device = kAnyDevice;
  uint16_t depth = 0;         // tags of the device
  bool needs_keeper = false;  // keeper.h
  uint64_t device_sectors = 0;

  // kUnavailable: no driver, or no such device; kFailedPrecondition: kOther;
  // kAborted: kBusy; kPermissionDenied; kInternal.
  absl::Status ToStatus() const;
};

class ControlJob {
 public:
  explicit ControlJob(Loop* loop);
  ~ControlJob();
  ControlJob(const ControlJob&) = delete;
  ControlJob& operator=(const ControlJob&) = delete;

  // One plan at a time. `done` runs from a turn of the loop, then result() is
  // valid.
  void Begin(const ControlPlan& plan, Task* done);
  bool running() const { return done_ != nullptr; }
  const ControlResult& result() const { return result_; }

 private:
  static void OnEnd(void* context, uint32_t events);
  void Reap();
  // Begin could not even start the child.
  void GiveUp(int error);

  Loop* const loop_;
  Watch watch_;
  UniqueFd child_fd_;  // pidfd: readable when the child has ended
  UniqueFd pipe_;
  pid_t child_ = -1;
  Task* done_ = nullptr;
  ControlResult result_;
};

// A file that is readable when the process has ended; -1 with errno. The C
// library of Debian 12 declares pidfd_open for C only.
int OpenProcess(pid_t process);

// Carries the plan out, in this process, and may block. For the child.
ControlResult RunPlan(const ControlPlan& plan, pid_t server);

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_CONTROL_H_
