// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/ring.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "daemon/base/check.h"

namespace dmu {
namespace {

// Before the kernel is asked again that had no memory for a request.
constexpr uint64_t kRetryUs = 1000;

// Threads of the kernel's that may each be held up by one operation which has
// no other way; so many disks may be stuck before one that is not has to wait.
constexpr unsigned kWorkersMax = 64;

}  // namespace

void Ring::OpQueue::Push(RingOp* op) {
  op->next = nullptr;
  (tail != nullptr ? tail->next : head) = op;
  tail = op;
  ++count;
}

RingOp* Ring::OpQueue::Pop() {
  RingOp* op = head;
  if (op == nullptr) return nullptr;
  head = op->next;
  if (head == nullptr) tail = nullptr;
  op->next = nullptr;
  --count;
  return op;
}

std::unique_ptr<Ring> Ring::Create(const Options& options, Loop* loop) {
  std::unique_ptr<Ring> ring(new Ring(options, loop));
  if (ring->Init()) return ring;
  const int error = errno;
  ring.reset();
  errno = error;
  return nullptr;
}

Ring::Ring(const Options& options, Loop* loop)
    : options_(options),
      loop_(loop),
      interrupted_(OnInterrupted, this),
      end_of_turn_(OnEndOfTurn, this),
      retry_(OnRetry, this) {
  watch_.ready = OnReadable;
  watch_.context = this;
  watch_.events = EPOLLIN;
}

bool Ring::Init() {
  io_uring_params params = {};
  // Not with DEFER_TASKRUN, which would save a turn of the loop: on some
  // kernels (6.18 is one) a file that is polled is then not woken.
  params.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
                 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
  if (options_.big_entries) params.flags |= IORING_SETUP_SQE128;
  params.cq_entries = options_.under_way_max;
  int result = io_uring_queue_init_params(options_.entries, &ring_, &params);
  if (result < 0) {
    errno = -result;
    return false;
  }
  ring_ready_ = true;
  unsigned workers[2] = {kWorkersMax, kWorkersMax};
  result = io_uring_register_iowq_max_workers(&ring_, workers);
  if (result < 0) {
    errno = -result;
    return false;
  }
  watch_.fd = ring_.ring_fd;
  errno = loop_->AddWatch(&watch_);
  watching_ = errno == 0;
  if (watching_) loop_->OnInterrupt(&interrupted_);
  return watching_;
}

Ring::~Ring() {
  DMU_CHECK(under_way() == 0);
  loop_->Cancel(&interrupted_);
  loop_->Cancel(&end_of_turn_);
  loop_->Disarm(&retry_);
  if (watching_) loop_->Unwatch(&watch_);
  if (ring_ready_) io_uring_queue_exit(&ring_);
}

void Ring::Submit(RingOp* op) {
  if (waiting_.head == nullptr && HasRoom()) {
    Prepare(op);
  } else {
    waiting_.Push(op);
  }
}

void Ring::SubmitLast(RingOp* op) {
  last_.Push(op);
  loop_->PostLast(&end_of_turn_);
}

bool Ring::ReservePlace() {
  if (places_ >= options_.under_way_max / 2) return false;
  ++places_;
  return true;
}

bool Ring::HasRoom() const {
  return under_way_ < options_.under_way_max &&
         io_uring_sq_space_left(&ring_) > 0;
}

void Ring::Prepare(RingOp* op) {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  DMU_CHECK(entry != nullptr);
  memset(entry, 0, options_.big_entries ? 128 : 64);
  op->prepare(op, entry);
  io_uring_sqe_set_data(entry, op);
  prepared_.Push(op);
  ++under_way_;
  loop_->PostLast(&end_of_turn_);
}

void Ring::PrepareWaiting() {
  while (waiting_.head != nullptr && HasRoom()) Prepare(waiting_.Pop());
}

void Ring::OnReadable(void* context, uint32_t) {
  auto* self = static_cast<Ring*>(context);
  self->Reap();
  self->PrepareWaiting();
}

// What was completed is seen without one more call, which would say that the
// ring is readable.
void Ring::OnInterrupted(void* context) { OnReadable(context, 0); }

void Ring::OnRetry(void* context) {
  auto* self = static_cast<Ring*>(context);
  self->loop_->PostLast(&self->end_of_turn_);
}

void Ring::OnEndOfTurn(void* context) {
  auto* self = static_cast<Ring*>(context);
  while (RingOp* op = self->last_.Pop()) self->Submit(op);
  self->Enter();
  self->Reap();  // what was done at once
  self->PrepareWaiting();
}

void Ring::Enter() {
  if (io_uring_sq_ready(&ring_) == 0) return;
  const int result = io_uring_submit(&ring_);
  if (result == -EINTR) {
    loop_->PostLast(&end_of_turn_);
    return;
  }
  DMU_CHECK(result >= 0 || result == -EAGAIN || result == -EBUSY ||
            result == -ENOMEM);
  for (int left = result; left > 0; --left) {
    RingOp* op = prepared_.Pop();
    if (op->issued != nullptr) op->issued(op);
  }
  if (result < 0 || io_uring_sq_ready(&ring_) > 0) {
    loop_->Arm(&retry_, kRetryUs);
  }
}

void Ring::Reap() {
  // Not those that come meanwhile: who submits again from `done` must not keep
  // the loop.
  for (unsigned left = io_uring_cq_ready(&ring_); left > 0; --left) {
    io_uring_cqe* completion = nullptr;
    if (io_uring_peek_cqe(&ring_, &completion) != 0) return;
    auto* op = static_cast<RingOp*>(io_uring_cqe_get_data(completion));
    const int32_t result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    --under_way_;
    op->done(op, result);
  }
}

}  // namespace dmu
