// SPDX-License-Identifier: Apache-2.0
//
// busy_wait.h - when to try again what somebody else has in use.
//
// A file is in use until the last I/O on it has ended, of whoever had it: of a
// killed daemon too. That mostly takes milliseconds, and minutes where a disk
// is reset: tries come soon at first and then at longer intervals. Owns no
// timer; times are microseconds of the loop's clock.
#ifndef DAEMON_DEVICE_BUSY_WAIT_H_
#define DAEMON_DEVICE_BUSY_WAIT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace dmu {

class BusyWait {
 public:
  static constexpr uint64_t kFirstUs = 20'000;
  static constexpr uint64_t kLongestUs = 1'000'000;
  static constexpr uint64_t kForever = UINT64_MAX;

  // From now on, for at most limit_us.
  void Begin(uint64_t now_us, uint64_t limit_us) {
    began_us_ = now_us;
    limit_us_ = limit_us;
    step_us_ = kFirstUs;
    why_.clear();
  }

  // It was in use: in how many microseconds to try again; nothing when the time
  // is over.
  std::optional<uint64_t> NextUs(uint64_t now_us) {
    const uint64_t waited_us = now_us - began_us_;
    if (waited_us >= limit_us_) return std::nullopt;
    const uint64_t step_us = std::min(step_us_, limit_us_ - waited_us);
    step_us_ = std::min(2 * step_us_, kLongestUs);
    return step_us;
  }

  bool is_endless() const { return limit_us_ == kForever; }

  // For people, what it waits for; empty while it does not. True: that is new.
  bool Explain(const std::string& why) {
    const bool first = why_.empty();
    why_ = why;
    return first;
  }
  const std::string& why() const { return why_; }
  uint64_t WaitedUs(uint64_t now_us) const { return now_us - began_us_; }
  // True: it had waited.
  bool End() { return !std::exchange(why_, "").empty(); }

 private:
  uint64_t began_us_ = 0;
  uint64_t limit_us_ = 0;
  uint64_t step_us_ = kFirstUs;
  std::string why_;
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_BUSY_WAIT_H_
