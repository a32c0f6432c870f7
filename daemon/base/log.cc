// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/bytes.h"

namespace dmu {

namespace {

constexpr char kIdentifier[] = "dmuserd";
// syslog's "system daemons"; the kernel's log tells who wrote a line by it.
constexpr int kFacility = 3;
constexpr size_t kTextBytesMax = 512;
// The text, at most 127 bytes of a device's name, and the other fields.
constexpr size_t kDatagramBytesMax = 1024;
constexpr int64_t kLimitWindowMs = 10'000;

enum class Sink : uint8_t { kUnopened, kFile, kSocket, kJournal, kKmsg };

struct State {
  Sink sink = Sink::kUnopened;
  int fd = STDERR_FILENO;
  bool prefix = false;
  bool may_block = false;  // a write could wait: ask first
  sockaddr_un journal = {};
  uint64_t lost = 0;      // since the last line that got through
  uint64_t lost_all = 0;  // since the start
};

State state;

int64_t NowMs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// $JOURNAL_STREAM names the file that the journal is, if it is one of ours.
bool StderrIsJournal() {
  const char* stream = getenv("JOURNAL_STREAM");
  struct stat info = {};
  if (stream == nullptr || fstat(STDERR_FILENO, &info) != 0) return false;
  char* end = nullptr;
  const unsigned long long device = strtoull(stream, &end, 10);
  if (end == stream || *end != ':') return false;
  const char* inode_at = end + 1;
  const unsigned long long inode = strtoull(inode_at, &end, 10);
  return end != inode_at && *end == '\0' && device == info.st_dev &&
         inode == info.st_ino;
}

// A datagram socket that is connected, so that no path is looked up again.
int ConnectJournal(const sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) == 0) {
    return fd;
  }
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// An open file of our own of what standard error is, so that it can be
// non-blocking without being so for everybody who shares it.
State OpenStderr(bool prefix) {
  State next;
  next.sink = Sink::kFile;
  next.prefix = prefix;
  struct stat info = {};
  if (fstat(STDERR_FILENO, &info) != 0) return next;
  if (S_ISSOCK(info.st_mode)) {
    next.sink = Sink::kSocket;
  } else if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
    const int fd =
        open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) next.fd = fd;
    next.may_block = fd < 0;
  }
  return next;
}

int OpenKmsg(const char* path, State* next) {
  next->sink = Sink::kKmsg;
  next->fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  return next->fd >= 0 ? 0 : errno;
}

int OpenJournal(const char* path, State* next) {
  next->sink = Sink::kJournal;
  next->journal.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(next->journal.sun_path)) return ENAMETOOLONG;
  memcpy(next->journal.sun_path, path, strlen(path));
  next->fd = ConnectJournal(next->journal);
  return next->fd >= 0 ? 0 : errno;
}

// Bytes up to a limit; what does not fit is left out.
template <size_t kBytes>
class Buffer {
 public:
  void Add(const void* bytes, size_t count) {
    if (count > kBytes - used_) count = kBytes - used_;
    memcpy(bytes_ + used_, bytes, count);
    used_ += count;
  }
  void Add(const char* text) { Add(text, strlen(text)); }
  const char* data() const { return bytes_; }
  size_t size() const { return used_; }
  size_t left() const { return kBytes - used_; }

 private:
  char bytes_[kBytes];
  size_t used_ = 0;
};

using Datagram = Buffer<kDatagramBytesMax>;

// One field: NAME=value, or with the value's length where it has lines. One
// that does not fit whole is left out.
void AddField(const char* name, const char* value, Datagram* to) {
  const size_t value_bytes = strlen(value);
  if (strlen(name) + value_bytes + 10 > to->left()) return;
  to->Add(name);
  if (strchr(value, '\n') == nullptr) {
    to->Add("=");
  } else {
    uint8_t length[sizeof(uint64_t)];
    StoreLe<uint64_t>(length, value_bytes);
    to->Add("\n");
    to->Add(length, sizeof(length));
  }
  to->Add(value, value_bytes);
  to->Add("\n");
}

void AddNumber(const char* name, uint64_t value, Datagram* to) {
  char text[24];
  snprintf(text, sizeof(text), "%llu", static_cast<unsigned long long>(value));
  AddField(name, text, to);
}

bool SendJournal(LogLevel level, const LogFields& fields, const char* text) {
  Datagram datagram;
  AddField("MESSAGE", text, &datagram);
  AddNumber("PRIORITY", static_cast<uint64_t>(level), &datagram);
  AddNumber("SYSLOG_FACILITY", kFacility, &datagram);
  AddField("SYSLOG_IDENTIFIER", kIdentifier, &datagram);
  if (fields.op != nullptr) AddField("DM_USER_OP", fields.op, &datagram);
  if (fields.sector != LogFields::kNoSector) {
    AddNumber("DM_USER_SECTOR", fields.sector, &datagram);
  }
  if (fields.error != 0) {
    AddNumber("ERRNO", static_cast<uint64_t>(fields.error), &datagram);
  }
  if (fields.device != nullptr) {
    AddField("DM_USER_DEVICE", fields.device, &datagram);
  }
  for (bool again = true;; again = false) {
    if (send(state.fd, datagram.data(), datagram.size(),
             MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
      return true;
    }
    if (errno == EINTR) continue;
    if (!again ||
        (errno != ECONNREFUSED && errno != ECONNRESET && errno != ENOTCONN)) {
      return false;
    }
    // The journal was started anew with a socket of its own.
    const int fd = ConnectJournal(state.journal);
    if (fd < 0) return false;
    close(state.fd);
    state.fd = fd;
  }
}

// A line of its own: what is no letter could begin another one.
bool SendLine(LogLevel level, const char* text) {
  Buffer<kTextBytesMax + 32> line;
  char prefix[32] = "";
  if (state.sink == Sink::kKmsg) {
    snprintf(prefix, sizeof(prefix),
             "<%d>%s: ", kFacility * 8 + static_cast<int>(level), kIdentifier);
  } else if (state.prefix) {
    snprintf(prefix, sizeof(prefix), "<%d>", static_cast<int>(level));
  }
  line.Add(prefix);
  for (const char* at = text; *at != '\0'; ++at) {
    const bool control = static_cast<unsigned char>(*at) < ' ' || *at == 0x7f;
    line.Add(control ? "?" : at, 1);
  }
  line.Add("\n", 1);
  if (state.may_block) {
    pollfd ask = {.fd = state.fd, .events = POLLOUT, .revents = 0};
    if (poll(&ask, 1, 0) != 1) return false;
  }
  // One call per line, so lines of several processes do not mix.
  for (;;) {
    const ssize_t put = state.sink == Sink::kSocket
                            ? send(state.fd, line.data(), line.size(),
                                   MSG_DONTWAIT | MSG_NOSIGNAL)
                            : write(state.fd, line.data(), line.size());
    if (put >= 0) return true;
    if (errno != EINTR) return false;
  }
}

bool SendText(LogLevel level, const LogFields& fields, const char* text) {
  return state.sink == Sink::kJournal ? SendJournal(level, fields, text)
                                      : SendLine(level, text);
}

void VLog(LogLevel level, const LogFields& fields, const char* format,
          va_list arguments) {
  if (state.sink == Sink::kUnopened) {
    state.sink = Sink::kFile;
    state.prefix = isatty(STDERR_FILENO) != 1;
  }
  char text[kTextBytesMax];
  if (vsnprintf(text, sizeof(text), format, arguments) < 0) return;
  if (state.lost > 0) {
    char notice[80];
    snprintf(notice, sizeof(notice),
             "%llu of the log's lines are lost: nobody took them in time",
             static_cast<unsigned long long>(state.lost));
    if (SendText(LogLevel::kWarning, {}, notice)) state.lost = 0;
  }
  if (state.lost == 0 && SendText(level, fields, text)) return;
  ++state.lost;
  ++state.lost_all;
}

}  // namespace

int OpenLog(const LogOptions& options) {
  State next;
  int error = 0;
  switch (options.target) {
    case LogTarget::kStderr:
    case LogTarget::kPrefix:
      next = OpenStderr(options.target == LogTarget::kPrefix);
      break;
    case LogTarget::kJournal:
      error = OpenJournal(options.journal_path, &next);
      break;
    case LogTarget::kKmsg:
      error = OpenKmsg(options.kmsg_path, &next);
      break;
    case LogTarget::kAuto:
      if (!StderrIsJournal() || OpenJournal(options.journal_path, &next) != 0) {
        next = OpenStderr(isatty(STDERR_FILENO) != 1);
      }
      break;
  }
  if (error != 0) return error;
  next.lost = state.lost;
  next.lost_all = state.lost_all;
  if (state.fd != STDERR_FILENO) close(state.fd);
  state = next;
  return 0;
}

void Log(LogLevel level, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  VLog(level, {}, format, arguments);
  va_end(arguments);
}

void LogWith(LogLevel level, const LogFields& fields, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  VLog(level, fields, format, arguments);
  va_end(arguments);
}

uint64_t LogLinesLost() { return state.lost_all; }

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
