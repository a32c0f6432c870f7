// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/ublk/io_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "daemon/base/check.h"
#include "daemon/channel/ublk/abi.h"

namespace dmu::ublk {

int IoRing::Open(uint32_t commands) {
  io_uring_params params = {};
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
  const int result = io_uring_queue_init_params(commands, &ring_, &params);
  if (result < 0) return -result;
  open_ = true;
  prepared_ = 0;
  // A child process must not keep the ring, and with it the device, open.
  int error = io_uring_ring_dontfork(&ring_);
  if (error == 0) {
    event_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    error = event_fd_.valid()
                ? io_uring_register_eventfd(&ring_, event_fd_.get())
                : -errno;
  }
  if (error < 0) Close();
  return -error;
}

void IoRing::Close() {
  event_fd_.reset();
  if (!open_) return;
  io_uring_queue_exit(&ring_);
  open_ = false;
}

void IoRing::Prepare(int device_fd, uint32_t command, uint16_t tag,
                     int32_t result) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  DMU_CHECK(sqe != nullptr);
  io_uring_prep_rw(IORING_OP_URING_CMD, sqe, device_fd, nullptr, 0, 0);
  sqe->cmd_op = command;
  io_uring_sqe_set_data64(sqe, tag);
  const IoCommand payload = {0, tag, result, 0};
  memcpy(sqe->cmd, &payload, sizeof(payload));
  ++prepared_;
}

int IoRing::Submit(bool fetch) {
  if (fetch) io_uring_cq_eventfd_toggle(&ring_, false);
  int count = 0;
  do {
    count = fetch ? io_uring_submit_and_get_events(&ring_)
                  : io_uring_submit(&ring_);
  } while (count == -EINTR);
  if (fetch) io_uring_cq_eventfd_toggle(&ring_, true);
  if (count < 0) return -count;
  DMU_CHECK(static_cast<uint32_t>(count) <= prepared_);
  prepared_ -= static_cast<uint32_t>(count);
  return prepared_ == 0 ? 0 : EAGAIN;
}

bool IoRing::Next(uint64_t* tag, int32_t* result) {
  io_uring_cqe* cqe = nullptr;
  unsigned head = 0;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    *tag = cqe->user_data;
    *result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    return true;
  }
  return false;
}

}  // namespace dmu::ublk
