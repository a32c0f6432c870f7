// SPDX-License-Identifier: Apache-2.0
//
// io_ring.h - the io_uring that carries the requests of one device.
//
// The kernel queues what arrives for this thread and completes it at the end of
// any system call of it; when it sleeps in epoll, it is woken. That there are
// completions is told by an eventfd, which nobody reads: it is watched
// edge-triggered, and silent while Submit runs, after which one looks anyway.
//
// Not with IORING_SETUP_DEFER_TASKRUN: what is queued when the thread is killed
// would then wait until the ring is taken apart, see keeper.h.
//
// No request of the ring is ever handed to a worker thread: the commands of
// /dev/ublkcN wait in the driver.
#ifndef DAEMON_CHANNEL_UBLK_IO_RING_H_
#define DAEMON_CHANNEL_UBLK_IO_RING_H_

#include <liburing.h>

#include <cstdint>

#include "daemon/io/unique_fd.h"

namespace dmu::ublk {

class IoRing {
 public:
  IoRing() = default;
  ~IoRing() { Close(); }
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // For at most `commands` at a time. 0 or an errno value.
  int Open(uint32_t commands);
  void Close();
  bool is_open() const { return open_; }
  // Readable, edge-triggered: there are completions.
  int event_fd() const { return event_fd_.get(); }
  int fd() const { return ring_.ring_fd; }

  // kFetch or kCommitAndFetch for a tag; leaves with the next Submit. One per
  // tag at a time, so there is always room.
  void Prepare(int device_fd, uint32_t command, uint16_t tag, int32_t result);
  bool has_prepared() const { return prepared_ > 0; }

  // What is prepared leaves; with `fetch`, what has arrived is completed, and
  // the caller looks at all of it by Next. 0, or
  // an errno value: EAGAIN when the kernel is short of memory, and some is
  // still prepared.
  int Submit(bool fetch);

  // The next completion; false when there is none.
  bool Next(uint64_t* tag, int32_t* result);

 private:
  io_uring ring_ = {};
  UniqueFd event_fd_;
  uint32_t prepared_ = 0;
  bool open_ = false;
};

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_IO_RING_H_
