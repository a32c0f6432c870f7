// SPDX-License-Identifier: Apache-2.0
//
// disk_open.h - what a Disk over a regular file or a block device stands on,
// however it does its I/O: the open file, its lock, what system calls mean.
//
// What goes wrong, and what becomes of it:
//   interrupted, or less than asked for   goes on where it was
//   EIO and whatever is not below         kIoError
//   ENOSPC, EDQUOT, EFBIG                 kNoSpace: no room for more
//   ENODEV, ENXIO, ENOMEDIUM, or any of a
//   block device that has no size now     kGone: the device was pulled. What
//                                         the kernel says of one is an end or
//                                         no space
//   the file ends before the range        kShort: it was cut since it was
//                                         opened. A write there makes it longer
//                                         again, as everywhere
// Each fails that operation alone, and the next one is tried anew: a device
// that comes back behind the same open file serves again by itself. What comes
// back as another file or device is not opened: it may hold something else.
#ifndef DAEMON_IO_DISK_OPEN_H_
#define DAEMON_IO_DISK_OPEN_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "daemon/io/disk.h"
#include "daemon/io/queue_limits.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

// Past the page cache, by O_DIRECT.
enum class DirectIo : uint8_t {
  kOff,
  // Where it is no worse in anything: a block device whose driver can say that
  // an I/O would have to wait.
  kIfFit,
  // A file too. Writing to its holes may take a thread of the kernel's.
  kOn,
};

struct DiskOptions {
  bool writable = false;
  // Refuse a block device that is mounted or held by another driver, and a
  // file another daemon or tool has open through here. It goes with the open
  // file, which the kernel keeps until the last I/O on it has ended: whoever
  // gets it after a killed owner finds everything that one wrote.
  bool exclusive = false;
  DirectIo direct = DirectIo::kOff;
  // Of what the offsets, lengths and addresses of all operations are multiples.
  // Nothing goes past the cache of storage with larger blocks: such an
  // operation would fail there with kIoError.
  uint32_t unit_bytes = kSectorBytes;
};

struct DiskFile {
  std::string path;
  UniqueFd fd;
  uint64_t size_bytes = 0;
  bool block_device = false;
  bool direct = false;
  QueueLimits limits;  // with `direct`
};

// kNotFound, kPermissionDenied, kAborted (busy), kInvalidArgument (neither file
// nor block device, or DirectIo::kOn cannot be had), kInternal otherwise; the
// sentence names the path.
absl::StatusOr<DiskFile> OpenDiskFile(const std::string& path,
                                      const DiskOptions& options);

// As Disk::device_number.
uint64_t DeviceNumber(const DiskFile& file);

// Not an errno value: the file ended before the range did.
inline constexpr int kEnded = -1;

// Sets status and cause. `error`: 0, an errno value, or kEnded.
void SetResult(const DiskFile& file, int error, DiskOp* op);

// Whether a read, write, discard or zeroing lies inside the file.
bool IsInside(const DiskFile& file, const DiskOp& op);

// Whole ranges, waiting for the storage where need be; an `error` as above.
int ReadRange(int fd, uint8_t* buffer, uint64_t offset, uint64_t length_bytes);
int WriteRange(int fd, const uint8_t* buffer, uint64_t offset,
               uint64_t length_bytes);
int FlushFile(int fd);

// One transfer: far below the 2 GiB at which Linux cuts a read or write short.
inline constexpr uint64_t kTransferBytesMax = 1 << 20;

}  // namespace dmu

#endif  // DAEMON_IO_DISK_OPEN_H_
