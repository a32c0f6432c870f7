// SPDX-License-Identifier: Apache-2.0
//
// channel.h - requests of a ublk block device (Linux >= 6.5), for kernels
// without dm-user.ko.
//
// Start makes /dev/ublkbN, or takes the one that a former daemon left back; the
// device carries a mark by which it is found again, whatever its number.
// Requests wait in the kernel whenever nobody serves it: for ever, the driver
// knows no deadline.
//
// Memory in the daemon: 17 KiB for a device that is not in use - a slot for
// each tag and the keeper's stack; the mapped pages of ring and descriptors are
// the kernel's - and a pool buffer for each read or write that is being
// answered. Requests that get no buffer wait in their order and hold none. An
// idle device wakes nobody: its 64 commands wait in the driver, there is no
// timer and no worker thread.
//
// What a killed daemon held, and what one that stops had not looked at yet, is
// given to the next one (user recovery with reissue, fixed when the device is
// made). Without reissue the driver fails it, reads too, and a file system
// above would not survive its daemon. A write may so be carried out twice,
// which is harmless when the first time has ended before the second begins, and
// nothing later was written in between. The latter holds: whoever sent the
// write has no answer yet. The former is the back end's part, and each kind
// keeps it: what is written to is opened exclusively, and that lock goes with
// the last I/O of the dead daemon, however the kernel carries it out - the next
// one is refused until then. Who adds a back end that writes elsewhere must
// fence it likewise.
//
// Two of the driver's corners, as of Linux 6.12; keeper.h has a third:
//  - a device goes to a new server only when the old one's task has ended; a
//    process cannot let go of a device and take it back itself.
//  - when all tags are with the daemon at the moment it is killed, the kernel
//    notices by the block layer's timeout only, after 30 to 60 s.
#ifndef DAEMON_CHANNEL_UBLK_CHANNEL_H_
#define DAEMON_CHANNEL_UBLK_CHANNEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "daemon/base/buffer_pool.h"
#include "daemon/block/backend.h"
#include "daemon/block/channel.h"
#include "daemon/channel/ublk/control.h"
#include "daemon/channel/ublk/io_ring.h"
#include "daemon/channel/ublk/keeper.h"
#include "daemon/channel/ublk/tag_table.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class UblkChannel : public Channel {
 public:
  struct Options {
    Geometry geometry;
    uint64_t mark = 0;  // ublk::MakeMark
    // The device is there already; kUnavailable when it is not.
    bool recover = false;
  };

  UblkChannel(Options options, Loop* loop, BufferPool* pool);
  ~UblkChannel() override;

  void Start(RequestSink* sink) override;
  void Stop(Task* done) override;
  void Remove(Task* done) override;
  std::string device_path() const override;

 private:
  enum class Phase : uint8_t {
    kIdle,      // nothing begun
    kOpening,   // the device is made or found
    kStarting,  // tags are fetched; the kernel brings the block device up
    kServing,
    kFailed,    // OnStarted or OnClosed has said so
    kStopping,  // what is held is answered, no more is fetched
    kEnding,    // the block device goes; requests are still answered
    kDeleting,  // closed; the rest goes
    kClosed,
  };
  enum class Wish : uint8_t { kNone, kStop, kRemove };

  struct Slot {
    Request request;
    UblkChannel* channel = nullptr;
    uint8_t* buffer = nullptr;
    uint16_t tag = 0;
  };

  static void OnReady(void* context, uint32_t events);
  static void OnComplete(Request* request);
  static void OnJob(void* context);
  static void OnBuffer(void* context);
  static void OnRetry(void* context);
  static void OnFlush(void* context);

  void RunJob(ublk::ControlPlan::Kind kind);
  void Opened();
  absl::Status OpenDevice();
  void CloseDevice();
  void StopFetching();
  void Fail(const absl::Status& status);
  void BeginWish();
  void Settle();

  void Fetch();
  void Take(uint64_t tag, int32_t result);
  // Attaches a buffer and hands the request on; false without a buffer.
  bool HandOn(Slot* slot);
  void Answer(Slot* slot);
  void Flush();
  // What is prepared leaves; false when it must be tried again.
  bool Leave();
  void Close(RequestSink::CloseReason reason);

  const Options options_;
  Loop* const loop_;
  BufferPool* const pool_;
  RequestSink* sink_ = nullptr;
  Phase phase_ = Phase::kIdle;
  Wish wish_ = Wish::kNone;
  Task* stopped_ = nullptr;

  ublk::ControlJob job_;
  Task job_done_;
  uint32_t device_ = ublk::kAnyDevice;

  UniqueFd fd_;  // /dev/ublkcN
  const ublk::IoDescriptor* descriptors_ = nullptr;
  size_t descriptors_bytes_ = 0;
  ublk::IoRing ring_;
  ublk::Keeper keeper_;
  bool device_stopped_ = false;  // no command is left in the driver
  Watch watch_;
  bool watching_ = false;

  std::unique_ptr<Slot[]> slots_;
  std::unique_ptr<ublk::TagTable> tags_;
  uint32_t with_backend_ = 0;
  bool corked_ = false;  // more answers are about to come
  BufferPool::Share share_;
  BufferPool::Waiter buffer_wait_;  // linked while a request waits for a buffer
  Task retry_task_;  // hands it on in a turn of its own: buffers come free
                     // deep inside other replies
  Task flush_task_;
};

}  // namespace dmu

#endif  // DAEMON_CHANNEL_UBLK_CHANNEL_H_
