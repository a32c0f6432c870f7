// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/inherited_socket.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

namespace dmu {

int InheritedAndroidSocket(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string key = "ANDROID_SOCKET_";
  key += slash == std::string::npos ? path : path.substr(slash + 1);
  for (char& c : key) {
    const bool kept = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                      (c >= 'A' && c <= 'Z');
    if (!kept) c = '_';
  }
  const char* value = getenv(key.c_str());
  if (value == nullptr || value[0] < '0' || value[0] > '9') return -1;
  char* end = nullptr;
  errno = 0;
  const long fd = strtol(value, &end, 10);
  return errno == 0 && *end == '\0' && fd <= INT_MAX ? static_cast<int>(fd)
                                                     : -1;
}

}  // namespace dmu
