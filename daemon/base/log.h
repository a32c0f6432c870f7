// SPDX-License-Identifier: Apache-2.0
//
// log.h - one line to standard error, without an allocation.
//
// Lines carry the "<n>" priority prefix that journald and the kernel log read
// when standard error is not a terminal. The data path logs through a
// LogLimiter, so that a broken disk cannot fill the journal.
#ifndef DAEMON_BASE_LOG_H_
#define DAEMON_BASE_LOG_H_

#include <cstdint>

namespace dmu {

// Values are syslog's.
enum class LogLevel : int { kError = 3, kWarning = 4, kNotice = 5, kInfo = 6 };

// Formats as printf; cut at about 500 characters.
void Log(LogLevel level, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// Lets `burst` lines through per ten seconds and counts the rest.
class LogLimiter {
 public:
  explicit LogLimiter(uint32_t burst) : burst_(burst) {}
  // Whether a line may be written now. *dropped: how many were kept back since
  // the last one, to be mentioned in it.
  bool Allow(uint64_t* dropped);

 private:
  const uint32_t burst_;
  uint32_t used_ = 0;
  uint64_t dropped_ = 0;
  int64_t window_start_ms_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_BASE_LOG_H_
