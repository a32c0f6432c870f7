// SPDX-License-Identifier: Apache-2.0
//
// uring_call.h - the batch call of a misc node by the daemon's io_uring.
//
// Needs DM_USER_FEATURE_URING, _URING_PARKS and _SEGMENTS: then the kernel has
// taken the answers when it has the entry, and what waits is parked: it costs
// no thread and no wake-up, and goes with the process.
#ifndef DAEMON_CHANNEL_URING_CALL_H_
#define DAEMON_CHANNEL_URING_CALL_H_

#include <sys/uio.h>

#include <cstdint>

#include "daemon/channel/batch_call.h"
#include "daemon/io/ring.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu {

class UringCall : public BatchCall, private RingOp {
 public:
  // A place of the ring (ReservePlace) is handed over. `mode`: of the channel,
  // which Cancel stops.
  UringCall(Ring* ring, const dm_user_channel& mode);
  ~UringCall() override;
  UringCall(const UringCall&) = delete;
  UringCall& operator=(const UringCall&) = delete;

  void Begin(int fd, uint8_t* requests, uint32_t requests_bytes,
             User* user) override;
  void Cancel() override;

 private:
  static constexpr int kPartsMax = DM_USER_BATCH_SEGMENTS_MAX;

  static void OnPrepare(RingOp* op, io_uring_sqe* entry);
  static void OnIssued(RingOp* op);
  static void OnDone(RingOp* op, int32_t result);

  Ring* const ring_;
  const dm_user_channel mode_;
  User* user_ = nullptr;
  int fd_ = -1;
  dm_user_batch batch_ = {};
  iovec parts_[kPartsMax];
};

}  // namespace dmu

#endif  // DAEMON_CHANNEL_URING_CALL_H_
