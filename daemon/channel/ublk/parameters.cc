// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/ublk/parameters.h"

#include <errno.h>

#include "daemon/base/buffer_pool.h"

namespace dmu::ublk {

namespace {

constexpr uint8_t kSectorShift = 9;
constexpr uint8_t kBlockShift = 12;
static_assert(1 << kSectorShift == kSectorBytes);
static_assert(1 << kBlockShift == kBlockBytes);
constexpr uint8_t kBufferShift = 16;
static_assert(1 << kBufferShift == BufferPool::kBufferBytes);

// A discard is one call for the back end, however long; this bounds how long
// the loop is away for it.
constexpr uint32_t kDiscardSectorsMax = (256 << 20) / kSectorBytes;

}  // namespace

DeviceInfo MakeDeviceInfo(uint64_t mark) {
  DeviceInfo info = {};
  info.queues = 1;
  info.depth = kQueueDepth;
  info.request_bytes_max = BufferPool::kBufferBytes;
  info.device = kAnyDevice;
  info.flags =
      kFeatureUserRecovery | kFeatureUserRecoveryReissue | kFeatureUserCopy;
  info.server_flags = mark;
  return info;
}

Params MakeParams(const Geometry& geometry) {
  Params params = {};
  params.length_bytes = kParamsBytes;
  params.types = kBasic;
  BasicParams& basic = params.basic;
  basic.logical_block_shift = kSectorShift;
  basic.physical_block_shift = kBlockShift;
  basic.io_min_shift = kBlockShift;
  basic.io_opt_shift = kBufferShift;
  basic.request_sectors_max = BufferPool::kBufferBytes / kSectorBytes;
  basic.device_sectors = geometry.size_bytes / kSectorBytes;
  if (geometry.read_only) {
    basic.attributes = kReadOnly;
    return params;
  }
  basic.attributes = kVolatileCache | kFua;
  params.types |= kDiscard;
  params.discard.granularity_bytes = kBlockBytes;
  params.discard.discard_sectors_max = kDiscardSectorsMax;
  params.discard.write_zeroes_sectors_max = kDiscardSectorsMax;
  params.discard.segments_max = 1;
  return params;
}

void DecodeRequest(const IoDescriptor& descriptor, Request* request) {
  request->fua = (descriptor.op_flags & kFlagFua) != 0;
  request->preflush = false;  // comes as a flush of its own
  request->sector = descriptor.first_sector;
  request->length_bytes = uint64_t{descriptor.sectors} * kSectorBytes;
  switch (descriptor.op_flags & kOpMask) {
    case kOpRead:
      request->op = Request::Op::kRead;
      break;
    case kOpWrite:
      request->op = Request::Op::kWrite;
      break;
    case kOpFlush:
      request->op = Request::Op::kFlush;
      request->sector = 0;
      request->length_bytes = 0;
      break;
    case kOpDiscard:
      request->op = Request::Op::kDiscard;
      break;
    case kOpWriteZeroes:
      request->op = Request::Op::kWriteZeroes;
      break;
    default:
      request->op = Request::Op::kUnknown;
  }
}

int32_t EncodeResult(const Request& request) {
  switch (request.status) {
    case IoStatus::kOk:
      // Less than the length would have the kernel give the rest again.
      return HasData(request.op) ? static_cast<int32_t>(request.length_bytes)
                                 : 0;
    case IoStatus::kNoSpace:
      return -ENOSPC;
    case IoStatus::kUnsupported:
      return -EOPNOTSUPP;
    default:
      return -EIO;
  }
}

}  // namespace dmu::ublk
