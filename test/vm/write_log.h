// SPDX-License-Identifier: Apache-2.0
//
// write_log.h - the log that the kernel's dm-log-writes target leaves, as a
// list of what was done to the disk, in the order in which it was done.
//
// The format, all numbers little-endian, in units of the sector size that the
// first sector names: sector 0 holds magic, version, number of entries (64 bits
// each) and the sector size (32 bits). The entries follow without gaps. Each
// has one sector with the place, the length in sectors, flags and the length of
// a mark's text (64 bits each), then that text; and, unless it is a discard,
// the data in sectors of their own. A write stands in the log behind every
// flush that was asked for before the write was done.
#ifndef TEST_VM_WRITE_LOG_H_
#define TEST_VM_WRITE_LOG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/base/types.h"

namespace dmu {

struct LogEntry {
  // The order of the kernel: an entry with data and the flag flushes first.
  bool flush = false;
  bool fua = false;  // the data are durable when they are written
  bool discard = false;
  bool mark = false;
  // Of a flush too: where the asking device lies, as long as every target on
  // the way maps the place of an empty request.
  uint64_t offset = 0;
  uint64_t length_bytes = 0;
  ConstByteSpan data;  // of the log; empty for a flush, a discard, a mark
};

class WriteLog {
 public:
  // kDataLoss, with the offset, for anything but a whole log of version 1.
  static absl::StatusOr<WriteLog> Read(const std::string& path);

  const std::vector<LogEntry>& entries() const { return entries_; }

 private:
  absl::Status Parse(const std::string& path);

  std::vector<uint8_t> bytes_;
  std::vector<LogEntry> entries_;
};

}  // namespace dmu

#endif  // TEST_VM_WRITE_LOG_H_
