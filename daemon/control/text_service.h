// SPDX-License-Identifier: Apache-2.0
//
// text_service.h - runs Android's commands on the registry.
//
// Owns: what the commands say about the daemon as a whole: whether it leaves,
// which merges were paused, how many are over. Its server has Framing::kPacket.
// No command waits; while one is answered later its session is not read, so
// that answers come in order and a client has at most one command in work.
//
// Devices of this socket and of the protobuf socket are the same devices.
// "init" makes a prepared one (Registry::Prepare): its files are open, checked
// and held, the dm device may be made as large as the answer says, and nothing
// is served before "start". A restart of the daemon forgets it, as Android's
// does; what was started comes back by itself, which Android's does not.
//
// After "detach" or "stop" the daemon serves on what it serves, takes nothing
// new, and ends when the last device is gone, as Android's does.
#ifndef DAEMON_CONTROL_TEXT_SERVICE_H_
#define DAEMON_CONTROL_TEXT_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/server.h"
#include "daemon/control/text_commands.h"
#include "daemon/device/registry.h"

namespace dmu {

class TextService : public SessionHandler {
 public:
  // `end` ends the daemon; called once, when nothing is left to be served.
  TextService(Registry* registry, std::function<void()> end);

  // Must be set before the first frame.
  void SetServer(Server* server) { server_ = server; }

  void OnFrame(uint64_t session, Role role, const uint8_t* bytes,
               uint32_t count) override;
  void OnDrained(uint64_t) override {}
  void OnEnd(uint64_t) override {}

 private:
  void Init(uint64_t session, const TextCommand& command);
  void AnswerStatus(uint64_t session, const std::string& name);
  // Has `work` call the given function once with what came of it, now or later.
  void AnswerWhenDone(uint64_t session, const char* verb,
                      const std::function<void(Registry::Done)>& work);
  void Answer(uint64_t session, const char* verb, const absl::Status& status);

  std::vector<proto::DeviceStatus> Devices() const;
  void PauseMerges(bool resume_later);
  void ResumeMerges();
  void Leave();
  void EndIfLeft();
  void OnDeviceChanged(const std::string& name);

  Registry* const registry_;
  std::function<void()> end_;
  Server* server_ = nullptr;
  bool leaving_ = false;
  std::vector<std::string> paused_;  // by pause_merge
  std::vector<std::string> merged_;  // devices that are there
  uint32_t merged_and_gone_ = 0;
  LogLimiter failures_{10};
};

}  // namespace dmu

#endif  // DAEMON_CONTROL_TEXT_SERVICE_H_
