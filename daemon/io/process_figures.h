// SPDX-License-Identifier: Apache-2.0
//
// process_figures.h - what the kernel says of this process: memory, threads,
// time.
//
// From /proc/self, which is no file of any disk; nothing is allocated. What the
// kernel does not say is 0.
#ifndef DAEMON_IO_PROCESS_FIGURES_H_
#define DAEMON_IO_PROCESS_FIGURES_H_

#include <cstdint>

namespace dmu {

struct ProcessFigures {
  uint64_t anonymous_bytes = 0;
  // Clean and dirty: what would be free if the process ended.
  uint64_t private_bytes = 0;
  // The most that was resident, pages of files included.
  uint64_t peak_resident_bytes = 0;
  uint32_t threads = 0;
  uint64_t cpu_us = 0;           // in user and kernel mode
  uint64_t started_unix_ms = 0;  // to 10 ms

  static ProcessFigures Read();
};

// The highest anonymous memory seen; the kernel keeps no such figure. Look is
// cheap enough for when a device comes or goes, not for a request.
class AnonymousPeak {
 public:
  void Look();
  void Look(uint64_t anonymous_bytes) {
    if (anonymous_bytes > bytes_) bytes_ = anonymous_bytes;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_IO_PROCESS_FIGURES_H_
