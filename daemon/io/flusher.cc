// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/flusher.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "daemon/base/check.h"

namespace dmu {
namespace {

// Before the kernel is asked again that had no memory for a request.
constexpr uint64_t kRetryUs = 1000;

}  // namespace

void Flusher::List::Append(FlushOp* op) {
  op->next = nullptr;
  op->previous = tail;
  (tail != nullptr ? tail->next : head) = op;
  tail = op;
}

void Flusher::List::Remove(FlushOp* op) {
  (op->previous != nullptr ? op->previous->next : head) = op->next;
  (op->next != nullptr ? op->next->previous : tail) = op->previous;
  op->next = op->previous = nullptr;
}

std::unique_ptr<Flusher> Flusher::Create(Loop* loop) {
  UniqueFd event_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd.valid()) return nullptr;
  std::unique_ptr<Flusher> flusher(new Flusher(std::move(event_fd), loop));
  if (syscall(SYS_io_setup, kUnderWayMax, &flusher->context_) != 0) {
    flusher->context_ = 0;
    return nullptr;
  }
  const int error = loop->AddWatch(&flusher->watch_);
  flusher->watching_ = error == 0;
  if (error == 0) return flusher;
  flusher.reset();
  errno = error;
  return nullptr;
}

Flusher::Flusher(UniqueFd event_fd, Loop* loop)
    : event_fd_(std::move(event_fd)),
      loop_(loop),
      retry_(OnRetry, this),
      refused_task_(OnRefused, this) {
  watch_.ready = OnReadable;
  watch_.context = this;
  watch_.fd = event_fd_.get();
  watch_.events = EPOLLIN;
}

Flusher::~Flusher() {
  const int saved_errno = errno;
  loop_->Disarm(&retry_);
  loop_->Cancel(&refused_task_);
  if (watching_) loop_->Unwatch(&watch_);
  if (context_ != 0) syscall(SYS_io_destroy, context_);
  for (List* list : {&under_way_, &waiting_, &refused_}) {
    while (FlushOp* op = list->head) {
      list->Remove(op);
      op->done(op, ECANCELED);
    }
  }
  errno = saved_errno;
}

void Flusher::Submit(FlushOp* op) {
  if (waiting_.head == nullptr && Begin(op)) return;
  waiting_.Append(op);
}

// false when it has to wait.
bool Flusher::Begin(FlushOp* op) {
  if (under_way_count_ >= kUnderWayMax) return false;
  op->control = {};
  op->control.aio_data = reinterpret_cast<uintptr_t>(op);
  op->control.aio_lio_opcode = IOCB_CMD_FDSYNC;
  op->control.aio_fildes = static_cast<uint32_t>(op->fd);
  op->control.aio_flags = IOCB_FLAG_RESFD;
  op->control.aio_resfd = static_cast<uint32_t>(event_fd_.get());
  iocb* const one = &op->control;
  long begun = 0;
  do {
    begun = syscall(SYS_io_submit, context_, 1, &one);
  } while (begun < 0 && errno == EINTR);
  if (begun != 1 && errno == EAGAIN) {
    loop_->Arm(&retry_, kRetryUs);
    return false;
  }
  if (begun != 1) {
    // As fdatasync would: a file system that is only read has no such call.
    op->error = errno;
    refused_.Append(op);
    loop_->Post(&refused_task_);
    return true;
  }
  under_way_.Append(op);
  ++under_way_count_;
  return true;
}

void Flusher::BeginWaiting() {
  while (FlushOp* op = waiting_.head) {
    waiting_.Remove(op);
    if (Begin(op)) continue;
    // Back to the front: order among flushes is of no importance, so the end
    // would do as well, but the one that waited longest goes first.
    op->next = waiting_.head;
    (waiting_.head != nullptr ? waiting_.head->previous : waiting_.tail) = op;
    waiting_.head = op;
    return;
  }
}

void Flusher::OnRetry(void* context) {
  static_cast<Flusher*>(context)->BeginWaiting();
}

void Flusher::OnRefused(void* context) {
  auto* self = static_cast<Flusher*>(context);
  while (FlushOp* op = self->refused_.head) {
    self->refused_.Remove(op);
    op->done(op, op->error);
  }
}

void Flusher::OnReadable(void* context, uint32_t) {
  auto* self = static_cast<Flusher*>(context);
  uint64_t count = 0;
  // Taken back before the completions are: none comes unseen.
  const ssize_t got = read(self->event_fd_.get(), &count, sizeof(count));
  DMU_CHECK(got == sizeof(count) || errno == EAGAIN || errno == EINTR);
  self->Reap();
  self->BeginWaiting();
}

void Flusher::Reap() {
  constexpr long kEvents = 16;
  io_event events[kEvents];
  timespec none = {};
  long count = 0;
  do {
    count = syscall(SYS_io_getevents, context_, 0, kEvents, events, &none);
    for (long i = 0; i < count; ++i) {
      auto* op = reinterpret_cast<FlushOp*>(events[i].data);
      under_way_.Remove(op);
      --under_way_count_;
      op->done(op, static_cast<int>(-events[i].res));
    }
  } while (count == kEvents);
}

}  // namespace dmu
