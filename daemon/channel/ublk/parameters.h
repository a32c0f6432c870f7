// SPDX-License-Identifier: Apache-2.0
//
// parameters.h - what a device is asked for, and requests and results in the
// driver's terms. Pure: no call, no state.
//
// A device has one queue of kQueueDepth tags, requests of one pool buffer at
// most, and these features:
//  - user copy: payloads go between the request and a buffer of the daemon's
//    pool by pread() and pwrite(). Without it each tag has a buffer of its own
//    for good, 4 MiB a device.
//  - user recovery: when the daemon dies the device stays and requests wait.
//  - reissue: what the dead daemon had been given and not answered is given to
//    the next one; channel.h says why that is right.
#ifndef DAEMON_CHANNEL_UBLK_PARAMETERS_H_
#define DAEMON_CHANNEL_UBLK_PARAMETERS_H_

#include <cstdint>

#include "daemon/base/types.h"
#include "daemon/block/backend.h"
#include "daemon/block/request.h"
#include "daemon/channel/ublk/abi.h"

namespace dmu::ublk {

inline constexpr uint16_t kQueueDepth = 64;

// `mark` tells the device from those of other servers, and never changes.
DeviceInfo MakeDeviceInfo(uint64_t mark);

Params MakeParams(const Geometry& geometry);

// A new mark from 64 random bits; never 0.
constexpr uint64_t MakeMark(uint64_t random) {
  // Other servers keep small numbers or nothing in that field.
  constexpr uint64_t kMagic = uint64_t{0x446d} << 48;  // "Dm"
  return kMagic | (random >> 16);
}

// Fills op, flags, sector and length. The payload is not attached.
void DecodeRequest(const IoDescriptor& descriptor, Request* request);

// Whether data goes along with the request, in either direction.
constexpr bool HasData(Request::Op op) {
  return op == Request::Op::kRead || op == Request::Op::kWrite;
}

// What COMMIT says of a finished request.
int32_t EncodeResult(const Request& request);

constexpr uint64_t UserCopyOffset(uint16_t tag) {
  return kUserCopyBase + (uint64_t{tag} << kUserCopyTagShift);
}

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_PARAMETERS_H_
