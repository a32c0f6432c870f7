// SPDX-License-Identifier: Apache-2.0
//
// wire.h - the 40-byte message header as Request fields.
//
// Specified in dm-user/uapi/dm-user.h, the one header shared with the kernel.
#ifndef DAEMON_CHANNEL_WIRE_H_
#define DAEMON_CHANNEL_WIRE_H_

#include <cstddef>
#include <cstdint>

#include "daemon/block/request.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu::wire {

inline constexpr size_t kHeaderBytes = 40;
static_assert(sizeof(dm_user_message) == kHeaderBytes);

// Whether payload follows the header of this request.
constexpr bool CarriesPayload(const dm_user_message& header) {
  return header.type == DM_USER_REQ_MAP_WRITE && header.len > 0;
}

// Whether a request can have this length and place: whole sectors, nothing but
// a flush without any, and an end that 64 bits of bytes can say.
constexpr bool CanBe(const dm_user_message& header) {
  const bool flush = header.type == DM_USER_REQ_MAP_WRITE ||
                     header.type == DM_USER_REQ_MAP_FLUSH;
  return header.len % kSectorBytes == 0 && (header.len > 0 || flush) &&
         header.sector <= UINT64_MAX / kSectorBytes &&
         header.len <= UINT64_MAX - header.sector * kSectorBytes;
}

// Op and flags of a request as the daemon sees them. An fsync arrives as an
// empty WRITE with the preflush flag and becomes kFlush.
constexpr void DecodeOp(const dm_user_message& header, Request* request) {
  request->fua = (header.flags & DM_USER_REQ_MAP_FLAG_FUA) != 0;
  request->preflush = (header.flags & DM_USER_REQ_MAP_FLAG_PREFLUSH) != 0;
  switch (header.type) {
    case DM_USER_REQ_MAP_READ:
      request->op = Request::Op::kRead;
      break;
    case DM_USER_REQ_MAP_WRITE:
      request->op = header.len == 0 ? Request::Op::kFlush : Request::Op::kWrite;
      break;
    case DM_USER_REQ_MAP_FLUSH:
      request->op = Request::Op::kFlush;
      break;
    case DM_USER_REQ_MAP_DISCARD:
      request->op = Request::Op::kDiscard;
      break;
    case DM_USER_REQ_MAP_SECURE_ERASE:
      request->op = Request::Op::kSecureErase;
      break;
    case DM_USER_REQ_MAP_WRITE_ZEROES:
      request->op = Request::Op::kWriteZeroes;
      break;
    default:
      request->op = Request::Op::kUnknown;
  }
}

constexpr dm_user_message EncodeReply(uint64_t seq, IoStatus status) {
  dm_user_message reply = {};
  reply.seq = seq;
  switch (status) {
    case IoStatus::kOk:
      reply.type = DM_USER_RESP_SUCCESS;
      break;
    case IoStatus::kUnsupported:
      reply.type = DM_USER_RESP_UNSUPPORTED;
      break;
    default:
      reply.type = DM_USER_RESP_ERROR;
  }
  return reply;
}

}  // namespace dmu::wire

#endif  // DAEMON_CHANNEL_WIRE_H_
