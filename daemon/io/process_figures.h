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

// The figures for whoever asks, how often ever: each read of them takes the
// kernel as long as many requests. So many are read a second, and some more at
// a time; in between the last ones are given once more.
class SparingFigures {
 public:
  static constexpr uint64_t kReadsPerSecond = 10;
  static constexpr uint64_t kReadsAtOnce = 20;

  const ProcessFigures& Get(uint64_t now_us);
  // So far.
  uint64_t reads() const { return reads_; }

 private:
  static constexpr uint64_t kReadUs = 1'000'000 / kReadsPerSecond;

  ProcessFigures last_;
  uint64_t reads_ = 0;
  uint64_t allowed_us_ = kReadsAtOnce * kReadUs;
  uint64_t at_us_ = 0;
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

// Takes the pages of the program's own code out of this process, where nothing
// but the start needed most of them; those that are needed are mapped again as
// they are used, from memory while they are there. Not for a daemon whose
// memory is locked (no effect then).
void ForgetCodePages();

}  // namespace dmu

#endif  // DAEMON_IO_PROCESS_FIGURES_H_
