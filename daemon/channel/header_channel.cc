// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/header_channel.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <utility>

#include "daemon/base/check.h"
#include "daemon/base/log.h"

namespace dmu {

HeaderChannel::HeaderChannel(UniqueFd fd, const Options& options, Loop* loop)
    : fd_(std::move(fd)),
      options_(options),
      loop_(loop),
      slots_(std::min(options.slots, kSlotsMax)),
      again_task_(OnAgain, this),
      flush_task_(OnFlush, this) {
  watch_.ready = OnReady;
  watch_.context = this;
  watch_.events = EPOLLIN;
}

HeaderChannel::~HeaderChannel() {
  DMU_CHECK(with_backend_ == 0 && CallIsOver());
  loop_->Cancel(&again_task_);
  loop_->Cancel(&flush_task_);
  LeaveSleep();
  if (watching_) loop_->Unwatch(&watch_);
}

void HeaderChannel::Start(RequestSink* sink) {
  DMU_CHECK(phase_ == Phase::kIdle);
  sink_ = sink;
  if (options_.call == nullptr) {
    watch_.fd = fd_.get();
    const int error = loop_->AddWatch(&watch_);
    if (error != 0) {
      sink_->OnStarted(absl::InternalError("cannot watch the channel"));
      return;
    }
    watching_ = true;
  }
  phase_ = Phase::kServing;
  Update();
  sink_->OnStarted(absl::OkStatus());
}

void HeaderChannel::Stop(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  const bool flushes = phase_ == Phase::kServing && CallIsOver();
  phase_ = Phase::kStopping;
  LeaveSleep();
  if (flushes) Exchange(Wants::kNothing);
  loop_->Cancel(&again_task_);
  if (std::exchange(watching_, false)) loop_->Unwatch(&watch_);
  if (!CallIsOver()) options_.call->Cancel();
  Settle();
}

void HeaderChannel::OnReady(void* context, uint32_t events) {
  auto* self = static_cast<HeaderChannel*>(context);
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    self->Close(RequestSink::CloseReason::kRemoved);
    return;
  }
  OnAgain(context);
}

// Without a call: an exchange brings what is there, and takes along what the
// requests of the one before were answered with.
void HeaderChannel::OnAgain(void* context) {
  auto* self = static_cast<HeaderChannel*>(context);
  if (self->phase_ != Phase::kServing) return;
  self->TakeRequests();
  for (int i = 0; i < kBatchesPerEvent && self->CallIsOver() &&
                  self->options_.call == nullptr;
       ++i) {
    if (self->requests_begin_ < self->requests_end_) break;
    if (!self->Exchange(Wants::kRequests)) return;
    if (self->requests_end_ == 0) break;
    self->TakeRequests();
    self->TakeSleep();
  }
  self->Update();
}

void HeaderChannel::TakeSleep() {
  if (!options_.sleeps || IsSleeper() || phase_ != Phase::kServing) return;
  const uint64_t turn = loop_->turns();
  if (turn == last_turn_) return;
  turns_in_row_ = turn == last_turn_ + 1 ? turns_in_row_ + 1 : 0;
  last_turn_ = turn;
  if (turns_in_row_ < kTurnsToSleep) return;
  files_fd_ = loop_->SetSleeper(this);
  if (!IsSleeper()) return;
  loop_->Unwatch(&watch_);
  watching_ = false;
}

void HeaderChannel::LeaveSleep() {
  if (!IsSleeper()) return;
  loop_->SetSleeper(nullptr);
  files_fd_ = -1;
  turns_in_row_ = 0;
  if (phase_ != Phase::kServing) return;
  watch_.events = EPOLLIN;
  const int error = loop_->AddWatch(&watch_);
  watching_ = error == 0;
  if (error != 0) Failed(error);
}

// The end of what the last turn did, the sleep, and the begin of this one. What
// brings nothing of its own is not worth it any more.
Sleeper::Came HeaderChannel::Enter(bool sleep) {
  const bool has_more = requests_begin_ < requests_end_;
  const Wants wants = has_more ? Wants::kNothing
                      : sleep  ? Wants::kWait
                               : Wants::kRequests;
  if (!Exchange(wants)) return Came::kWork;
  if (requests_begin_ < requests_end_ && !has_more) {
    TakeRequests();
    return Came::kWork;
  }
  LeaveSleep();
  return sleep && !has_more ? Came::kFiles : Came::kNothing;
}

void HeaderChannel::OnFlush(void* context) {
  auto* self = static_cast<HeaderChannel*>(context);
  if (self->phase_ == Phase::kClosed || !self->fd_.valid()) return;
  // What a call has gathered is its own until it says what was taken.
  if (!self->CallIs(BatchCall::State::kMade)) {
    self->Exchange(Wants::kNothing);
  }
}

void HeaderChannel::TakeRequests() {
  taking_ = true;
  while (requests_begin_ < requests_end_ && phase_ == Phase::kServing &&
         answers_end_ + with_backend_ < kAnswersMax) {
    if (free_slots_ == nullptr) {
      Slot* slot = slots_.Grow();
      if (slot == nullptr) break;
      slot->channel = this;
      slot->request.channel_data = slot;
      slot->request.on_complete = OnComplete;
      free_slots_ = slot;
    }
    Begin(requests_[requests_begin_++]);
  }
  taking_ = false;
  if (requests_begin_ == requests_end_) requests_begin_ = requests_end_ = 0;
}

void HeaderChannel::Begin(const dm_user_message& header) {
  if (!wire::CanBe(header)) {
    Log(LogLevel::kError,
        "request %llu: type %llu at sector %llu with a length of %llu bytes "
        "cannot be; the channel is closed",
        header.seq, header.type, header.sector, header.len);
    Close(RequestSink::CloseReason::kProtocolError);
    return;
  }
  Slot* slot = free_slots_;
  free_slots_ = slot->next;
  slot->seq = header.seq;
  Request& request = slot->request;
  wire::DecodeOp(header, &request);
  request.sector = header.sector;
  request.length_bytes = header.len;
  request.remapped = false;
  ++with_backend_;
  sink_->OnRequest(&request);
}

void HeaderChannel::OnComplete(Request* request) {
  auto* slot = static_cast<Slot*>(request->channel_data);
  HeaderChannel* self = slot->channel;
  // TakeRequests has seen to it that there is room.
  dm_user_message& answer = self->answers_[self->answers_end_++];
  answer = wire::EncodeReply(slot->seq, request->status);
  if (request->status == IoStatus::kOk && request->remapped) {
    answer.type = DM_USER_RESP_REMAP;
    answer.flags = self->options_.device;
    answer.sector = request->base_sector;
  }
  --self->with_backend_;
  slot->next = self->free_slots_;
  self->free_slots_ = slot;
  if (self->taking_) return;  // more are about to come
  if (self->phase_ == Phase::kServing) {
    self->FlushSoon();
    // A slot is free.
    if (self->requests_begin_ < self->requests_end_) {
      self->loop_->Post(&self->again_task_);
    }
  } else {
    self->Settle();
  }
}

void HeaderChannel::FlushSoon() {
  // A call that has begun takes them along; should it have to wait for the
  // ring, they go then. So does the next turn of a loop that sleeps here.
  if (!IsSleeper()) loop_->PostLast(&flush_task_);
}

bool HeaderChannel::Exchange(Wants wants) {
  dm_user_batch batch = {};
  const uint32_t answers = answers_end_ - answers_begin_;
  if (answers == 0 && wants == Wants::kNothing) return true;
  batch.replies = reinterpret_cast<uintptr_t>(answers_ + answers_begin_);
  batch.replies_bytes = answers * static_cast<uint32_t>(wire::kHeaderBytes);
  if (wants != Wants::kNothing) {
    DMU_CHECK(requests_begin_ == requests_end_);
    batch.requests = reinterpret_cast<uintptr_t>(requests_);
    batch.requests_bytes = sizeof(requests_);
  }
  if (wants == Wants::kWait) {
    batch.timeout_ms = UINT32_MAX;
    batch.flags = DM_USER_BATCH_WAKE;
    batch.wake_fd = files_fd_;
  }
  // Interrupted in its sleep, and in nothing else.
  if (ioctl(fd_.get(), DM_USER_IOC_BATCH, &batch) != 0 && errno != EINTR) {
    Failed(errno);
    return false;
  }
  if (wants != Wants::kNothing) {
    requests_begin_ = 0;
    requests_end_ =
        batch.given_bytes / static_cast<uint32_t>(wire::kHeaderBytes);
  }
  OnTaken(batch.taken_bytes);
  return true;
}

int HeaderChannel::Gather(iovec* parts, int) {
  if (answers_begin_ == answers_end_) return 0;
  parts[0] = {answers_ + answers_begin_,
              (answers_end_ - answers_begin_) * wire::kHeaderBytes};
  return 1;
}

void HeaderChannel::OnTaken(size_t bytes) {
  // An array of headers is taken in whole ones.
  answers_begin_ += static_cast<uint32_t>(bytes / wire::kHeaderBytes);
  if (answers_begin_ == answers_end_) {
    answers_begin_ = answers_end_ = 0;
  } else {
    // Whatever keeps it says so by itself then.
    loop_->PostLast(&flush_task_);
  }
}

void HeaderChannel::OnGiven(int32_t result) {
  if (phase_ != Phase::kServing) {
    // What was given goes back to the kernel with the file.
    Settle();
    return;
  }
  if (result > 0) {
    requests_begin_ = 0;
    requests_end_ = static_cast<uint32_t>(result) /
                    static_cast<uint32_t>(wire::kHeaderBytes);
    TakeRequests();
  } else if (result < 0 && result != -EINTR && result != -EAGAIN &&
             result != -ENOMEM && result != -ECANCELED) {
    Failed(-result);
    return;
  }
  Update();
}

void HeaderChannel::Update() {
  if (phase_ != Phase::kServing) return;
  const bool has_more = requests_begin_ < requests_end_;
  if (options_.call != nullptr) {
    // Without a free slot the end of a request goes on; and a call that would
    // overwrite what is there waits for it.
    if (!has_more && CallIsOver()) {
      options_.call->Begin(fd_.get(), reinterpret_cast<uint8_t*>(requests_),
                           sizeof(requests_), this);
      // Behind the call.
      loop_->Cancel(&flush_task_);
      if (answers_begin_ < answers_end_) FlushSoon();
    } else if (has_more && answers_begin_ < answers_end_) {
      FlushSoon();
    }
    if (has_more && with_backend_ < slots_.size()) loop_->Post(&again_task_);
    return;
  }
  if (answers_begin_ < answers_end_) FlushSoon();
  if (has_more && with_backend_ < slots_.size()) loop_->Post(&again_task_);
  if (IsSleeper()) return;
  const int error =
      loop_->ChangeWatch(&watch_, has_more ? 0 : uint32_t{EPOLLIN});
  if (error != 0) Failed(error);
}

void HeaderChannel::Failed(int error) {
  if (error == ENOTBLK || error == ENODEV) {
    Close(RequestSink::CloseReason::kRemoved);
    return;
  }
  Log(LogLevel::kError, "exchanging requests: %s; the channel is closed",
      strerror(error));
  Close(RequestSink::CloseReason::kProtocolError);
}

void HeaderChannel::Close(RequestSink::CloseReason reason) {
  if (phase_ != Phase::kServing) return;
  phase_ = Phase::kClosed;
  loop_->Cancel(&again_task_);
  LeaveSleep();
  if (std::exchange(watching_, false)) loop_->Unwatch(&watch_);
  if (!CallIsOver()) options_.call->Cancel();
  sink_->OnClosed(reason);
}

// The file may only be closed when no request of it is with the back end, and
// no call has it.
void HeaderChannel::Settle() {
  if (stopped_ == nullptr || with_backend_ > 0 || !CallIsOver()) return;
  if (fd_.valid()) Exchange(Wants::kNothing);
  loop_->Cancel(&flush_task_);
  fd_.reset();
  loop_->Post(stopped_);
}

}  // namespace dmu
