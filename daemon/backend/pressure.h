// SPDX-License-Identifier: Apache-2.0
//
// pressure.h - for how long tasks of this machine have waited for I/O and for
// memory, as the kernel's pressure stall information (PSI) counts it.
#ifndef DAEMON_BACKEND_PRESSURE_H_
#define DAEMON_BACKEND_PRESSURE_H_

#include <cstdint>

#include "daemon/io/unique_fd.h"

namespace dmu {

class PressureSource {
 public:
  // Since the machine started. The two must be compared each with itself: the
  // larger of two sums says nothing about what has grown since.
  struct Totals {
    uint64_t io_us = 0;
    uint64_t memory_us = 0;
  };

  virtual ~PressureSource() = default;

  // false when it is not known; *totals is then as it was.
  virtual bool Read(Totals* totals) = 0;
};

// The lines "some" of /proc/pressure/io and memory. The kernel brings their
// totals up to date at every read, so two reads some milliseconds apart measure
// what lies between them; the averages beside them lag by seconds.
class ProcPressure : public PressureSource {
 public:
  // Opens the files once. A kernel without PSI, or with PSI switched off, has
  // none, or none that can be read: Read is then false. Without the memory's
  // alone, the I/O's counts.
  explicit ProcPressure(const char* directory = "/proc/pressure");

  bool Read(Totals* totals) override;

 private:
  UniqueFd io_fd_;
  UniqueFd memory_fd_;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_PRESSURE_H_
