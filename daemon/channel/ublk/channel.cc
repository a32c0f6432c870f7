// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/ublk/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/channel/ublk/parameters.h"

namespace dmu {

using ublk::ControlPlan;
using ublk::ControlResult;

UblkChannel::UblkChannel(Options options, Loop* loop, BufferPool* pool)
    : options_(options),
      loop_(loop),
      pool_(pool),
      job_(loop),
      job_done_(OnJob, this),
      buffer_wait_(OnBuffer, this),
      retry_task_(OnRetry, this),
      flush_task_(OnFlush, this) {
  watch_.ready = OnReady;
  watch_.context = this;
  watch_.events = static_cast<uint32_t>(EPOLLIN | EPOLLET);
}

UblkChannel::~UblkChannel() {
  DMU_CHECK(with_backend_ == 0);
  loop_->Cancel(&job_done_);
  CloseDevice();
}

std::string UblkChannel::device_path() const {
  if (device_ == ublk::kAnyDevice) return "";
  return absl::StrCat(ublk::kBlockPrefix, device_);
}

void UblkChannel::Start(RequestSink* sink) {
  DMU_CHECK(phase_ == Phase::kIdle);
  sink_ = sink;
  phase_ = Phase::kOpening;
  RunJob(options_.recover ? ControlPlan::Kind::kFind
                          : ControlPlan::Kind::kCreate);
}

void UblkChannel::RunJob(ControlPlan::Kind kind) {
  ControlPlan plan;
  plan.kind = kind;
  plan.device = device_;
  plan.mark = options_.mark;
  plan.info = ublk::MakeDeviceInfo(options_.mark);
  plan.params = ublk::MakeParams(options_.geometry);
  job_.Begin(plan, &job_done_);
}

void UblkChannel::OnJob(void* context) {
  auto* self = static_cast<UblkChannel*>(context);
  const ControlResult& result = self->job_.result();
  const absl::Status status = result.ToStatus();
  switch (self->phase_) {
    case Phase::kOpening:
      self->Opened();
      break;
    case Phase::kStarting:
      if (!status.ok()) {
        self->Fail(status);
        break;
      }
      self->phase_ = Phase::kServing;
      if (self->wish_ == Wish::kNone) self->sink_->OnStarted(status);
      break;
    case Phase::kEnding:
      if (!status.ok()) {
        Log(LogLevel::kError, "%s: %s", self->device_path().c_str(),
            std::string(status.message()).c_str());
      }
      self->device_stopped_ = status.ok();
      self->phase_ = Phase::kStopping;
      self->Settle();
      return;
    case Phase::kDeleting:
      // A device that somebody still has open goes when it is closed.
      if (!status.ok() && self->device_ != ublk::kAnyDevice) {
        Log(LogLevel::kWarning, "%s: %s; it goes when its last user does",
            self->device_path().c_str(), std::string(status.message()).c_str());
      }
      self->phase_ = Phase::kClosed;
      self->loop_->Post(self->stopped_);
      return;
    default:
      return;
  }
  if (self->wish_ != Wish::kNone) self->BeginWish();
}

void UblkChannel::Opened() {
  const ControlResult& result = job_.result();
  absl::Status status = result.ToStatus();
  if (!status.ok()) {
    Fail(status);
    return;
  }
  device_ = result.device;
  tags_ = std::make_unique<ublk::TagTable>(result.depth);
  slots_.reset(new Slot[result.depth]);
  for (uint16_t tag = 0; tag < result.depth; ++tag) {
    Slot& slot = slots_[tag];
    slot.channel = this;
    slot.tag = tag;
    slot.request.channel_data = &slot;
    slot.request.on_complete = OnComplete;
  }
  status = OpenDevice();
  if (!status.ok()) {
    Fail(status);
    return;
  }
  phase_ = Phase::kStarting;
  RunJob(options_.recover ? ControlPlan::Kind::kEndRecovery
                          : ControlPlan::Kind::kStart);
}

absl::Status UblkChannel::OpenDevice() {
  const std::string path = absl::StrCat(ublk::kCharPrefix, device_);
  const auto failed = [&path](const char* what, int error) {
    return absl::InternalError(
        absl::StrCat(path, ": cannot ", what, ": ", strerror(error)));
  };
  fd_.reset(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd_.valid()) return failed("open", errno);
  const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  descriptors_bytes_ =
      (tags_->depth() * sizeof(ublk::IoDescriptor) + page_bytes - 1) /
      page_bytes * page_bytes;
  void* mapped = mmap(nullptr, descriptors_bytes_, PROT_READ,
                      MAP_SHARED | MAP_POPULATE, fd_.get(), 0);
  if (mapped == MAP_FAILED) return failed("map", errno);
  descriptors_ = static_cast<const ublk::IoDescriptor*>(mapped);
  // The driver takes one address space only; a child must not keep it.
  if (madvise(mapped, descriptors_bytes_, MADV_DONTFORK) != 0) {
    return failed("map", errno);
  }
  int error = ring_.Open(tags_->depth());
  if (error != 0) return failed("make an io_uring for it", error);
  if (job_.result().needs_keeper) error = keeper_.Begin(ring_.fd());
  if (error != 0) return failed("start a process for it", error);
  for (uint16_t tag = 0; tag < tags_->depth(); ++tag) {
    ring_.Prepare(fd_.get(), ublk::kFetch, tag, 0);
  }
  error = ring_.Submit(/*fetch=*/false);
  if (error != 0) return failed("fetch from", error);
  watch_.fd = ring_.event_fd();
  error = loop_->AddWatch(&watch_);
  if (error != 0) return failed("watch", error);
  watching_ = true;
  return absl::OkStatus();
}

void UblkChannel::CloseDevice() {
  StopFetching();
  loop_->Cancel(&flush_task_);
  loop_->Cancel(&retry_task_);
  pool_->CancelWait(&buffer_wait_);
  ring_.Close();
  if (device_stopped_) {
    keeper_.Dismiss();
  } else {
    keeper_.Leave();
  }
  if (descriptors_ != nullptr) {
    munmap(const_cast<ublk::IoDescriptor*>(descriptors_), descriptors_bytes_);
    descriptors_ = nullptr;
  }
  fd_.reset();
}

void UblkChannel::StopFetching() {
  if (watching_) loop_->Unwatch(&watch_);
  watching_ = false;
}

void UblkChannel::Fail(const absl::Status& status) {
  phase_ = Phase::kFailed;
  if (wish_ == Wish::kNone) sink_->OnStarted(status);
}

void UblkChannel::Stop(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  wish_ = Wish::kStop;
  BeginWish();
}

void UblkChannel::Remove(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  wish_ = Wish::kRemove;
  BeginWish();
}

// Goes on as soon as no job runs; until then requests are answered, which the
// job may wait for.
void UblkChannel::BeginWish() {
  switch (phase_) {
    case Phase::kOpening:
    case Phase::kStarting:
      return;
    case Phase::kServing:
      if (wish_ == Wish::kRemove) {
        phase_ = Phase::kEnding;
        RunJob(ControlPlan::Kind::kStop);
        return;
      }
      break;
    default:
      break;
  }
  phase_ = Phase::kStopping;
  Settle();
}

// Closes when nothing is held any more.
void UblkChannel::Settle() {
  if (phase_ != Phase::kStopping) return;
  StopFetching();
  if (tags_ != nullptr && tags_->held() > 0) return;
  if (ring_.is_open() && ring_.has_prepared() && !Leave()) return;
  CloseDevice();
  if (wish_ == Wish::kRemove) {
    phase_ = Phase::kDeleting;
    // By its mark: the number may be another server's by now.
    RunJob(ControlPlan::Kind::kDeleteMarked);
    return;
  }
  phase_ = Phase::kClosed;
  loop_->Post(stopped_);
}

void UblkChannel::OnReady(void* context, uint32_t) {
  static_cast<UblkChannel*>(context)->Fetch();
}

void UblkChannel::Fetch() {
  const int error = ring_.Submit(/*fetch=*/true);
  if (error != 0 && error != EAGAIN) {
    Log(LogLevel::kError, "%s: io_uring: %s; the channel is closed",
        device_path().c_str(), strerror(error));
    Close(RequestSink::CloseReason::kProtocolError);
    return;
  }
  corked_ = true;
  uint64_t tag = 0;
  int32_t result = 0;
  while (ring_.Next(&tag, &result)) Take(tag, result);
  corked_ = false;
  if (ring_.has_prepared()) Flush();
}

void UblkChannel::Take(uint64_t tag, int32_t result) {
  if (result != 0) {
    // -ENODEV: the device was stopped, by us or by somebody else.
    const bool known = tags_->Retire(tag);
    if (result == -ENODEV && known) {
      Close(RequestSink::CloseReason::kRemoved);
      return;
    }
    Log(LogLevel::kError, "%s: tag %llu: %s; the channel is closed",
        device_path().c_str(), static_cast<unsigned long long>(tag),
        strerror(-result));
    Close(RequestSink::CloseReason::kProtocolError);
    return;
  }
  if (!tags_->Arrive(tag)) {
    Log(LogLevel::kError, "%s: tag %llu was not the kernel's to give",
        device_path().c_str(), static_cast<unsigned long long>(tag));
    Close(RequestSink::CloseReason::kProtocolError);
    return;
  }
  Slot* slot = &slots_[tag];
  ublk::DecodeRequest(descriptors_[tag], &slot->request);
  slot->request.payload = {};
  if (ublk::HasData(slot->request.op) &&
      slot->request.length_bytes > BufferPool::kBufferBytes) {
    // Longer than the device was made for.
    slot->request.status = IoStatus::kIoError;
    Answer(slot);
    return;
  }
  // In the order in which they came: none overtakes one that waits.
  if (ublk::HasData(slot->request.op) && tags_->has_waiting()) {
    tags_->Wait(slot->tag);
    return;
  }
  if (HandOn(slot)) return;
  tags_->Wait(slot->tag);
  pool_->Wait(&buffer_wait_, slot->request.length_bytes, &share_);
}

bool UblkChannel::HandOn(Slot* slot) {
  Request& request = slot->request;
  if (ublk::HasData(request.op)) {
    slot->buffer = pool_->Acquire(request.length_bytes, &share_);
    if (slot->buffer == nullptr) return false;
    request.payload = ByteSpan(slot->buffer, request.length_bytes);
    if (request.op == Request::Op::kWrite) {
      const ssize_t got =
          pread(fd_.get(), slot->buffer, request.length_bytes,
                static_cast<off_t>(ublk::UserCopyOffset(slot->tag)));
      if (got != static_cast<ssize_t>(request.length_bytes)) {
        request.status = IoStatus::kIoError;
        Answer(slot);
        return true;
      }
    }
  }
  ++with_backend_;
  sink_->OnRequest(&request);
  return true;
}

void UblkChannel::OnComplete(Request* request) {
  auto* slot = static_cast<Slot*>(request->channel_data);
  UblkChannel* self = slot->channel;
  --self->with_backend_;
  if (request->op == Request::Op::kRead && request->status == IoStatus::kOk) {
    const ssize_t put =
        pwrite(self->fd_.get(), slot->buffer, request->length_bytes,
               static_cast<off_t>(ublk::UserCopyOffset(slot->tag)));
    if (put != static_cast<ssize_t>(request->length_bytes)) {
      request->status = IoStatus::kIoError;
    }
  }
  self->Answer(slot);
}

void UblkChannel::Answer(Slot* slot) {
  ring_.Prepare(fd_.get(), ublk::kCommitAndFetch, slot->tag,
                ublk::EncodeResult(slot->request));
  tags_->Answer(slot->tag);
  if (uint8_t* buffer = std::exchange(slot->buffer, nullptr)) {
    pool_->Release(buffer, &share_);
  }
  if (corked_) return;
  // Others are with the back end: theirs may leave in the same call.
  if (with_backend_ > 0) {
    loop_->Post(&flush_task_);
    return;
  }
  Flush();
}

void UblkChannel::OnFlush(void* context) {
  static_cast<UblkChannel*>(context)->Flush();
}

void UblkChannel::Flush() {
  if (ring_.has_prepared()) Leave();
  Settle();
}

bool UblkChannel::Leave() {
  loop_->Cancel(&flush_task_);
  const int error = ring_.Submit(/*fetch=*/false);
  if (error == 0) return true;
  if (error == EAGAIN) {
    loop_->Post(&flush_task_);
    return false;
  }
  Log(LogLevel::kError, "%s: io_uring: %s; the channel is closed",
      device_path().c_str(), strerror(error));
  Close(RequestSink::CloseReason::kProtocolError);
  // What was to leave goes back to the kernel with the ring.
  return true;
}

void UblkChannel::OnBuffer(void* context) {
  auto* self = static_cast<UblkChannel*>(context);
  self->loop_->Post(&self->retry_task_);
}

void UblkChannel::OnRetry(void* context) {
  auto* self = static_cast<UblkChannel*>(context);
  for (;;) {
    const uint16_t tag = self->tags_->NextWaiting();
    if (tag == ublk::TagTable::kNone) return;
    if (self->HandOn(&self->slots_[tag])) continue;
    self->tags_->WaitFirst(tag);
    self->pool_->Wait(&self->buffer_wait_,
                      self->slots_[tag].request.length_bytes, &self->share_);
    return;
  }
}

void UblkChannel::Close(RequestSink::CloseReason reason) {
  if (phase_ != Phase::kServing) return;
  phase_ = Phase::kFailed;
  StopFetching();
  sink_->OnClosed(reason);
}

}  // namespace dmu
