// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"

namespace dmu {

Device::Device(std::string name, std::unique_ptr<Channel> channel,
               std::unique_ptr<Backend> backend, Loop* loop, Task* closed,
               Task* failed)
    : name_(std::move(name)),
      channel_(std::move(channel)),
      backend_(std::move(backend)),
      geometry_(backend_->geometry()),
      outside_(absl::StrCat("the device has ",
                            geometry_.size_bytes / kSectorBytes, " sectors")),
      loop_(loop),
      closed_(closed),
      failed_(failed),
      channel_stopped_(OnChannelStopped, this),
      replaced_drained_(OnReplacedDrained, this) {}

Device::~Device() {
  DMU_CHECK(replaced_ == nullptr);
  loop_->Cancel(failed_);
}

void Device::Start(Started started) {
  started_ = std::move(started);
  if (Redirect* redirect = channel_->redirect()) {
    backend_->OfferRedirect(redirect);
  }
  channel_->Start(this);
}

void Device::OnStarted(const absl::Status& status) {
  if (Started started = std::exchange(started_, nullptr)) started(status);
}

void Device::Stop(Task* done, bool remove) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  if (remove) {
    channel_->Remove(&channel_stopped_);
  } else {
    channel_->Stop(&channel_stopped_);
  }
}

void Device::OnChannelStopped(void* context) {
  auto* self = static_cast<Device*>(context);
  self->channel_is_stopped_ = true;
  if (self->replaced_ == nullptr) self->backend_->Drain(self->stopped_);
}

void Device::Replace(std::unique_ptr<Backend> backend,
                     std::function<void()> replaced) {
  DMU_CHECK(replaced_ == nullptr);
  replaced_done_ = std::move(replaced);
  DMU_CHECK(backend->geometry().size_bytes == geometry_.size_bytes);
  replaced_ = std::exchange(backend_, std::move(backend));
  replaced_->Drain(&replaced_drained_);
}

void Device::OnReplacedDrained(void* context) {
  auto* self = static_cast<Device*>(context);
  self->replaced_.reset();
  std::exchange(self->replaced_done_, nullptr)();
  if (self->channel_is_stopped_) self->backend_->Drain(self->stopped_);
}

Device::OpClass Device::ClassOf(Request::Op op) {
  switch (op) {
    case Request::Op::kRead:
      return OpClass::kRead;
    case Request::Op::kWrite:
      return OpClass::kWrite;
    case Request::Op::kFlush:
      return OpClass::kFlush;
    default:
      return OpClass::kOther;
  }
}

IoStatus Device::Check(Request* request) const {
  const uint64_t offset = request->offset();
  if (offset > geometry_.size_bytes ||
      request->length_bytes > geometry_.size_bytes - offset) {
    request->cause.where = outside_.c_str();
    return IoStatus::kIoError;
  }
  if (!geometry_.read_only) return IoStatus::kOk;
  switch (request->op) {
    case Request::Op::kRead:
    case Request::Op::kFlush:
      return IoStatus::kOk;
    case Request::Op::kWrite:
      request->cause.where = "the device is read-only";
      return IoStatus::kIoError;
    default:
      return IoStatus::kUnsupported;
  }
}

void Device::OnRequest(Request* request) {
  switch (ClassOf(request->op)) {
    case OpClass::kRead:
      ++counters_.reads;
      counters_.read_bytes += request->length_bytes;
      break;
    case OpClass::kWrite:
      ++counters_.writes;
      counters_.write_bytes += request->length_bytes;
      break;
    case OpClass::kFlush:
      ++counters_.flushes;
      [[fallthrough]];
    case OpClass::kOther:
      ++counters_.other_requests;
  }
  ++counters_.in_flight;
  loop_->CountRequest();
  request->observe = OnOver;
  request->observer = this;
  if (!geometry_.remap) request->begun_us = loop_->TurnUs();
  request->cause = {};
  const IoStatus verdict = Check(request);
  if (verdict != IoStatus::kOk) {
    request->Complete(verdict);
    return;
  }
  backend_->Submit(request);
}

// The time of this turn would not do: the I/O may have been done in it.
void Device::OnOver(Request* request) {
  auto* self = static_cast<Device*>(request->observer);
  DMU_CHECK(self->counters_.in_flight > 0);
  --self->counters_.in_flight;
  // With remap nothing was done yet, and the clock costs more than the answer.
  if (!self->geometry_.remap) {
    self->latency_[static_cast<int>(ClassOf(request->op))].Add(
        self->loop_->NowUs() - request->begun_us);
  }
  if (request->status == IoStatus::kOk) return;
  if (self->errors_.Add(self->name_.c_str(), *request)) {
    self->loop_->Post(self->failed_);
  }
}

void Device::OnClosed(CloseReason reason) {
  if (reason == CloseReason::kProtocolError) {
    LogWith(LogLevel::kError, {.device = name_.c_str()},
            "%s: no longer served: its channel broke", name_.c_str());
  }
  closed_->run(closed_->context);
}

}  // namespace dmu
