// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/error_record.h"

#include <stdio.h>
#include <time.h>

#include "daemon/base/cause_text.h"

namespace dmu {

namespace {

uint64_t UnixMs() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 +
         static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace

const char* OpName(Request::Op op) {
  switch (op) {
    case Request::Op::kRead:
      return "read";
    case Request::Op::kWrite:
      return "write";
    case Request::Op::kFlush:
      return "flush";
    case Request::Op::kDiscard:
      return "discard";
    case Request::Op::kSecureErase:
      return "secure erase";
    case Request::Op::kWriteZeroes:
      return "write zeroes";
    case Request::Op::kUnknown:
      break;
  }
  return "unknown";
}

uint64_t ErrorRecord::all() const {
  uint64_t all = 0;
  for (const uint64_t count : counts_) all += count;
  return all;
}

bool ErrorRecord::Add(const char* device, const Request& request) {
  ++counts_[static_cast<int>(request.status)];
  if (request.status == IoStatus::kUnsupported) return false;
  Describe(request);
  uint64_t dropped = 0;
  if (!limiter_.Allow(&dropped)) return false;
  char left_out[64] = "";
  if (dropped > 0) {
    snprintf(left_out, sizeof(left_out), " (%llu such lines left out)",
             static_cast<unsigned long long>(dropped));
  }
  LogWith(LogLevel::kError,
          {.device = device,
           .op = OpName(request.op),
           .sector = request.sector,
           .error = request.cause.error},
          "%s: %s%s", device, last_text_, left_out);
  return true;
}

void ErrorRecord::Describe(const Request& request) {
  last_unix_ms_ = UnixMs();
  last_sector_ = request.sector;
  last_error_ = request.cause.error;
  last_status_ = request.status;
  last_op_ = request.op;
  snprintf(last_text_, sizeof(last_text_),
           "%s of %llu bytes at sector %llu: %s%s", OpName(request.op),
           static_cast<unsigned long long>(request.length_bytes),
           static_cast<unsigned long long>(request.sector),
           IoStatusName(request.status), CauseText(request.cause).text());
}

}  // namespace dmu
