// SPDX-License-Identifier: Apache-2.0
//
// pressure.cc - see pressure.h.
#include "daemon/backend/pressure.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include <charconv>
#include <string_view>
#include <system_error>

namespace dmu {
namespace {

UniqueFd OpenIn(const char* directory, const char* name) {
  char path[PATH_MAX];
  const int length = snprintf(path, sizeof(path), "%s/%s", directory, name);
  if (length < 0 || length >= static_cast<int>(sizeof(path))) return UniqueFd();
  return UniqueFd(open(path, O_RDONLY | O_CLOEXEC));
}

// Takes N from the line "some avg10=0.00 avg60=0.00 avg300=0.00 total=N".
bool ReadTotal(int fd, uint64_t* total_us) {
  char buffer[512];
  const ssize_t got = pread(fd, buffer, sizeof(buffer), 0);
  if (got <= 0) return false;
  std::string_view line(buffer, static_cast<size_t>(got));
  line = line.substr(0, line.find('\n'));
  constexpr std::string_view kTotal = " total=";
  const size_t at = line.find(kTotal);
  if (!line.starts_with("some ") || at == line.npos) return false;
  line.remove_prefix(at + kTotal.size());
  uint64_t value = 0;
  const char* const end = line.data() + line.size();
  const auto [rest, error] = std::from_chars(line.data(), end, value);
  if (error != std::errc() || rest != end) return false;
  *total_us = value;
  return true;
}

}  // namespace

ProcPressure::ProcPressure(const char* directory)
    : io_fd_(OpenIn(directory, "io")),
      memory_fd_(OpenIn(directory, "memory")) {}

bool ProcPressure::Read(Totals* totals) {
  Totals read;
  if (!io_fd_.valid() || !ReadTotal(io_fd_.get(), &read.io_us)) return false;
  if (memory_fd_.valid() && !ReadTotal(memory_fd_.get(), &read.memory_us)) {
    return false;
  }
  *totals = read;
  return true;
}

}  // namespace dmu
