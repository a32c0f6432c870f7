// SPDX-License-Identifier: Apache-2.0
#include "test/fake_target.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "gtest/gtest.h"

namespace dmu {
namespace {

constexpr int kPatienceMs = 20'000;

FakeTarget* the_target = nullptr;

}  // namespace

FakeTarget::FakeTarget() { the_target = this; }
FakeTarget::~FakeTarget() { the_target = nullptr; }

UniqueFd FakeTarget::Open() {
  int fds[2];
  EXPECT_EQ(
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
      0);
  kernel_.reset(fds[0]);
  channel_fd_ = fds[1];
  closed_ = false;
  return UniqueFd(fds[1]);
}

uint64_t FakeTarget::Send(uint64_t type, uint64_t sector, uint64_t len,
                          uint64_t flags) {
  const dm_user_message header = {next_seq_++, type, flags, sector, len};
  EXPECT_EQ(write(kernel_.get(), &header, sizeof(header)),
            static_cast<ssize_t>(sizeof(header)));
  return header.seq;
}

const std::vector<dm_user_message>& FakeTarget::answers() {
  dm_user_message answer;
  ssize_t got;
  while ((got = read(kernel_.get(), &answer, sizeof(answer))) > 0) {
    EXPECT_EQ(got, static_cast<ssize_t>(sizeof(answer)));
    answers_.push_back(answer);
  }
  // The end, or its end with something unread.
  closed_ = closed_ || got == 0 || errno == ECONNRESET;
  return answers_;
}

bool FakeTarget::closed() {
  answers();
  return closed_;
}

int FakeTarget::Batch(int fd, dm_user_batch* batch) {
  ++calls;
  if (fd != channel_fd_) return EBADF;
  batch->taken_bytes = batch->given_bytes = 0;
  if (batch->replies_bytes > 0) {
    const size_t taken = std::min<size_t>(batch->replies_bytes, take_bytes);
    if (send(fd, reinterpret_cast<const void*>(batch->replies), taken,
             MSG_NOSIGNAL) != static_cast<ssize_t>(taken)) {
      return ENOTBLK;
    }
    batch->taken_bytes = static_cast<uint32_t>(taken);
    if (taken < batch->replies_bytes) return 0;
  }
  if (batch->requests_bytes == 0) return 0;
  if ((batch->flags & DM_USER_BATCH_WAKE) != 0) {
    ++sleeps;
    if (interrupts > 0) {
      --interrupts;
      return EINTR;
    }
    pollfd files[] = {{fd, POLLIN, 0}, {batch->wake_fd, POLLIN, 0}};
    if (poll(files, 2, kPatienceMs) == 0) {
      ADD_FAILURE() << "it sleeps, and nothing wakes it";
      return EINTR;
    }
  }
  const ssize_t got = recv(fd, reinterpret_cast<void*>(batch->requests),
                           batch->requests_bytes, 0);
  if (got == 0) return ENOTBLK;
  batch->given_bytes = got > 0 ? static_cast<uint32_t>(got) : 0;
  return 0;
}

}  // namespace dmu

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request != DM_USER_IOC_BATCH || dmu::the_target == nullptr) {
    return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  }
  const int error =
      dmu::the_target->Batch(fd, static_cast<dm_user_batch*>(argument));
  if (error != 0) errno = error;
  return error == 0 ? 0 : -1;
}
