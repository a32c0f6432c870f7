// SPDX-License-Identifier: Apache-2.0
//
// device.h - binds one channel to one back end.
//
// Owns: both of them, the counters, the times, what went wrong, the order of
// taking them apart. Checks every request before the back end sees it. Knows
// neither kind: main.cc makes them.
//
// A request is what the channel hands over: one of the kernel that is longer
// than a pool buffer is several here.
#ifndef DAEMON_DEVICE_DEVICE_H_
#define DAEMON_DEVICE_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "daemon/block/backend.h"
#include "daemon/block/channel.h"
#include "daemon/device/error_record.h"
#include "daemon/device/latency.h"
#include "daemon/io/loop.h"

namespace dmu {

class Device : public RequestSink {
 public:
  struct Counters {
    uint64_t reads = 0;
    uint64_t read_bytes = 0;
    uint64_t writes = 0;
    uint64_t write_bytes = 0;
    uint64_t flushes = 0;
    uint64_t other_requests = 0;  // flushes too
    uint64_t in_flight = 0;       // now
  };

  // By which times are kept apart.
  enum class OpClass : uint8_t { kRead, kWrite, kFlush, kOther };
  static constexpr int kOpClasses = 4;
  static OpClass ClassOf(Request::Op op);

  // `closed` runs, from inside a turn, when the kernel side is gone. `failed`
  // is posted to the loop when a request failed, but not for each of many.
  Device(std::string name, std::unique_ptr<Channel> channel,
         std::unique_ptr<Backend> backend, Loop* loop, Task* closed,
         Task* failed);
  ~Device() override;

  using Started = std::function<void(const absl::Status&)>;

  // Begins to serve; `started` is called when the kernel side is up, or with
  // why not, perhaps from inside this call. Not after Stop.
  void Start(Started started = nullptr);

  // Stops the channel, then the back end; `done` runs when both are through and
  // the device may be deleted. remove: what the channel made in the kernel goes
  // away; else it stays for the next daemon.
  void Stop(Task* done, bool remove = false);

  // Has `backend`, which shows the same, answer from now on. What the one
  // before works on it finishes; then it is deleted and `replaced` is called,
  // also when the device is stopped meanwhile. Once in a device's life.
  void Replace(std::unique_ptr<Backend> backend,
               std::function<void()> replaced);

  const std::string& name() const { return name_; }
  const Counters& counters() const { return counters_; }
  const ErrorRecord& errors() const { return errors_; }
  // From the turn a request was handed over in until its back end was done with
  // it: what it waited for others in between is in it.
  const LatencyHistogram& latency(OpClass of) const {
    return latency_[static_cast<int>(of)];
  }
  Backend* backend() const { return backend_.get(); }

  // Of the channel; empty when the device mapper's device is the only one.
  std::string device_path() const { return channel_->device_path(); }
  const char* channel_way() const { return channel_->way(); }

  void OnStarted(const absl::Status& status) override;
  void OnRequest(Request* request) override;
  void OnClosed(CloseReason reason) override;

 private:
  static void OnChannelStopped(void* context);
  static void OnReplacedDrained(void* context);
  static void OnOver(Request* request);

  // kOk, or how to refuse the request without asking the back end.
  IoStatus Check(Request* request) const;

  const std::string name_;
  const std::unique_ptr<Channel> channel_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> replaced_;  // until it has drained
  const Geometry geometry_;
  const std::string outside_;  // why a request beyond the end is refused
  Loop* const loop_;
  Task* const closed_;
  Task* const failed_;
  Task channel_stopped_;
  Task replaced_drained_;
  Started started_;
  std::function<void()> replaced_done_;
  Task* stopped_ = nullptr;
  bool channel_is_stopped_ = false;
  Counters counters_;
  LatencyHistogram latency_[kOpClasses];
  ErrorRecord errors_;
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_DEVICE_H_
