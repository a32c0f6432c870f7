// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

namespace dmu {

namespace {

constexpr int64_t kLimitWindowMs = 10'000;

int64_t NowMs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

void Log(LogLevel level, const char* format, ...) {
  static const bool on_terminal = isatty(STDERR_FILENO) == 1;
  char line[512];
  int used = 0;
  if (!on_terminal) {
    used = snprintf(line, sizeof(line), "<%d>", static_cast<int>(level));
  }
  va_list arguments;
  va_start(arguments, format);
  int length =
      vsnprintf(line + used, sizeof(line) - 1 - used, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  used += length;
  if (used > static_cast<int>(sizeof(line)) - 2) {
    used = static_cast<int>(sizeof(line)) - 2;
  }
  line[used++] = '\n';
  // One write per line, so lines of several processes do not mix. A log that
  // cannot be written has nobody to be told.
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, line, used);
}

bool LogLimiter::Allow(uint64_t* dropped) {
  const int64_t now_ms = NowMs();
  if (window_start_ms_ == 0 || now_ms - window_start_ms_ >= kLimitWindowMs) {
    window_start_ms_ = now_ms;
    used_ = 0;
  }
  if (used_ >= burst_) {
    ++dropped_;
    return false;
  }
  ++used_;
  *dropped = dropped_;
  dropped_ = 0;
  return true;
}

}  // namespace dmu
