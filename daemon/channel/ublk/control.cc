// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/ublk/control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"

namespace dmu::ublk {

namespace {

// What the child keeps open beside standard input, output and error.
constexpr int kResultFd = 3;

// Longest that a plan may take before its child is ended: partitions are read
// through the daemon, and a device whose tags were all given out when its
// daemon died comes free by the block layer's timeout of 30 s.
constexpr unsigned kPlanSecondsMax = 90;

[[noreturn]] void RunChild(const ControlPlan& plan, pid_t server, int result) {
  // Both so that nothing of a dead daemon lives on in its children.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != server) _exit(1);
  if (result != kResultFd && dup2(result, kResultFd) < 0) _exit(1);
  close_range(kResultFd + 1, ~0U, 0);
  signal(SIGALRM, SIG_DFL);
  alarm(kPlanSecondsMax);
  const ControlResult out = RunPlan(plan, server);
  const ssize_t put = write(kResultFd, &out, sizeof(out));
  _exit(put == sizeof(out) ? 0 : 1);
}

const char* CommandName(uint32_t command) {
  switch (command) {
    case kGetDeviceInfo:
      return "GET_DEV_INFO";
    case kAddDevice:
      return "ADD_DEV";
    case kDeleteDevice:
      return "DEL_DEV";
    case kStartDevice:
      return "START_DEV";
    case kStopDevice:
      return "STOP_DEV";
    case kSetParams:
      return "SET_PARAMS";
    case kGetParams:
      return "GET_PARAMS";
    case kStartRecovery:
      return "START_USER_RECOVERY";
    case kEndRecovery:
      return "END_USER_RECOVERY";
    default:
      return "a command";
  }
}

}  // namespace

int OpenProcess(pid_t process) {
  return static_cast<int>(syscall(SYS_pidfd_open, process, 0));
}

absl::Status ControlResult::ToStatus() const {
  switch (outcome) {
    case Outcome::kDone:
      return absl::OkStatus();
    case Outcome::kNoDriver:
      if (error == EACCES || error == EPERM) {
        return absl::PermissionDeniedError(
            absl::StrCat(kControlPath, ": not permitted; run dmuserd as root"));
      }
      return absl::UnavailableError(absl::StrCat(
          kControlPath, ": ", strerror(error),
          "; load the driver with 'modprobe ublk_drv', or use a kernel that "
          "has it"));
    case Outcome::kTooOld:
      return absl::UnavailableError(
          "this kernel's ublk driver has no user copy or no user recovery; "
          "Linux 6.5 and later have both");
    case Outcome::kNotFound:
      return absl::UnavailableError("its ublk device is gone");
    case Outcome::kOther:
      return absl::FailedPreconditionError(absl::StrCat(
          kBlockPrefix, device, ": has ", device_sectors, " sectors and ",
          depth,
          " tags, which is not what is to be shown; unmap the device and map "
          "it again"));
    case Outcome::kBusy:
      return absl::AbortedError(
          absl::StrCat(kCharPrefix, device,
                       ": the daemon that served it has not let go of it (",
                       strerror(error), "); restart dmuserd to try again"));
    case Outcome::kFailed:
      break;
    case Outcome::kDied:
      return absl::InternalError(
          "ublk: the process that talks to the driver ended without a result");
  }
  const std::string text =
      absl::StrCat("ublk: ", CommandName(command), ": ", strerror(error));
  if (error == EPERM || error == EACCES) {
    return absl::PermissionDeniedError(
        absl::StrCat(text, "; dmuserd needs CAP_SYS_ADMIN for it"));
  }
  return absl::InternalError(text);
}

ControlJob::ControlJob(Loop* loop) : loop_(loop) {
  watch_.ready = OnEnd;
  watch_.context = this;
  watch_.events = EPOLLIN;
}

ControlJob::~ControlJob() {
  if (child_ < 0) return;
  loop_->Unwatch(&watch_);
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
}

void ControlJob::Begin(const ControlPlan& plan, Task* done) {
  DMU_CHECK(done_ == nullptr);
  done_ = done;
  result_ = {};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    GiveUp(errno);
    return;
  }
  pipe_.reset(ends[0]);
  const UniqueFd child_end(ends[1]);
  const pid_t self = getpid();
  child_ = fork();
  if (child_ == 0) RunChild(plan, self, child_end.get());
  if (child_ < 0) {
    GiveUp(errno);
    return;
  }
  child_fd_.reset(OpenProcess(child_));
  watch_.fd = child_fd_.get();
  int error = child_fd_.valid() ? 0 : errno;
  if (error == 0) error = loop_->AddWatch(&watch_);
  if (error == 0) return;
  kill(child_, SIGKILL);
  waitpid(std::exchange(child_, -1), nullptr, 0);
  GiveUp(error);
}

void ControlJob::GiveUp(int error) {
  result_.outcome = ControlResult::Outcome::kFailed;
  result_.error = error;
  loop_->Post(std::exchange(done_, nullptr));
}

void ControlJob::OnEnd(void* context, uint32_t) {
  static_cast<ControlJob*>(context)->Reap();
}

void ControlJob::Reap() {
  loop_->Unwatch(&watch_);
  waitpid(std::exchange(child_, -1), nullptr, 0);
  child_fd_.reset();
  // The child has ended, so the result is there as a whole or never comes.
  ControlResult result;
  const ssize_t got = read(pipe_.get(), &result, sizeof(result));
  if (got == static_cast<ssize_t>(sizeof(result))) result_ = result;
  pipe_.reset();
  loop_->Post(std::exchange(done_, nullptr));
}

}  // namespace dmu::ublk
