// SPDX-License-Identifier: Apache-2.0
//
// service.h - the verbs of the control protocol.
//
// Owns: one handler per verb and the list of watchers. No handler waits: what
// takes longer is answered from a callback of the registry.
#ifndef DAEMON_CONTROL_SERVICE_H_
#define DAEMON_CONTROL_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/control/server.h"
#include "daemon/device/registry.h"
#include "proto/control.pb.h"

namespace dmu {

class Service : public SessionHandler {
 public:
  // Devices that a session may watch.
  static constexpr size_t kWatchesPerSessionMax = 256;

  // What the daemon as a whole does.
  struct Daemon {
    // Adds its own figures to a status answer.
    std::function<void(proto::DaemonStatus*)> fill_status;
    // Sets the limits of all merges.
    std::function<absl::Status(const proto::Throttle&)> throttle;
    // Ends, and leaves the devices to the next daemon.
    std::function<void()> stop;
  };
  Service(Registry* registry, Daemon daemon);

  // Must be set before the first frame.
  void SetServer(Server* server) { server_ = server; }

  void OnFrame(uint64_t session, Role role, const uint8_t* bytes,
               uint32_t count) override;
  void OnDrained(uint64_t session) override;
  void OnEnd(uint64_t session) override;

 private:
  struct Watcher {
    uint64_t session = 0;
    uint64_t id = 0;
    std::string name;
    bool past_merge = false;  // does not end with the merge
    bool stale = false;       // a change was left out because the client lagged
  };

  void Answer(uint64_t session, uint64_t id, const absl::Status& status);
  void AnswerStatus(uint64_t session, uint64_t id, const proto::Status& what);
  void AnswerThrottle(uint64_t session, uint64_t id,
                      const proto::Throttle& throttle);
  void BeginWatch(uint64_t session, uint64_t id, const proto::Watch& what);
  void OnDeviceChanged(const std::string& name);
  // Sends the newest status; false when it was the last one for this watcher.
  bool SendEvent(const Watcher& watcher);
  void Send(uint64_t session, const proto::Response& response);

  Registry* const registry_;
  const Daemon daemon_;
  Server* server_ = nullptr;
  std::vector<Watcher> watchers_;
};

}  // namespace dmu

#endif  // DAEMON_CONTROL_SERVICE_H_
