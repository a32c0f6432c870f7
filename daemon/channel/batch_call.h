// SPDX-License-Identifier: Apache-2.0
//
// batch_call.h - one call that gives answers and then waits for requests: how a
// StreamChannel in batch mode gets what comes without polling its file.
//
// One call of a channel at a time. It is made at the end of the turn in which
// it was begun, so that it takes along the answers of the whole turn:
//
//   kIdle --Begin--> kBegun --Gather--> kMade --OnTaken--> kWaiting
//   and from each of them but kIdle, with OnGiven, to kIdle
//
// In kMade the answers that were gathered are the call's; before and after,
// answers may also leave by write().
#ifndef DAEMON_CHANNEL_BATCH_CALL_H_
#define DAEMON_CHANNEL_BATCH_CALL_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace dmu {

class BatchCall {
 public:
  class User {
   public:
    // Fills in the answers, header and data apart, in memory that stays as it
    // is until OnTaken; returns how many parts. Once for each Begin, from the
    // end of a turn.
    virtual int Gather(iovec* parts, int parts_max) = 0;
    // The kernel has taken so many bytes of them; if that is not all, OnGiven
    // says why. Once for each Gather.
    virtual void OnTaken(size_t bytes) = 0;
    // The call is over: bytes of requests in the buffer, or a negative errno
    // value. May begin the next one.
    virtual void OnGiven(int32_t result) = 0;

   protected:
    ~User() = default;
  };

  enum class State : uint8_t { kIdle, kBegun, kMade, kWaiting };

  // kIdle only.
  virtual ~BatchCall() = default;

  // The file, the buffer and the user stay until OnGiven.
  virtual void Begin(int fd, uint8_t* requests, uint32_t requests_bytes,
                     User* user) = 0;
  // Has the call end soon, with OnGiven; the file gives no more requests after
  // that, whatever is tried.
  virtual void Cancel() = 0;

  State state() const { return state_; }

 protected:
  State state_ = State::kIdle;
};

}  // namespace dmu

#endif  // DAEMON_CHANNEL_BATCH_CALL_H_
