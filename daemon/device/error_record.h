// SPDX-License-Identifier: Apache-2.0
//
// error_record.h - what went wrong with a device's requests: how often, of
// which class, and the last one in words.
//
// Fixed memory. Every failed request is counted; of many in a short time only
// the first are logged and told as events, so that a broken disk fills neither
// the journal nor a client.
#ifndef DAEMON_DEVICE_ERROR_RECORD_H_
#define DAEMON_DEVICE_ERROR_RECORD_H_

#include <cstdint>

#include "daemon/base/log.h"
#include "daemon/block/request.h"

namespace dmu {

// "read", "write", "flush"...
const char* OpName(Request::Op op);

class ErrorRecord {
 public:
  static constexpr int kTextBytesMax = 256;

  // Takes note of a request that did not end well. True when it was logged and
  // should be told. kUnsupported is an answer, not a failure: it is counted and
  // no more.
  bool Add(const char* device, const Request& request);

  uint64_t all() const;
  uint64_t count(IoStatus status) const {
    return counts_[static_cast<int>(status)];
  }

  // A sentence; empty when nothing has failed.
  const char* last_text() const { return last_text_; }
  uint64_t last_unix_ms() const { return last_unix_ms_; }
  IoStatus last_status() const { return last_status_; }
  int last_error() const { return last_error_; }  // errno; 0: none
  Request::Op last_op() const { return last_op_; }
  uint64_t last_sector() const { return last_sector_; }

 private:
  void Describe(const Request& request);

  uint64_t counts_[kIoStatusCount] = {};
  char last_text_[kTextBytesMax] = "";
  uint64_t last_unix_ms_ = 0;
  uint64_t last_sector_ = 0;
  int last_error_ = 0;
  IoStatus last_status_ = IoStatus::kOk;
  Request::Op last_op_ = Request::Op::kUnknown;
  LogLimiter limiter_{10};
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_ERROR_RECORD_H_
