// SPDX-License-Identifier: Apache-2.0
//
// sink.h - where a COW file is written.
#ifndef DAEMON_COW_SINK_H_
#define DAEMON_COW_SINK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/base/types.h"

namespace dmu::cow {

class Sink {
 public:
  virtual ~Sink() = default;
  // Positions may come in any order.
  virtual absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) = 0;
  // What was written before is durable.
  virtual absl::Status Sync() = 0;
  // The file ends here: a regular file is cut, a device stays as it is. Called
  // when all is written.
  virtual absl::Status SetEnd(uint64_t) { return absl::OkStatus(); }
};

// Forgets what it gets: with it a Writer is an estimator (Writer::file_bytes).
class NullSink : public Sink {
 public:
  absl::Status WriteAt(uint64_t, ConstByteSpan) override {
    return absl::OkStatus();
  }
  absl::Status Sync() override { return absl::OkStatus(); }
};

// What a file to be continued is read from.
class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual absl::Status ReadAt(uint64_t offset, ByteSpan out) = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_SINK_H_
