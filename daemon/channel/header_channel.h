// SPDX-License-Identifier: Apache-2.0
//
// header_channel.h - a channel whose messages are headers alone: the data stays
// in the kernel, and a request is answered with the place where it is.
//
// For back ends with Geometry::remap. The file is in BATCH, USER_COPY and REMAP
// mode (dm-user/uapi/dm-user.h), so a request needs no buffer and no payload is
// ever half way: what comes is an array of headers, and what leaves is one.
//
// Answers are gathered while what came is handed on, and leave together, in one
// of three ways:
//  - with the call that waits for the next requests (Options::call);
//  - by one ioctl that brings what came meanwhile, when the poll says so;
//  - the same ioctl waits: the loop sleeps in it, and it ends when one of the
//    loop's files is ready (Options::sleeps). The channel that is the only one
//    to get requests for some turns takes that upon itself, and lets go of it
//    as soon as something else has come; meanwhile its file is not polled.
#ifndef DAEMON_CHANNEL_HEADER_CHANNEL_H_
#define DAEMON_CHANNEL_HEADER_CHANNEL_H_

#include <cstdint>

#include "daemon/base/grown_array.h"
#include "daemon/block/channel.h"
#include "daemon/channel/batch_call.h"
#include "daemon/channel/wire.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class HeaderChannel : public Channel, private BatchCall::User, private Sleeper {
 public:
  struct Options {
    // Requests with the back end at a time, 1 to kSlotsMax.
    uint32_t slots = 16;
    // Which device of the table the places are on.
    uint32_t device = 0;
    // Outlives the channel. nullptr: the file is polled.
    BatchCall* call = nullptr;
    // Without `call`: the target knows DM_USER_BATCH_WAKE.
    bool sleeps = false;
  };
  static constexpr uint32_t kSlotsMax = 64;

  // fd: non-blocking, in its mode. loop outlives the channel.
  HeaderChannel(UniqueFd fd, const Options& options, Loop* loop);
  ~HeaderChannel() override;

  void Start(RequestSink* sink) override;
  void Stop(Task* done) override;

 private:
  struct Slot {
    Request request;
    HeaderChannel* channel = nullptr;
    uint64_t seq = 0;
    Slot* next = nullptr;  // free list
  };

  enum class Phase { kIdle, kServing, kStopping, kClosed };

  static constexpr uint32_t kRequestsMax = 64;
  // Those of a whole batch, and of all that was with the back end before.
  static constexpr uint32_t kAnswersMax = kRequestsMax + kSlotsMax;
  // Turns in a row that bring requests of this channel, before the loop sleeps
  // in it. A channel that takes turns with another one would pay more for the
  // change than it saves.
  static constexpr uint32_t kTurnsToSleep = 4;
  // Batches per readiness event: one busy device must not keep the others.
  static constexpr int kBatchesPerEvent = 4;

  static void OnReady(void* context, uint32_t events);
  static void OnComplete(Request* request);
  static void OnAgain(void* context);
  static void OnFlush(void* context);

  // BatchCall::User
  int Gather(iovec* parts, int parts_max) override;
  void OnTaken(size_t bytes) override;
  void OnGiven(int32_t result) override;

  // Sleeper
  Came Enter(bool sleep) override;

  bool CallIs(BatchCall::State state) const {
    return options_.call != nullptr && options_.call->state() == state;
  }
  bool CallIsOver() const {
    return options_.call == nullptr || CallIs(BatchCall::State::kIdle);
  }

  // Hands on what came, as far as there are slots and room for answers.
  void TakeRequests();
  void Begin(const dm_user_message& header);
  enum class Wants : uint8_t { kNothing, kRequests, kWait };
  // Gives answers and gets requests, as far as both go; false: closed. kWait:
  // sleeps until there are some, or one of the loop's files is ready.
  bool Exchange(Wants wants);
  // Has the loop sleep here, if that is worth it and nobody else has it.
  void TakeSleep();
  void LeaveSleep();
  bool IsSleeper() const { return files_fd_ >= 0; }
  void FlushSoon();
  // Sees to it that whatever can go on is told of.
  void Update();
  void Failed(int error);
  void Close(RequestSink::CloseReason reason);
  void Settle();

  UniqueFd fd_;
  const Options options_;
  Loop* const loop_;
  RequestSink* sink_ = nullptr;
  Watch watch_;
  bool watching_ = false;
  int files_fd_ = -1;       // the loop's, while it sleeps here
  uint64_t last_turn_ = 0;  // that brought requests
  uint32_t turns_in_row_ = 0;
  Phase phase_ = Phase::kIdle;
  GrownArray<Slot> slots_;
  Slot* free_slots_ = nullptr;
  uint32_t with_backend_ = 0;
  bool taking_ = false;  // what came is being handed on
  Task again_task_;      // goes on with it; no poll tells of it
  Task flush_task_;      // late answers leave

  // [requests_begin_, requests_end_) came and was not handed on.
  dm_user_message requests_[kRequestsMax];
  uint32_t requests_begin_ = 0;
  uint32_t requests_end_ = 0;
  // [answers_begin_, answers_end_) has not left; starts anew when it is empty.
  dm_user_message answers_[kAnswersMax];
  uint32_t answers_begin_ = 0;
  uint32_t answers_end_ = 0;

  Task* stopped_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_CHANNEL_HEADER_CHANNEL_H_
