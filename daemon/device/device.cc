// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/device.h"

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
      channel_stopped_(OnChannelStopped, this) {}

Device::~Device() { loop_->Cancel(failed_); }

void Device::Start() {
  if (Redirect* redirect = channel_->redirect()) {
    backend_->OfferRedirect(redirect);
  }
  channel_->Start(this);
}

void Device::Stop(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  channel_->Stop(&channel_stopped_);
}

void Device::OnChannelStopped(void* context) {
  auto* self = static_cast<Device*>(context);
  self->backend_->Drain(self->stopped_);
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
  request->observe = OnOver;
  request->observer = this;
  request->begun_us = loop_->TurnUs();
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
  self->latency_[static_cast<int>(ClassOf(request->op))].Add(
      self->loop_->NowUs() - request->begun_us);
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
