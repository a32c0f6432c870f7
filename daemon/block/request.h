// SPDX-License-Identifier: Apache-2.0
//
// request.h - one request on its way from a channel to a back end and back.
//
// A Request is a slot of a fixed pool. The channel owns it; the back end
// borrows it between Submit and Complete. The payload buffer is attached by the
// channel and stays attached until the reply has left.
#ifndef DAEMON_BLOCK_REQUEST_H_
#define DAEMON_BLOCK_REQUEST_H_

#include <cstdint>

#include "daemon/base/check.h"
#include "daemon/base/task.h"
#include "daemon/base/types.h"

namespace dmu {

struct Request {
  enum class Op : uint8_t {
    kRead,
    kWrite,
    kFlush,
    kDiscard,
    kSecureErase,
    kWriteZeroes,
    kUnknown,  // a type this version does not know: answer kUnsupported
  };

  // Set by the channel before Submit; the back end does not change them.
  Op op = Op::kUnknown;
  bool fua = false;       // kWrite, kWriteZeroes: durable before completion
  bool preflush = false;  // earlier completed writes durable before this one
  uint64_t sector = 0;    // 512-byte sectors from the start of the device
  uint64_t length_bytes = 0;  // a multiple of 512; 0 for kFlush

  // kRead: filled by the back end. kWrite: the data. Exactly length_bytes;
  // empty for the other ops, and for all where Geometry::remap is.
  ByteSpan payload;

  uint64_t offset() const { return sector * kSectorBytes; }

  // Ends the request. Called exactly once per Submit, from a turn of the loop
  // or from inside Submit; the back end must not touch it afterwards.
  void Complete(IoStatus result) {
    DMU_CHECK(on_complete != nullptr);
    status = result;
    if (observe != nullptr) observe(this);
    on_complete(this);
  }

  // Looks at the request when it is over, before it is answered; set by the
  // device, which counts and times. May be nullptr.
  void (*observe)(Request* request) = nullptr;
  void* observer = nullptr;
  uint64_t begun_us = 0;  // by the loop's clock, of the turn it came in

  // What an error came from, if the back end knows; empty at Submit.
  IoCause cause;

  // Set by a back end with Geometry::remap before Complete(kOk): the kernel is
  // to send the request to base_device, from this sector on.
  bool remapped = false;
  uint64_t base_sector = 0;

  // Result, for on_complete.
  IoStatus status = IoStatus::kOk;
  void (*on_complete)(Request* request) = nullptr;  // set by the channel
  void* channel_data = nullptr;                     // likewise

  // For the back end's use while it borrows the request.
  Request* next = nullptr;
  void* backend_data = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_BLOCK_REQUEST_H_
