// SPDX-License-Identifier: Apache-2.0
//
// abi.h - the part of the kernel's ublk interface that is used here.
//
// Numbers and layouts of include/uapi/linux/ublk_cmd.h as of Linux 6.12 and
// Documentation/block/ublk.rst. Declared anew because the build's own headers
// may be older than the kernel that runs: those of Linux 6.1 know neither user
// copy nor the ioctl-encoded commands. All integers are the host's.
#ifndef DAEMON_CHANNEL_UBLK_ABI_H_
#define DAEMON_CHANNEL_UBLK_ABI_H_

#include <linux/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace dmu::ublk {

inline constexpr char kControlPath[] = "/dev/ublk-control";
inline constexpr char kCharPrefix[] = "/dev/ublkc";
inline constexpr char kBlockPrefix[] = "/dev/ublkb";

// Of a device (DeviceInfo::flags), and what GET_FEATURES answers.
inline constexpr uint64_t kFeatureUserRecovery = 1 << 3;         // Linux 6.1
inline constexpr uint64_t kFeatureUserRecoveryReissue = 1 << 4;  // Linux 6.1
inline constexpr uint64_t kFeatureUserCopy = 1 << 7;             // Linux 6.5
inline constexpr uint64_t kFeatureQuiesce = 1 << 12;             // Linux 6.16

enum DeviceState : uint16_t {
  kDead = 0,      // not started yet, or stopped
  kLive = 1,      // served
  kQuiesced = 2,  // its server is gone; requests wait
};

// Payload of a control command, in the second half of a 128-byte SQE.
struct ControlCommand {
  uint32_t device;
  uint16_t queue;  // 0xffff: none
  uint16_t length_bytes;
  uint64_t address;  // of a buffer, in or out
  uint64_t data;
  uint16_t path_length_bytes;  // of unprivileged devices, here 0
  uint16_t pad;
  uint32_t reserved;
};
static_assert(sizeof(ControlCommand) == 32);

inline constexpr uint32_t kAnyDevice = UINT32_MAX;
inline constexpr uint16_t kNoQueue = UINT16_MAX;

struct DeviceInfo {
  uint16_t queues;
  uint16_t depth;
  uint16_t state;
  uint16_t pad0;
  uint32_t request_bytes_max;
  uint32_t device;
  int32_t server_pid;
  uint32_t pad1;
  uint64_t flags;
  uint64_t server_flags;  // the driver keeps it for the server
  uint32_t owner_uid;
  uint32_t owner_gid;
  uint64_t reserved1;
  uint64_t reserved2;
};
static_assert(sizeof(DeviceInfo) == 64);

struct BasicParams {
  uint32_t attributes;
  uint8_t logical_block_shift;
  uint8_t physical_block_shift;
  uint8_t io_opt_shift;
  uint8_t io_min_shift;
  uint32_t request_sectors_max;
  uint32_t chunk_sectors;
  uint64_t device_sectors;
  uint64_t virtual_boundary_mask;
};

enum Attribute : uint32_t {
  kReadOnly = 1 << 0,
  kVolatileCache = 1 << 2,
  kFua = 1 << 3,
};

struct DiscardParams {
  uint32_t alignment_bytes;
  uint32_t granularity_bytes;
  uint32_t discard_sectors_max;
  uint32_t write_zeroes_sectors_max;
  uint16_t segments_max;
  uint16_t reserved;
};

struct Params {
  uint32_t length_bytes;  // of this struct
  uint32_t types;
  BasicParams basic;
  DiscardParams discard;
};
static_assert(offsetof(Params, basic) == 8);
static_assert(offsetof(Params, discard) == 40);
// The kernel's has more behind this; its length may be any.
inline constexpr uint32_t kParamsBytes = 60;
static_assert(offsetof(Params, discard) + sizeof(DiscardParams) ==
              kParamsBytes);

enum ParamType : uint32_t { kBasic = 1 << 0, kDiscard = 1 << 1 };

inline constexpr uint32_t kGetDeviceInfo = _IOR('u', 0x02, ControlCommand);
inline constexpr uint32_t kAddDevice = _IOWR('u', 0x04, ControlCommand);
inline constexpr uint32_t kDeleteDevice = _IOWR('u', 0x05, ControlCommand);
inline constexpr uint32_t kStartDevice = _IOWR('u', 0x06, ControlCommand);
inline constexpr uint32_t kStopDevice = _IOWR('u', 0x07, ControlCommand);
inline constexpr uint32_t kSetParams = _IOWR('u', 0x08, ControlCommand);
inline constexpr uint32_t kGetParams = _IOR('u', 0x09, ControlCommand);
inline constexpr uint32_t kStartRecovery = _IOWR('u', 0x10, ControlCommand);
inline constexpr uint32_t kEndRecovery = _IOWR('u', 0x11, ControlCommand);
inline constexpr uint32_t kGetFeatures = _IOR('u', 0x13, ControlCommand);

// Payload of a command on /dev/ublkcN; fits a 64-byte SQE.
struct IoCommand {
  uint16_t queue;
  uint16_t tag;
  int32_t result;    // COMMIT: bytes done, or a negative errno
  uint64_t address;  // 0 with user copy
};
static_assert(sizeof(IoCommand) == 16);

inline constexpr uint32_t kFetch = _IOWR('u', 0x20, IoCommand);
inline constexpr uint32_t kCommitAndFetch = _IOWR('u', 0x21, IoCommand);

// One per tag, in the memory that is mapped from /dev/ublkcN at offset 0.
struct IoDescriptor {
  uint32_t op_flags;
  uint32_t sectors;
  uint64_t first_sector;
  uint64_t address;
};
static_assert(sizeof(IoDescriptor) == 24);

enum IoOp : uint32_t {
  kOpRead = 0,
  kOpWrite = 1,
  kOpFlush = 2,
  kOpDiscard = 3,
  kOpWriteZeroes = 5,
};
inline constexpr uint32_t kOpMask = 0xff;
inline constexpr uint32_t kFlagFua = 1 << 13;

// Where pread() and pwrite() on /dev/ublkcN find the data of a request.
inline constexpr uint64_t kUserCopyBase = 0x80000000;
inline constexpr unsigned kUserCopyTagShift = 25;

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_ABI_H_
