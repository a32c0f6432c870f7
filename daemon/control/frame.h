// SPDX-License-Identifier: Apache-2.0
//
// frame.h - how control messages stand on the socket: u32 length, then bytes.
//
// Shared by server and clients; the format is specified in proto/control.proto.
#ifndef DAEMON_CONTROL_FRAME_H_
#define DAEMON_CONTROL_FRAME_H_

#include <cstdint>
#include <string>

#include "daemon/base/bytes.h"

namespace dmu {

inline constexpr uint32_t kControlVersion = 1;
inline constexpr uint32_t kFrameHeaderBytes = 4;
// A request: a name and two paths of up to 4096 bytes do not all fit, on
// purpose; none of them is that long in earnest.
inline constexpr uint32_t kRequestFrameBytesMax = 8 * 1024;
// A response may list every device.
inline constexpr uint32_t kResponseFrameBytesMax = 256 * 1024;

inline constexpr char kDefaultControlPath[] = "/run/dm-user/control";

// Appends one frame to *out.
inline void AppendFrame(const std::string& message, std::string* out) {
  uint8_t header[kFrameHeaderBytes];
  StoreLe<uint32_t>(header, static_cast<uint32_t>(message.size()));
  out->append(reinterpret_cast<const char*>(header), sizeof(header));
  out->append(message);
}

}  // namespace dmu

#endif  // DAEMON_CONTROL_FRAME_H_
