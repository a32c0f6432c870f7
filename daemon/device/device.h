// SPDX-License-Identifier: Apache-2.0
//
// device.h - binds one channel to one back end.
//
// Owns: both of them, the counters, the order of taking them apart. Checks
// every request before the back end sees it. Knows neither kind: main.cc makes
// them.
#ifndef DAEMON_DEVICE_DEVICE_H_
#define DAEMON_DEVICE_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "daemon/base/log.h"
#include "daemon/block/backend.h"
#include "daemon/block/channel.h"

namespace dmu {

class Device : public RequestSink {
 public:
  struct Counters {
    uint64_t reads = 0;
    uint64_t read_bytes = 0;
    uint64_t writes = 0;
    uint64_t write_bytes = 0;
    uint64_t other_requests = 0;
    uint64_t errors = 0;
  };

  // `closed` runs, from inside a turn, when the kernel side is gone.
  Device(std::string name, std::unique_ptr<Channel> channel,
         std::unique_ptr<Backend> backend, Task* closed);
  ~Device() override;

  // Begins to serve.
  void Start();

  // Stops the channel, then the back end; `done` runs when both are through and
  // the device may be deleted.
  void Stop(Task* done);

  const std::string& name() const { return name_; }
  const Counters& counters() const { return counters_; }
  Backend* backend() const { return backend_.get(); }

  void OnRequest(Request* request) override;
  void OnClosed(CloseReason reason) override;

 private:
  static void OnChannelStopped(void* context);

  // kOk, or how to refuse the request without asking the back end.
  IoStatus Check(const Request& request) const;
  void Refuse(Request* request, IoStatus status);

  const std::string name_;
  const std::unique_ptr<Channel> channel_;
  const std::unique_ptr<Backend> backend_;
  const Geometry geometry_;
  Task* const closed_;
  Task channel_stopped_;
  Task* stopped_ = nullptr;
  Counters counters_;
  LogLimiter log_limiter_{10};
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_DEVICE_H_
