// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/inherited_socket.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace dmu {
namespace {

// systemd's first open file.
constexpr int kListenFdFirst = 3;

// The number in an environment variable; -1 without one.
long Number(const char* value) {
  if (value == nullptr || value[0] < '0' || value[0] > '9') return -1;
  char* end = nullptr;
  errno = 0;
  const long number = strtol(value, &end, 10);
  return errno == 0 && *end == '\0' && number <= INT_MAX ? number : -1;
}

bool IsBoundTo(int fd, const std::string& path) {
  sockaddr_un address = {};
  socklen_t length = sizeof(address);
  return getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 &&
         address.sun_family == AF_UNIX &&
         path.compare(0, std::string::npos, address.sun_path,
                      strnlen(address.sun_path, sizeof(address.sun_path))) == 0;
}

}  // namespace

int InheritedAndroidSocket(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string key = "ANDROID_SOCKET_";
  key += slash == std::string::npos ? path : path.substr(slash + 1);
  for (char& c : key) {
    const bool kept = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                      (c >= 'A' && c <= 'Z');
    if (!kept) c = '_';
  }
  return static_cast<int>(Number(getenv(key.c_str())));
}

int InheritedSystemdSocket(const std::string& path) {
  // The variables also reach children of the process that they are meant for.
  if (Number(getenv("LISTEN_PID")) != getpid()) return -1;
  const long count = Number(getenv("LISTEN_FDS"));
  for (int fd = kListenFdFirst; fd < kListenFdFirst + count; ++fd) {
    if (IsBoundTo(fd, path)) return fd;
  }
  return -1;
}

int InheritedSocket(const std::string& path) {
  const int fd = InheritedSystemdSocket(path);
  return fd >= 0 ? fd : InheritedAndroidSocket(path);
}

}  // namespace dmu
