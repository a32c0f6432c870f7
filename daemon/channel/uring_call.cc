// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/uring_call.h"

#include <string.h>
#include <sys/ioctl.h>

#include <utility>

#include "daemon/base/check.h"

namespace dmu {

UringCall::UringCall(Ring* ring, const dm_user_channel& mode)
    : ring_(ring), mode_(mode) {
  prepare = OnPrepare;
  issued = OnIssued;
  done = OnDone;
}

UringCall::~UringCall() {
  DMU_CHECK(state_ == State::kIdle);
  ring_->FreePlace();
}

void UringCall::Begin(int fd, uint8_t* requests, uint32_t requests_bytes,
                      User* user) {
  DMU_CHECK(state_ == State::kIdle);
  state_ = State::kBegun;
  fd_ = fd;
  user_ = user;
  batch_ = {};
  batch_.requests = reinterpret_cast<uintptr_t>(requests);
  batch_.requests_bytes = requests_bytes;
  batch_.timeout_ms = UINT32_MAX;
  ring_->SubmitLast(this);
}

void UringCall::Cancel() {
  if (state_ == State::kIdle) return;
  dm_user_channel stopped = mode_;
  stopped.flags |= DM_USER_CHANNEL_STOPPED;
  // Fails where the target is gone, and then the call has ended with it.
  ioctl(fd_, DM_USER_IOC_SET_CHANNEL, &stopped);
}

void UringCall::OnPrepare(RingOp* op, io_uring_sqe* entry) {
  auto* self = static_cast<UringCall*>(op);
  const int count = self->user_->Gather(self->parts_, kPartsMax);
  dm_user_batch& batch = self->batch_;
  if (count == 1) {
    batch.replies = reinterpret_cast<uintptr_t>(self->parts_[0].iov_base);
  } else {
    batch.replies = reinterpret_cast<uintptr_t>(self->parts_);
    batch.segments = static_cast<uint32_t>(count);
  }
  batch.replies_bytes = 0;
  for (int i = 0; i < count; ++i) {
    batch.replies_bytes += static_cast<uint32_t>(self->parts_[i].iov_len);
  }
  self->state_ = State::kMade;
  entry->opcode = IORING_OP_URING_CMD;
  entry->fd = self->fd_;
  entry->cmd_op = DM_USER_IOC_BATCH;
  dm_user_uring payload = {};
  payload.batch = reinterpret_cast<uintptr_t>(&batch);
  memcpy(entry->cmd, &payload, sizeof(payload));
}

void UringCall::OnIssued(RingOp* op) {
  auto* self = static_cast<UringCall*>(op);
  self->state_ = State::kWaiting;
  self->user_->OnTaken(self->batch_.taken_bytes);
}

void UringCall::OnDone(RingOp* op, int32_t result) {
  auto* self = static_cast<UringCall*>(op);
  self->state_ = State::kIdle;
  self->user_->OnGiven(result);
}

}  // namespace dmu
