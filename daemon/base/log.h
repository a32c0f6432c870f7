// SPDX-License-Identifier: Apache-2.0
//
// log.h - one line to where this daemon's log is, without an allocation.
//
// Where that is, is decided once, by OpenLog at the start: the journal by its
// native protocol, the kernel's log, or standard error. Whatever is needed is
// opened there; a line later costs one system call and no look at any path.
//
// A log never holds the loop up: what cannot be written at once is lost,
// counted, and said in the first line that gets through again. The data path
// logs through a LogLimiter, so that a broken disk cannot fill the journal.
//
// Fields of a line are the journal's (DM_USER_DEVICE, DM_USER_OP,
// DM_USER_SECTOR, ERRNO); elsewhere the text has to say all by itself, so it
// does.
#ifndef DAEMON_BASE_LOG_H_
#define DAEMON_BASE_LOG_H_

#include <cstdint>

namespace dmu {

// Values are syslog's.
enum class LogLevel : int { kError = 3, kWarning = 4, kNotice = 5, kInfo = 6 };

enum class LogTarget : uint8_t {
  // The journal when standard error is the journal ($JOURNAL_STREAM); else
  // standard error, as kStderr on a terminal and as kPrefix elsewhere.
  kAuto,
  kStderr,   // plain lines
  kPrefix,   // lines that begin with "<n>", the priority
  kJournal,  // the journal's socket, or an error
  kKmsg,     // the kernel's log: before there is a journal
};

struct LogOptions {
  LogTarget target = LogTarget::kAuto;
  // Others in tests only.
  const char* journal_path = "/run/systemd/journal/socket";
  const char* kmsg_path = "/dev/kmsg";
};

// Until it is called lines go to standard error as by kAuto without a journal.
// 0, or an errno value when the target that was asked for cannot be opened; the
// log is then as it was. kAuto never fails.
int OpenLog(const LogOptions& options);

struct LogFields {
  static constexpr uint64_t kNoSector = UINT64_MAX;
  const char* device = nullptr;
  const char* op = nullptr;  // "read", "merge"...
  uint64_t sector = kNoSector;
  int error = 0;  // an errno value
};

// Formats as printf; cut at about 500 characters.
void Log(LogLevel level, const char* format, ...)
    __attribute__((format(printf, 2, 3)));
void LogWith(LogLevel level, const LogFields& fields, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// Lines that were lost since the start because nobody took them in time.
uint64_t LogLinesLost();

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
