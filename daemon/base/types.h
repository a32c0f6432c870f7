// SPDX-License-Identifier: Apache-2.0
//
// types.h - the units and the result every layer shares.
//
// Owns: sector and block sizes, IoStatus, byte spans. No logic.
// A number's unit stands in its name: _bytes, _sectors (512 bytes), _blocks
// (4096 bytes), _ms. A bare `offset` is in bytes.
#ifndef DAEMON_BASE_TYPES_H_
#define DAEMON_BASE_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace dmu {

// The kernel's unit of address for every block device.
inline constexpr uint32_t kSectorBytes = 512;
// The unit of the COW format; the only block size that is served.
inline constexpr uint32_t kBlockBytes = 4096;
inline constexpr uint32_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

using ByteSpan = std::span<uint8_t>;
using ConstByteSpan = std::span<const uint8_t>;

// How one I/O ended. The data path carries this instead of absl::Status, which
// allocates as soon as it has something to say.
enum class IoStatus : uint8_t {
  kOk,
  kIoError,      // the storage failed
  kNoSpace,      // the storage is full
  kCorrupt,      // the bytes came, but they are not what they claim to be
  kUnsupported,  // this kind of request is not served here
  kGone,         // the storage is not there any more
  kShort,        // the storage ended before the range did
};
inline constexpr int kIoStatusCount = 7;

constexpr const char* IoStatusName(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return "ok";
    case IoStatus::kIoError:
      return "I/O error";
    case IoStatus::kNoSpace:
      return "no space";
    case IoStatus::kCorrupt:
      return "corrupt data";
    case IoStatus::kUnsupported:
      return "unsupported";
    case IoStatus::kGone:
      return "device gone";
    case IoStatus::kShort:
      return "cut short";
  }
  return "?";
}

// What made an I/O fail, to be told to people; decides nothing.
struct IoCause {
  static constexpr uint64_t kNoOffset = UINT64_MAX;
  // The file or device, or a reason. Lives as long as its Disk.
  const char* where = nullptr;
  uint64_t offset = kNoOffset;  // bytes, where the transfer began
  int error = 0;                // an errno value, 0: none
};

}  // namespace dmu

#endif  // DAEMON_BASE_TYPES_H_
