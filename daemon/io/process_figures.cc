// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/process_figures.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/io/unique_fd.h"

// Of the linker: where the program is.
extern "C" const char __executable_start[];
extern "C" const char etext[];

namespace dmu {

namespace {

// A small file of /proc as text.
class ProcText {
 public:
  explicit ProcText(const char* path) {
    UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return;
    size_t used = 0;
    while (used < sizeof(text_) - 1) {
      const ssize_t got =
          read(fd.get(), text_ + used, sizeof(text_) - 1 - used);
      if (got <= 0) break;
      used += static_cast<size_t>(got);
    }
    text_[used] = '\0';
  }

  // The number behind "key:" at the beginning of a line; 0 without it.
  uint64_t Number(const char* key) const {
    const size_t length = strlen(key);
    for (const char* line = text_; line != nullptr;) {
      if (strncmp(line, key, length) == 0 && line[length] == ':') {
        return strtoull(line + length + 1, nullptr, 10);
      }
      line = strchr(line, '\n');
      if (line != nullptr) ++line;
    }
    return 0;
  }

  const char* text() const { return text_; }

 private:
  char text_[4096] = "";
};

// Field 22 of /proc/self/stat, counted behind the name, which may hold blanks.
uint64_t StartedUnixMs() {
  const ProcText stat("/proc/self/stat");
  const char* at = strrchr(stat.text(), ')');
  for (int field = 2; at != nullptr && field < 22; ++field) {
    at = strchr(at + 1, ' ');
  }
  timespec now = {};
  timespec since_boot = {};
  const long ticks_per_s = sysconf(_SC_CLK_TCK);
  if (at == nullptr || ticks_per_s <= 0 ||
      clock_gettime(CLOCK_REALTIME, &now) != 0 ||
      clock_gettime(CLOCK_BOOTTIME, &since_boot) != 0) {
    return 0;
  }
  const auto to_ms = [](const timespec& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1000 +
           static_cast<uint64_t>(time.tv_nsec) / 1'000'000;
  };
  const uint64_t started_ms =
      strtoull(at, nullptr, 10) * 1000 / static_cast<uint64_t>(ticks_per_s);
  return to_ms(now) - to_ms(since_boot) + started_ms;
}

uint64_t ToUs(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000 +
         static_cast<uint64_t>(time.tv_usec);
}

}  // namespace

ProcessFigures ProcessFigures::Read() {
  ProcessFigures figures;
  {
    const ProcText rollup("/proc/self/smaps_rollup");
    figures.anonymous_bytes = rollup.Number("Anonymous") * 1024;
    figures.private_bytes =
        (rollup.Number("Private_Clean") + rollup.Number("Private_Dirty")) *
        1024;
  }
  const ProcText status("/proc/self/status");
  figures.peak_resident_bytes = status.Number("VmHWM") * 1024;
  figures.threads = static_cast<uint32_t>(status.Number("Threads"));
  rusage usage = {};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    figures.cpu_us = ToUs(usage.ru_utime) + ToUs(usage.ru_stime);
  }
  figures.started_unix_ms = StartedUnixMs();
  return figures;
}

const ProcessFigures& SparingFigures::Get(uint64_t now_us) {
  if (reads_ > 0) {
    allowed_us_ =
        std::min(allowed_us_ + (now_us - at_us_), kReadsAtOnce * kReadUs);
  }
  at_us_ = now_us;
  if (allowed_us_ >= kReadUs) {
    allowed_us_ -= kReadUs;
    ++reads_;
    last_ = ProcessFigures::Read();
  }
  return last_;
}

void AnonymousPeak::Look() {
  Look(ProcText("/proc/self/status").Number("RssAnon") * 1024);
}

void ForgetCodePages() {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin =
      reinterpret_cast<uintptr_t>(__executable_start) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(etext) / page * page;
  // Private and not written to, so it is the file's bytes that come back.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace dmu
