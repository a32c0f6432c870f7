// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/device.h"

#include "daemon/base/check.h"

namespace dmu {

Device::Device(std::string name, std::unique_ptr<Channel> channel,
               std::unique_ptr<Backend> backend, Task* closed)
    : name_(std::move(name)),
      channel_(std::move(channel)),
      backend_(std::move(backend)),
      geometry_(backend_->geometry()),
      closed_(closed),
      channel_stopped_(OnChannelStopped, this) {}

Device::~Device() = default;

void Device::Start() { channel_->Start(this); }

void Device::Stop(Task* done) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = done;
  channel_->Stop(&channel_stopped_);
}

void Device::OnChannelStopped(void* context) {
  auto* self = static_cast<Device*>(context);
  self->backend_->Drain(self->stopped_);
}

IoStatus Device::Check(const Request& request) const {
  const uint64_t offset = request.offset();
  if (offset > geometry_.size_bytes ||
      request.length_bytes > geometry_.size_bytes - offset) {
    return IoStatus::kIoError;
  }
  if (!geometry_.read_only) return IoStatus::kOk;
  switch (request.op) {
    case Request::Op::kRead:
    case Request::Op::kFlush:
      return IoStatus::kOk;
    case Request::Op::kWrite:
      return IoStatus::kIoError;
    default:
      return IoStatus::kUnsupported;
  }
}

void Device::OnRequest(Request* request) {
  switch (request->op) {
    case Request::Op::kRead:
      ++counters_.reads;
      counters_.read_bytes += request->length_bytes;
      break;
    case Request::Op::kWrite:
      ++counters_.writes;
      counters_.write_bytes += request->length_bytes;
      break;
    default:
      ++counters_.other_requests;
  }
  request->failures = &counters_.errors;
  const IoStatus verdict = Check(*request);
  if (verdict != IoStatus::kOk) {
    Refuse(request, verdict);
    return;
  }
  backend_->Submit(request);
}

void Device::Refuse(Request* request, IoStatus status) {
  uint64_t dropped = 0;
  if (status == IoStatus::kIoError && log_limiter_.Allow(&dropped)) {
    Log(LogLevel::kWarning,
        "%s: refused a %s of %llu bytes at sector %llu: the device has %llu "
        "sectors%s (%llu such lines left out)",
        name_.c_str(), request->op == Request::Op::kWrite ? "write" : "request",
        static_cast<unsigned long long>(request->length_bytes),
        static_cast<unsigned long long>(request->sector),
        static_cast<unsigned long long>(geometry_.size_bytes / kSectorBytes),
        geometry_.read_only ? " and is read-only" : "",
        static_cast<unsigned long long>(dropped));
  }
  request->Complete(status);
}

void Device::OnClosed(CloseReason reason) {
  if (reason == CloseReason::kProtocolError) {
    Log(LogLevel::kError, "%s: no longer served: its channel broke",
        name_.c_str());
  }
  closed_->run(closed_->context);
}

}  // namespace dmu
