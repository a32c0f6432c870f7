// SPDX-License-Identifier: Apache-2.0
//
// See uring.h.
#include "test/vm/uring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include <chrono>

namespace dmu {

UringBatch::UringBatch(uint32_t buffer_bytes, uint32_t timeout_ms)
    : requests(buffer_bytes) {
  batch.requests = reinterpret_cast<uintptr_t>(requests.data());
  batch.requests_bytes = buffer_bytes;
  batch.timeout_ms = timeout_ms;
}

Uring::Uring(unsigned setup_flags)
    : ready_(io_uring_queue_init(8, &ring_, setup_flags) == 0) {}

Uring::~Uring() { Close(); }

void Uring::Close() {
  if (ready_) io_uring_queue_exit(&ring_);
  ready_ = false;
}

bool Uring::Submit(int fd, UringBatch* command) {
  io_uring_sqe* entry = ready_ ? io_uring_get_sqe(&ring_) : nullptr;
  if (entry == nullptr) return false;
  if (!command->replies.empty()) {
    command->batch.replies =
        reinterpret_cast<uintptr_t>(command->replies.data());
    command->batch.replies_bytes =
        static_cast<uint32_t>(command->replies.size());
  }
  memset(entry, 0, sizeof(*entry));
  entry->opcode = IORING_OP_URING_CMD;
  entry->flags = command->entry_flags;
  entry->fd = fd;
  entry->cmd_op = command->cmd_op;
  dm_user_uring payload = {};
  payload.batch = command->batch_address != 0
                      ? command->batch_address
                      : reinterpret_cast<uintptr_t>(&command->batch);
  payload.reserved = command->reserved;
  memcpy(entry->cmd, &payload, sizeof(payload));
  io_uring_sqe_set_data(entry, command);
  // Where a thread of the kernel's submits, it may have done so already.
  const int submitted = io_uring_submit(&ring_);
  return (ring_.flags & IORING_SETUP_SQPOLL) != 0 ? submitted >= 0
                                                  : submitted == 1;
}

void Uring::Reap(int timeout_ms) {
  io_uring_cqe* completion = nullptr;
  if (timeout_ms > 0) {
    __kernel_timespec time = {timeout_ms / 1000, timeout_ms % 1000 * 1000000LL};
    io_uring_wait_cqe_timeout(&ring_, &completion, &time);
  } else {
    // Runs what the kernel has put in for this task, too.
    io_uring_get_events(&ring_);
  }
  while (io_uring_peek_cqe(&ring_, &completion) == 0) {
    auto* command = static_cast<UringBatch*>(io_uring_cqe_get_data(completion));
    if (command != nullptr) results_[command] = completion->res;
    io_uring_cqe_seen(&ring_, completion);
  }
}

int Uring::Await(UringBatch* command, int timeout_ms) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!IsDone(command)) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - Clock::now());
    if (left.count() <= 0) return -ETIME;
    Reap(static_cast<int>(left.count()) + 1);
  }
  const int result = results_[command];
  results_.erase(command);
  return result;
}

bool UringParks() {
  utsname name = {};
  int major = 0, minor = 0;
  uname(&name);
  sscanf(name.release, "%d.%d", &major, &minor);
  return major > 6 || (major == 6 && minor >= 8);
}

}  // namespace dmu
