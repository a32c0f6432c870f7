// SPDX-License-Identifier: Apache-2.0
//
// control_plan.cc - the plans of control.h, as the child carries them out.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <memory>

#include "daemon/channel/ublk/control.h"
#include "daemon/channel/ublk/parameters.h"

namespace dmu::ublk {

namespace {

using Outcome = ControlResult::Outcome;

// How long the process that served a device may take to end after it let go.
constexpr int kFormerServerMsMax = 5000;
// The driver takes a dead server's requests back in the background and tells
// nobody when that is done.
constexpr int kQuietMsMax = 80000;
constexpr int kQuietStepMs = 2;

class Control {
 public:
  Control() = default;
  ~Control() {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // 0 or an errno value.
  int Open() {
    fd_.reset(open(kControlPath, O_RDWR | O_CLOEXEC));
    if (!fd_.valid()) return errno;
    const int result = io_uring_queue_init(1, &ring_, IORING_SETUP_SQE128);
    open_ = result == 0;
    return -result;
  }

  // Sends one command and waits for its end. 0 or an errno value.
  int Send(uint32_t command, uint32_t device, void* buffer = nullptr,
           uint16_t length_bytes = 0, uint64_t data = 0) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return EIO;
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd_.get(), nullptr, 0, 0);
    sqe->cmd_op = command;
    ControlCommand payload = {};
    payload.device = device;
    payload.queue = kNoQueue;
    payload.length_bytes = length_bytes;
    payload.address = reinterpret_cast<uintptr_t>(buffer);
    payload.data = data;
    memcpy(sqe->cmd, &payload, sizeof(payload));
    const int sent = io_uring_submit(&ring_);
    if (sent < 0) return -sent;
    io_uring_cqe* cqe = nullptr;
    int waited = 0;
    do {
      waited = io_uring_wait_cqe(&ring_, &cqe);
    } while (waited == -EINTR);
    if (waited < 0) return -waited;
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    return result < 0 ? -result : 0;
  }

 private:
  UniqueFd fd_;
  io_uring ring_ = {};
  bool open_ = false;
};

ControlResult Failed(uint32_t command, int error, ControlResult result = {}) {
  result.outcome = error == 0 ? Outcome::kDone : Outcome::kFailed;
  result.error = error;
  result.command = command;
  return result;
}

ControlResult Create(Control* control, const ControlPlan& plan) {
  ControlResult result;
  uint64_t features = 0;
  const uint64_t needed = plan.info.flags;
  // A driver without the command is older than user copy.
  if (control->Send(kGetFeatures, kAnyDevice, &features, sizeof(features)) !=
          0 ||
      (features & needed) != needed) {
    result.outcome = Outcome::kTooOld;
    return result;
  }
  result.needs_keeper = (features & kFeatureQuiesce) == 0;
  DeviceInfo info = plan.info;
  int error = control->Send(kAddDevice, kAnyDevice, &info, sizeof(info));
  if (error != 0) return Failed(kAddDevice, error);
  result.device = info.device;
  result.depth = info.depth;
  Params params = plan.params;
  error = control->Send(kSetParams, info.device, &params, kParamsBytes);
  if (error != 0) control->Send(kDeleteDevice, info.device);
  return Failed(kSetParams, error, result);
}

// The device that carries the mark; false when there is none. Looks at devices
// of other servers too, without touching them.
bool FindMarked(Control* control, uint64_t mark, DeviceInfo* info) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/dev"), closedir);
  if (dir == nullptr) return false;
  const char* prefix = strrchr(kCharPrefix, '/') + 1;
  const size_t prefix_length = strlen(prefix);
  while (const dirent* entry = readdir(dir.get())) {
    if (strncmp(entry->d_name, prefix, prefix_length) != 0) continue;
    char* end = nullptr;
    const unsigned long number =
        strtoul(entry->d_name + prefix_length, &end, 10);
    if (*end != '\0' || end == entry->d_name + prefix_length) continue;
    const auto device = static_cast<uint32_t>(number);
    if (control->Send(kGetDeviceInfo, device, info, sizeof(*info)) == 0 &&
        info->server_flags == mark) {
      return true;
    }
  }
  return false;
}

// A device is only given to a new server when the thread that served it before
// is no more; a daemon that hands over lets go first and ends a little later.
void AwaitEnd(pid_t former, pid_t server) {
  if (former <= 0 || former == server) return;
  const UniqueFd fd(OpenProcess(former));
  if (!fd.valid()) return;
  pollfd wait = {fd.get(), POLLIN, 0};
  while (poll(&wait, 1, kFormerServerMsMax) < 0 && errno == EINTR) {
  }
}

ControlResult Find(Control* control, const ControlPlan& plan, pid_t server) {
  ControlResult result;
  DeviceInfo info = {};
  if (!FindMarked(control, plan.mark, &info)) {
    result.outcome = Outcome::kNotFound;
    return result;
  }
  uint64_t features = 0;
  result.needs_keeper = control->Send(kGetFeatures, kAnyDevice, &features,
                                      sizeof(features)) != 0 ||
                        (features & kFeatureQuiesce) == 0;
  result.device = info.device;
  result.depth = info.depth;
  if (info.state == kDead) {
    // Its daemon was killed between adding and starting it: nobody ever had
    // the block device.
    control->Send(kDeleteDevice, info.device);
    result.outcome = Outcome::kNotFound;
    return result;
  }
  Params params = {};
  params.length_bytes = kParamsBytes;
  int error = control->Send(kGetParams, info.device, &params, kParamsBytes);
  if (error != 0) return Failed(kGetParams, error, result);
  result.device_sectors = params.basic.device_sectors;
  if (params.basic.device_sectors != plan.params.basic.device_sectors ||
      params.basic.request_sectors_max >
          plan.params.basic.request_sectors_max ||
      info.queues != 1 || info.depth > kQueueDepth) {
    result.outcome = Outcome::kOther;
    return result;
  }
  AwaitEnd(info.server_pid, server);
  for (int waited_ms = 0;; waited_ms += kQuietStepMs) {
    error = control->Send(kStartRecovery, info.device);
    if (error != EBUSY) return Failed(kStartRecovery, error, result);
    if (waited_ms >= kQuietMsMax) break;
    const timespec step = {0, kQuietStepMs * 1000000};
    nanosleep(&step, nullptr);
  }
  result.outcome = Outcome::kBusy;
  result.error = EBUSY;
  return result;
}

ControlResult DeleteMarked(Control* control, const ControlPlan& plan) {
  DeviceInfo info = {};
  if (!FindMarked(control, plan.mark, &info)) {
    ControlResult result;
    result.outcome = Outcome::kDone;
    return result;
  }
  return Failed(kDeleteDevice, control->Send(kDeleteDevice, info.device));
}

}  // namespace

ControlResult RunPlan(const ControlPlan& plan, pid_t server) {
  Control control;
  const int error = control.Open();
  if (error != 0) {
    ControlResult result;
    result.outcome = Outcome::kNoDriver;
    result.error = error;
    return result;
  }
  const auto server_id = static_cast<uint64_t>(server);
  switch (plan.kind) {
    case ControlPlan::Kind::kCreate:
      return Create(&control, plan);
    case ControlPlan::Kind::kStart:
      return Failed(kStartDevice, control.Send(kStartDevice, plan.device,
                                               nullptr, 0, server_id));
    case ControlPlan::Kind::kFind:
      return Find(&control, plan, server);
    case ControlPlan::Kind::kEndRecovery:
      return Failed(kEndRecovery, control.Send(kEndRecovery, plan.device,
                                               nullptr, 0, server_id));
    case ControlPlan::Kind::kStop:
      return Failed(kStopDevice, control.Send(kStopDevice, plan.device));
    case ControlPlan::Kind::kDeleteMarked:
      return DeleteMarked(&control, plan);
  }
  return {};
}

}  // namespace dmu::ublk
