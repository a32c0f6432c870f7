// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "daemon/base/check.h"
#include "daemon/base/log.h"

namespace dmu {

namespace {

// Steps of input per readiness event: enough to amortise the wait, few enough
// that one busy device cannot keep the others waiting.
constexpr int kStepsPerEvent = 32;

bool IsTransient(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

StreamChannel::StreamChannel(UniqueFd fd, Options options, Loop* loop,
                             BufferPool* pool)
    : fd_(std::move(fd)),
      options_(options),
      loop_(loop),
      pool_(pool),
      slots_(options.slots),
      buffer_wait_(OnBuffer, this),
      retry_task_(OnRetry, this),
      ahead_task_(OnAhead, this),
      flush_task_(OnFlush, this) {
  watch_.ready = OnReady;
  watch_.context = this;
}

StreamChannel::~StreamChannel() {
  DMU_CHECK(with_backend_ == 0 && CallIsOver());
  StopWatching();
  ResetStreams();
}

void StreamChannel::Start(RequestSink* sink) {
  DMU_CHECK(phase_ == Phase::kIdle);
  sink_ = sink;
  phase_ = Phase::kServing;
  UpdateEvents();
  if (phase_ == Phase::kServing) sink_->OnStarted(absl::OkStatus());
}

void StreamChannel::Stop(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  if (phase_ == Phase::kServing) Flush();
  stopped_ = done;
  phase_ = Phase::kStopping;
  CancelWaits();
  Settle();
}

void StreamChannel::OnReady(void* context, uint32_t events) {
  auto* self = static_cast<StreamChannel*>(context);
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    self->Close(RequestSink::CloseReason::kRemoved);
    return;
  }
  if ((events & EPOLLOUT) != 0) self->Flush();
  if ((events & EPOLLIN) != 0) self->Readable();
  self->UpdateEvents();
}

void StreamChannel::OnBuffer(void* context) {
  auto* self = static_cast<StreamChannel*>(context);
  self->loop_->Post(&self->retry_task_);
}

void StreamChannel::OnRetry(void* context) {
  auto* self = static_cast<StreamChannel*>(context);
  if (self->phase_ != Phase::kServing || self->input_ != Input::kNoMemory) {
    return;
  }
  self->TakeHeader();
  self->UpdateEvents();
}

void StreamChannel::OnFlush(void* context) {
  auto* self = static_cast<StreamChannel*>(context);
  if (self->phase_ == Phase::kServing) self->Flush();
}

void StreamChannel::OnAhead(void* context) {
  auto* self = static_cast<StreamChannel*>(context);
  if (self->phase_ != Phase::kServing) return;
  self->Readable();
  self->UpdateEvents();
}

void StreamChannel::OnContinue(void* context) {
  auto* slot = static_cast<Slot*>(context);
  if (slot->channel->phase_ != Phase::kServing) return;
  slot->channel->SubmitSegment(slot);
  slot->channel->UpdateEvents();
}

void StreamChannel::Readable() {
  corked_ = options_.batch;
  TakeInput();
  if (!std::exchange(corked_, false) || phase_ != Phase::kServing) return;
  UpdateEvents();
  if (phase_ == Phase::kServing) FlushSoon();
}

void StreamChannel::FlushSoon() {
  if (CallIs(BatchCall::State::kBegun)) {
    // It takes them along; should it have to wait for the ring, they go then.
    if (output_head_ != nullptr) loop_->PostLast(&flush_task_);
  } else if (!options_.batch || with_backend_ == 0) {
    Flush();
  } else if (output_head_ != nullptr) {
    // A slow one keeps the others for a turn only.
    loop_->Post(&flush_task_);
  }
}

void StreamChannel::TakeInput() {
  for (int i = 0; i < kStepsPerEvent && phase_ == Phase::kServing; ++i) {
    Step step = Step::kWait;
    switch (input_) {
      case Input::kHeader:
        step = ReadHeader();
        break;
      case Input::kPayload:
        step = ReadPayload();
        break;
      case Input::kDrain:
        step = DrainPayload();
        break;
      case Input::kHeld:
      case Input::kNoMemory:
        break;
    }
    if (step != Step::kProgress) return;
  }
}

ssize_t StreamChannel::ReadSome(uint8_t* to, size_t bytes) {
  for (;;) {
    if (ahead_begin_ < ahead_end_) {
      const size_t count = std::min(bytes, ahead_end_ - ahead_begin_);
      memcpy(to, ahead_ + ahead_begin_, count);
      ahead_begin_ += count;
      return static_cast<ssize_t>(count);
    }
    const bool ahead = options_.batch && input_ == Input::kHeader;
    // The poll tells when there is more; asking would cost a call.
    if (ahead && (std::exchange(drained_, false) || !CallIsOver())) return 0;
    const ssize_t got = ahead ? read(fd_.get(), ahead_, kAheadBytes)
                              : read(fd_.get(), to, bytes);
    if (got > 0 && ahead) {
      ahead_begin_ = 0;
      ahead_end_ = static_cast<size_t>(got);
      drained_ = ahead_end_ < kAheadBytes;
      continue;
    }
    if (got > 0) return got;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && IsTransient(errno)) return 0;
    if (got < 0 && errno == ECANCELED) {
      AbandonInput();
      return 0;
    }
    InputFailed(got == 0 ? ENODEV : errno);
    return -1;
  }
}

void StreamChannel::InputFailed(int error) {
  if (error == ENOTBLK || error == ENODEV) {
    Close(RequestSink::CloseReason::kRemoved);
    return;
  }
  Log(LogLevel::kError, "reading requests: %s; the channel is closed",
      strerror(error));
  Close(RequestSink::CloseReason::kProtocolError);
}

void StreamChannel::OnGiven(int32_t result) {
  if (phase_ != Phase::kServing) {
    // What was given goes back to the kernel with the file.
    Settle();
    return;
  }
  if (result > 0) {
    ahead_begin_ = 0;
    ahead_end_ = static_cast<size_t>(result);
    drained_ = ahead_end_ < kAheadBytes;
    Readable();
  } else if (result == -ECANCELED) {
    AbandonInput();
  } else if (result < 0 && result != -EINTR && result != -EAGAIN &&
             result != -ENOMEM) {
    InputFailed(-result);
    return;
  }
  UpdateEvents();
}

// The kernel took the request away in the middle of it (a deadline, a suspend);
// what comes next is a header.
void StreamChannel::AbandonInput() {
  if (input_slot_ != nullptr) FreeSlot(std::exchange(input_slot_, nullptr));
  input_ = Input::kHeader;
  input_bytes_ = 0;
}

StreamChannel::Step StreamChannel::ReadHeader() {
  const ssize_t got =
      ReadSome(header_ + input_bytes_, wire::kHeaderBytes - input_bytes_);
  if (got < 0) return Step::kClosed;
  if (got == 0) return Step::kWait;
  input_bytes_ += static_cast<size_t>(got);
  if (input_bytes_ < wire::kHeaderBytes) return Step::kProgress;
  return TakeHeader();
}

StreamChannel::Step StreamChannel::TakeHeader() {
  dm_user_message header;
  memcpy(&header, header_, sizeof(header));
  if (!wire::CanBe(header)) {
    Log(LogLevel::kError,
        "request %llu: type %llu at sector %llu with a length of %llu bytes "
        "cannot be; the channel is closed",
        header.seq, header.type, header.sector, header.len);
    Close(RequestSink::CloseReason::kProtocolError);
    return Step::kClosed;
  }
  if (!HasSlot()) {
    input_ = Input::kNoMemory;  // FreeSlot goes on
    return Step::kWait;
  }
  Slot* slot = free_slots_;
  const bool wants_buffer =
      header.type == DM_USER_REQ_MAP_READ || wire::CarriesPayload(header);
  uint8_t* buffer = nullptr;
  uint64_t buffer_bytes = 0;
  if (wants_buffer) {
    // What is longer goes through it in segments.
    buffer = pool_->AcquireRun(header.len, &share_, &buffer_bytes);
    if (buffer == nullptr) {
      input_ = Input::kNoMemory;
      pool_->Wait(&buffer_wait_, buffer_bytes, &share_);
      return Step::kWait;
    }
  }
  free_slots_ = slot->next;
  slot->next = nullptr;
  slot->buffer = buffer;
  slot->buffer_bytes = buffer_bytes;
  input_ = Input::kHeader;
  input_bytes_ = 0;
  BeginRequest(slot, header);
  return Step::kProgress;
}

void StreamChannel::BeginRequest(Slot* slot, const dm_user_message& header) {
  slot->seq = header.seq;
  slot->first_sector = header.sector;
  slot->total_bytes = header.len;
  slot->done_bytes = 0;
  slot->segment_bytes = 0;
  slot->header_sent = false;
  slot->result = IoStatus::kOk;
  wire::DecodeOp(header, &slot->request);
  if (has_failed_seq_ && failed_seq_ == header.seq) {
    has_failed_seq_ = false;
    slot->result = IoStatus::kIoError;
    QueueReply(slot);
    return;
  }
  if (wire::CarriesPayload(header)) {
    input_slot_ = slot;
    input_ = Input::kPayload;
    return;
  }
  SubmitSegment(slot);
}

StreamChannel::Step StreamChannel::ReadPayload() {
  Slot* slot = input_slot_;
  const uint64_t left = slot->total_bytes - slot->done_bytes;
  const size_t segment = std::min(left, slot->buffer_bytes);
  const ssize_t got =
      ReadSome(slot->buffer + input_bytes_, segment - input_bytes_);
  if (got < 0) return Step::kClosed;
  if (got == 0) return Step::kWait;
  input_bytes_ += static_cast<size_t>(got);
  if (input_bytes_ < segment) return Step::kProgress;
  input_bytes_ = 0;
  if (segment < left) {
    input_ = Input::kHeld;
  } else {
    input_ = Input::kHeader;
    input_slot_ = nullptr;
  }
  SubmitSegment(slot);
  return Step::kProgress;
}

StreamChannel::Step StreamChannel::DrainPayload() {
  Slot* slot = input_slot_;
  const ssize_t got =
      ReadSome(slot->buffer, std::min(drain_bytes_, slot->buffer_bytes));
  if (got < 0) return Step::kClosed;
  if (got == 0) return Step::kWait;
  drain_bytes_ -= static_cast<uint64_t>(got);
  if (drain_bytes_ > 0) return Step::kProgress;
  input_ = Input::kHeader;
  input_slot_ = nullptr;
  QueueReply(slot);
  return Step::kProgress;
}

void StreamChannel::SubmitSegment(Slot* slot) {
  Request& request = slot->request;
  const uint64_t left = slot->total_bytes - slot->done_bytes;
  const bool data =
      request.op == Request::Op::kRead || request.op == Request::Op::kWrite;
  const uint64_t length = data ? std::min(left, slot->buffer_bytes) : left;
  slot->segment_bytes = data ? static_cast<uint32_t>(length) : 0;
  request.sector = slot->first_sector + slot->done_bytes / kSectorBytes;
  request.length_bytes = length;
  request.payload = data ? ByteSpan(slot->buffer, length) : ByteSpan();
  // One flush of what came before is enough for all segments.
  if (slot->done_bytes > 0) request.preflush = false;
  slot->in_backend = true;
  ++with_backend_;
  sink_->OnRequest(&request);
}

void StreamChannel::OnComplete(Request* request) {
  auto* slot = static_cast<Slot*>(request->channel_data);
  StreamChannel* self = slot->channel;
  DMU_CHECK(slot->in_backend);
  slot->in_backend = false;
  --self->with_backend_;
  self->SegmentDone(slot);
}

void StreamChannel::SegmentDone(Slot* slot) {
  slot->result = slot->request.status;
  const bool last = slot->segment_bytes == 0 ||
                    slot->done_bytes + slot->segment_bytes == slot->total_bytes;
  switch (phase_) {
    case Phase::kServing:
      break;
    case Phase::kStopping:
      // An answer that can leave in one piece still leaves. The rest has left
      // no trace in the kernel and is given to the next channel.
      if (last && slot->done_bytes == 0 && fd_.valid()) {
        QueueReply(slot);
      } else {
        Drop(slot);
      }
      Settle();
      return;
    default:
      Drop(slot);
      Settle();
      return;
  }
  if (slot->request.op == Request::Op::kWrite && slot->segment_bytes > 0) {
    WriteSegmentDone(slot);
    return;
  }
  if (output_head_ == slot) {
    // A later segment of the read whose reply is on its way.
    if (slot->result != IoStatus::kOk) {
      Log(LogLevel::kWarning,
          "request %llu failed (%s) after part of its answer had left; the "
          "channel is opened again to refuse it whole",
          static_cast<unsigned long long>(slot->seq),
          IoStatusName(slot->result));
      has_failed_seq_ = true;
      failed_seq_ = slot->seq;
      BeginReopen();
      return;
    }
    output_ready_ = true;
    output_bytes_ = 0;
    Flush();
    return;
  }
  QueueReply(slot);
}

void StreamChannel::WriteSegmentDone(Slot* slot) {
  slot->done_bytes += slot->segment_bytes;
  const uint64_t left = slot->total_bytes - slot->done_bytes;
  if (left == 0) {
    QueueReply(slot);
    return;
  }
  DMU_CHECK(input_ == Input::kHeld && input_slot_ == slot);
  if (slot->result == IoStatus::kOk) {
    input_ = Input::kPayload;
  } else {
    input_ = Input::kDrain;
    drain_bytes_ = left;
  }
  UpdateEvents();
}

void StreamChannel::QueueReply(Slot* slot) {
  slot->next = nullptr;
  if (output_tail_ != nullptr) {
    output_tail_->next = slot;
  } else {
    output_head_ = slot;
    output_ready_ = true;
    output_bytes_ = 0;
  }
  output_tail_ = slot;
  if (corked_) return;  // more answers are about to come
  if (phase_ == Phase::kServing) {
    FlushSoon();
  } else {
    Flush();
  }
}

void StreamChannel::Flush() {
  loop_->Cancel(&flush_task_);
  if (CallIs(BatchCall::State::kMade)) return;  // OnTaken goes on
  output_blocked_ = false;
  while (output_head_ != nullptr && output_ready_ && fd_.valid()) {
    if (!WriteOut()) break;
  }
  UpdateEvents();
}

size_t StreamChannel::HeaderBytes(const Slot& slot) const {
  return slot.header_sent ? 0 : wire::kHeaderBytes;
}

size_t StreamChannel::PayloadBytes(const Slot& slot) const {
  const bool data =
      slot.request.op == Request::Op::kRead && slot.result == IoStatus::kOk;
  return data ? slot.segment_bytes : 0;
}

bool StreamChannel::IsLast(const Slot& slot) const {
  return PayloadBytes(slot) == 0 ||
         slot.done_bytes + slot.segment_bytes == slot.total_bytes;
}

bool StreamChannel::IsWhole(const Slot& slot) const {
  return !slot.header_sent && IsLast(slot);
}

// The head's part and, in batch mode, whole answers behind it.
int StreamChannel::Gather(iovec* parts, int parts_max) {
  if (!output_ready_) return 0;
  int count = 0;
  size_t skip = output_bytes_;
  for (Slot* slot = output_head_; slot != nullptr && count + 2 <= parts_max;
       slot = slot->next) {
    if (slot != output_head_ && !IsWhole(*slot)) break;
    const size_t header_bytes = HeaderBytes(*slot);
    const size_t payload_bytes = PayloadBytes(*slot);
    slot->reply = wire::EncodeReply(slot->seq, slot->result);
    // Of the whole answer, whatever part of it this is.
    if (options_.batch && payload_bytes > 0) {
      slot->reply.len = slot->total_bytes;
    }
    if (skip < header_bytes) {
      parts[count++] = {reinterpret_cast<uint8_t*>(&slot->reply) + skip,
                        header_bytes - skip};
    }
    const size_t payload_done = skip > header_bytes ? skip - header_bytes : 0;
    if (payload_done < payload_bytes) {
      parts[count++] = {slot->buffer + payload_done,
                        payload_bytes - payload_done};
    }
    skip = 0;
    if (!options_.batch || !IsLast(*slot)) break;
  }
  return count;
}

bool StreamChannel::WriteOut() {
  constexpr int kPartsMax = 64;
  iovec parts[kPartsMax];
  const ssize_t put = writev(fd_.get(), parts, Gather(parts, kPartsMax));
  if (put < 0) return WriteFailed();
  size_t bytes = static_cast<size_t>(put);
  while (bytes > 0) Advance(&bytes);
  return true;
}

void StreamChannel::OnTaken(size_t bytes) {
  while (bytes > 0) Advance(&bytes);
  loop_->Cancel(&flush_task_);
  if (phase_ == Phase::kServing || phase_ == Phase::kStopping) Flush();
}

bool StreamChannel::WriteFailed() {
  if (errno == EINTR) return true;
  if (IsTransient(errno)) {
    output_blocked_ = true;
    return false;
  }
  if (errno == ENOTBLK || errno == ENODEV || errno == EPIPE ||
      errno == ECONNRESET) {
    Close(RequestSink::CloseReason::kRemoved);
    return false;
  }
  if (output_bytes_ > 0 || output_head_->header_sent) {
    // In the middle of a reply the kernel and we no longer agree on where
    // the next header begins.
    BeginReopen();
    return false;
  }
  // The kernel no longer waits for this one: its deadline passed or it was
  // taken back for another table.
  FinishOutput(output_head_);
  return true;
}

void StreamChannel::Advance(size_t* bytes) {
  Slot* slot = output_head_;
  const size_t payload_bytes = PayloadBytes(*slot);
  const size_t part_bytes = HeaderBytes(*slot) + payload_bytes;
  const size_t count = std::min(*bytes, part_bytes - output_bytes_);
  output_bytes_ += count;
  *bytes -= count;
  if (output_bytes_ < part_bytes) return;

  slot->header_sent = true;
  slot->done_bytes += payload_bytes;
  if (payload_bytes > 0 && slot->done_bytes < slot->total_bytes) {
    output_ready_ = false;
    if (phase_ == Phase::kServing) loop_->Post(&slot->continue_task);
    return;
  }
  FinishOutput(slot);
}

void StreamChannel::FinishOutput(Slot* slot) {
  DMU_CHECK(output_head_ == slot);
  output_head_ = slot->next;
  if (output_head_ == nullptr) output_tail_ = nullptr;
  output_ready_ = output_head_ != nullptr;
  output_bytes_ = 0;
  FreeSlot(slot);
}

bool StreamChannel::HasSlot() {
  if (free_slots_ != nullptr) return true;
  Slot* slot = slots_.Grow();
  if (slot == nullptr) return false;
  slot->channel = this;
  slot->request.channel_data = slot;
  slot->request.on_complete = OnComplete;
  slot->continue_task.run = OnContinue;
  slot->continue_task.context = slot;
  free_slots_ = slot;
  return true;
}

// One whose answer has begun to leave is the first in the queue for that: it
// goes with the others there.
void StreamChannel::Drop(Slot* slot) {
  if (slot != output_head_) FreeSlot(slot);
}

void StreamChannel::FreeSlot(Slot* slot) {
  loop_->Cancel(&slot->continue_task);
  slot->next = free_slots_;
  free_slots_ = slot;
  if (uint8_t* buffer = std::exchange(slot->buffer, nullptr)) {
    pool_->Release(buffer, &share_);
  }
  if (phase_ == Phase::kServing && input_ == Input::kNoMemory) {
    loop_->Post(&retry_task_);
  }
}

void StreamChannel::UpdateEvents() {
  if (phase_ != Phase::kServing) return;
  uint32_t events = output_blocked_ ? uint32_t{EPOLLOUT} : 0;
  const bool reads = input_ != Input::kHeld && input_ != Input::kNoMemory;
  const bool has_ahead = ahead_begin_ < ahead_end_;
  // What was read ahead is not seen by the poll.
  if (reads && has_ahead) loop_->Post(&ahead_task_);
  if (reads && options_.call == nullptr) {
    events |= EPOLLIN;
  } else if (reads && input_ != Input::kHeader) {
    loop_->Post(&ahead_task_);  // the rest of a payload is always there
  } else if (reads && !has_ahead && !corked_ && CallIsOver()) {
    options_.call->Begin(fd_.get(), ahead_, kAheadBytes, this);
  }
  if (events == 0 && !watching_ && options_.call != nullptr) return;
  int error = 0;
  if (!watching_) {
    watch_.fd = fd_.get();
    watch_.events = events;
    error = loop_->AddWatch(&watch_);
    watching_ = error == 0;
  } else {
    error = loop_->ChangeWatch(&watch_, events);
  }
  if (error != 0) {
    Log(LogLevel::kError, "cannot watch the channel: %s", strerror(error));
    Close(RequestSink::CloseReason::kProtocolError);
  }
}

void StreamChannel::StopWatching() {
  if (!watching_) return;
  loop_->Unwatch(&watch_);
  watching_ = false;
}

void StreamChannel::CancelWaits() {
  StopWatching();
  pool_->CancelWait(&buffer_wait_);
  if (!CallIsOver()) options_.call->Cancel();
}

void StreamChannel::Close(RequestSink::CloseReason reason) {
  if (phase_ != Phase::kServing && phase_ != Phase::kReopening) return;
  phase_ = Phase::kClosed;
  CancelWaits();
  sink_->OnClosed(reason);
}

void StreamChannel::BeginReopen() {
  if (options_.reopen == nullptr) {
    Close(RequestSink::CloseReason::kProtocolError);
    return;
  }
  if (phase_ != Phase::kServing) return;
  phase_ = Phase::kReopening;
  CancelWaits();
  Settle();
}

// The file may only be closed when no request of it is with the back end, and
// no call has it.
void StreamChannel::Settle() {
  if (with_backend_ > 0 || !CallIsOver()) return;
  if (phase_ == Phase::kReopening) {
    ResetStreams();
    fd_.reset();
    const int fd = options_.reopen(options_.reopen_context);
    if (fd < 0) {
      const bool removed = errno == ENOENT || errno == ENXIO || errno == ENODEV;
      Close(removed ? RequestSink::CloseReason::kRemoved
                    : RequestSink::CloseReason::kProtocolError);
      return;
    }
    fd_.reset(fd);
    phase_ = Phase::kServing;
    UpdateEvents();
  } else if (stopped_ != nullptr && fd_.valid()) {
    ResetStreams();
    fd_.reset();
    loop_->Post(stopped_);
  } else if (stopped_ != nullptr) {
    loop_->Post(stopped_);
  }
}

void StreamChannel::ResetStreams() {
  while (Slot* slot = output_head_) {
    output_head_ = slot->next;
    FreeSlot(slot);
  }
  output_tail_ = nullptr;
  output_ready_ = false;
  output_blocked_ = false;
  output_bytes_ = 0;
  loop_->Cancel(&retry_task_);
  loop_->Cancel(&flush_task_);
  loop_->Cancel(&ahead_task_);
  ahead_begin_ = ahead_end_ = 0;
  drained_ = false;
  AbandonInput();
}

}  // namespace dmu
