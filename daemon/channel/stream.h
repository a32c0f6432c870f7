// SPDX-License-Identifier: Apache-2.0
//
// stream.h - the version 1 stream: headers and payload by read and write.
//
// Works on any file that speaks the wire format and can be polled: the misc
// node of the target, or one end of a socket pair in a test.
//
// A request longer than the memory it gets (BufferPool::AcquireRun) is carried
// in segments of that size, one after the other, through a single slot:
//  - a write's segments are submitted as their payload arrives; the reply comes
//    after the last. While one is with the back end the input is not read,
//    because what follows on it is the rest of this payload.
//  - a read's reply header leaves with the first good segment. The wire has no
//    way to take a success back, so when a later segment fails the file is
//    closed and opened again: the kernel gives every unanswered request once
//    more, with the same seq, and the one that failed is refused at sight.
//
// Output is a byte stream: the slot at the head of the output queue keeps it
// until its last segment has left.
//
// On a file in batch mode (Options::batch) headers are read ahead, many in a
// call, and answers that are whole leave together: when what was read has been
// handed on and the back end has nothing more of this channel, or else in the
// next turn.
//
// With a batch call (Options::call) the file is not polled: while headers are
// wanted and none is there, a call waits for them, which takes along the
// answers of its turn. What is answered while it waits leaves by write, and the
// rest of a payload comes by read, as ever.
#ifndef DAEMON_CHANNEL_STREAM_H_
#define DAEMON_CHANNEL_STREAM_H_

#include <cstdint>

#include "daemon/base/buffer_pool.h"
#include "daemon/base/grown_array.h"
#include "daemon/block/channel.h"
#include "daemon/channel/batch_call.h"
#include "daemon/channel/wire.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class StreamChannel : public Channel, private BatchCall::User {
 public:
  struct Options {
    // Requests with the back end at a time.
    uint32_t slots = 16;
    // The file is in DM_USER_CHANNEL_BATCH mode, or as good as that.
    bool batch = false;
    // With batch; outlives the channel. nullptr: the file is polled.
    BatchCall* call = nullptr;
    // Opens the same channel anew, for the case described above. Returns a
    // non-blocking file or -1 with errno set.
    int (*reopen)(void* context) = nullptr;
    void* reopen_context = nullptr;
  };

  // fd: non-blocking. loop and pool outlive the channel.
  StreamChannel(UniqueFd fd, Options options, Loop* loop, BufferPool* pool);
  ~StreamChannel() override;

  void Start(RequestSink* sink) override;
  void Stop(Task* done) override;

 private:
  struct Slot {
    Request request;
    StreamChannel* channel = nullptr;
    uint8_t* buffer = nullptr;
    uint64_t buffer_bytes = 0;  // of it that are used
    uint64_t seq = 0;
    uint64_t first_sector = 0;
    uint64_t total_bytes = 0;  // of the whole request
    uint64_t done_bytes = 0;   // segments that are through
    uint32_t segment_bytes = 0;
    bool in_backend = false;
    bool header_sent = false;
    Task continue_task;  // submits the next segment from a turn of its own, so
                         // that a back end that answers at once cannot recurse
    IoStatus result = IoStatus::kOk;
    dm_user_message reply = {};  // as it leaves
    Slot* next = nullptr;        // free list or output queue
  };

  enum class Input {
    kHeader,    // collecting a header
    kPayload,   // collecting a segment of a write into input_slot_
    kDrain,     // reading the rest of a failed write's payload away
    kHeld,      // a write's segment is with the back end
    kNoMemory,  // no slot or no buffer; the header waits in header_
  };

  enum class Phase { kIdle, kServing, kReopening, kStopping, kClosed };

  // What a step of the input did.
  enum class Step { kProgress, kWait, kClosed };

  static void OnReady(void* context, uint32_t events);
  static void OnComplete(Request* request);
  static void OnBuffer(void* context);
  static void OnRetry(void* context);
  static void OnContinue(void* context);
  static void OnFlush(void* context);
  static void OnAhead(void* context);

  // BatchCall::User
  int Gather(iovec* parts, int parts_max) override;
  void OnTaken(size_t bytes) override;
  void OnGiven(int32_t result) override;

  bool CallIs(BatchCall::State state) const {
    return options_.call != nullptr && options_.call->state() == state;
  }
  bool CallIsOver() const {
    return options_.call == nullptr || CallIs(BatchCall::State::kIdle);
  }

  void Readable();
  void TakeInput();
  Step ReadHeader();
  Step TakeHeader();
  void BeginRequest(Slot* slot, const dm_user_message& header);
  Step ReadPayload();
  Step DrainPayload();
  // Bytes read, 0 for "nothing now", -1 when the channel is closed.
  ssize_t ReadSome(uint8_t* to, size_t bytes);
  void InputFailed(int error);
  void AbandonInput();

  void SubmitSegment(Slot* slot);
  void SegmentDone(Slot* slot);
  void WriteSegmentDone(Slot* slot);
  void QueueReply(Slot* slot);
  // What is queued leaves together with what comes next, if that is near.
  void FlushSoon();
  void Flush();
  // As much of the queue as leaves at once; false: wait or closed.
  bool WriteOut();
  size_t HeaderBytes(const Slot& slot) const;
  size_t PayloadBytes(const Slot& slot) const;
  // The answer begins and ends with the part that is ready; it ends with it.
  bool IsWhole(const Slot& slot) const;
  bool IsLast(const Slot& slot) const;
  // Accounts for `bytes` of the head's part that have left.
  void Advance(size_t* bytes);
  bool WriteFailed();
  void FinishOutput(Slot* slot);
  // Whether there is a free one; makes one if there may be more.
  bool HasSlot();
  void FreeSlot(Slot* slot);
  void Drop(Slot* slot);
  // Sees to it that whatever can go on is told of.
  void UpdateEvents();
  void StopWatching();
  void CancelWaits();
  void Close(RequestSink::CloseReason reason);
  void BeginReopen();
  void Settle();
  void ResetStreams();

  UniqueFd fd_;
  const Options options_;
  Loop* const loop_;
  BufferPool* const pool_;
  RequestSink* sink_ = nullptr;
  Watch watch_;
  Phase phase_ = Phase::kIdle;
  bool watching_ = false;
  GrownArray<Slot> slots_;
  Slot* free_slots_ = nullptr;
  uint32_t with_backend_ = 0;
  BufferPool::Share share_;
  BufferPool::Waiter buffer_wait_;  // linked while there is no buffer for us
  Task retry_task_;  // takes the waiting header up in a turn of its own: slot
                     // and buffer come free deep inside other replies

  // Read ahead and not looked at yet: [ahead_begin_, ahead_end_).
  static constexpr size_t kAheadBytes = 32 * wire::kHeaderBytes;
  uint8_t ahead_[kAheadBytes];
  size_t ahead_begin_ = 0;
  size_t ahead_end_ = 0;
  bool drained_ = false;  // the last read ahead took all there was
  bool corked_ = false;   // more is being handed on: answers wait for it
  Task ahead_task_;       // goes on with it; no poll tells of it

  Input input_ = Input::kHeader;
  uint8_t header_[wire::kHeaderBytes];
  size_t input_bytes_ = 0;  // of the header or segment collected so far
  Slot* input_slot_ = nullptr;
  uint64_t drain_bytes_ = 0;

  Slot* output_head_ = nullptr;
  Slot* output_tail_ = nullptr;
  Task flush_task_;              // batch mode: what is whole leaves
  bool output_blocked_ = false;  // the file did not take it; the poll tells
  size_t output_bytes_ = 0;      // of the head's current part already written
  bool output_ready_ = false;    // head has a part to write

  // Seq of a request to refuse at sight after a reopen.
  bool has_failed_seq_ = false;
  uint64_t failed_seq_ = 0;

  Task* stopped_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_CHANNEL_STREAM_H_
