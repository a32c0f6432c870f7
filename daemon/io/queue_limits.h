// SPDX-License-Identifier: Apache-2.0
//
// queue_limits.h - what a block device takes at a time from who does not want
// to wait.
//
// A driver with hardware queues has so many tags and so long requests. An I/O
// of io_uring's that would have to wait for a tag, or be cut, goes to a thread
// of the kernel's, which costs more than all it was to save. Drivers without
// such queues take what comes.
#ifndef DAEMON_IO_QUEUE_LIMITS_H_
#define DAEMON_IO_QUEUE_LIMITS_H_

#include <cstdint>
#include <string>

namespace dmu {

struct QueueLimits {
  static constexpr uint32_t kDepthUnknown = 64;

  bool hardware = false;           // the driver has hardware queues
  uint32_t depth = kDepthUnknown;  // I/Os at a time
  uint64_t transfer_bytes_max = uint64_t{1} << 30;  // of one; whole blocks
};

// fd: any file. What cannot be found out stays as it is above.
QueueLimits AskQueueLimits(int fd);

// What a block device does by itself; nothing of it for any other file.
struct QueueOps {
  bool discard = false;
  bool write_zeroes = false;
};
QueueOps AskQueueOps(int fd);

}  // namespace dmu

#endif  // DAEMON_IO_QUEUE_LIMITS_H_
