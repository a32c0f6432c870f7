// SPDX-License-Identifier: Apache-2.0
//
// fake_target.h - the kernel's side of a channel of headers: a socket pair,
// and an ioctl() in place of the C library's that knows DM_USER_IOC_BATCH, as
// dm-user/uapi/dm-user.h has it, on it. All other calls of it go to the kernel.
//
// One target at a time. What reads and writes the file may do so too.
#ifndef TEST_FAKE_TARGET_H_
#define TEST_FAKE_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/io/unique_fd.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu {

class FakeTarget {
 public:
  FakeTarget();
  ~FakeTarget();
  FakeTarget(const FakeTarget&) = delete;
  FakeTarget& operator=(const FakeTarget&) = delete;

  // The channel's end of a fresh pair, non-blocking.
  UniqueFd Open();
  // Whoever has it open gets ENOTBLK, and a hang-up from poll.
  void Remove() { kernel_.reset(); }

  // Returns the seq.
  uint64_t Send(uint64_t type, uint64_t sector, uint64_t len,
                uint64_t flags = 0);
  uint64_t Read(uint64_t sector) {
    return Send(DM_USER_REQ_MAP_READ, sector, 4096);
  }

  // All that has come so far.
  const std::vector<dm_user_message>& answers();
  // The channel has closed its file.
  bool closed();

  // 0 or an errno value. A sleep that nothing ends fails the test.
  int Batch(int fd, dm_user_batch* batch);

  size_t take_bytes = SIZE_MAX;  // of the answers of a call
  int interrupts = 0;            // so many sleeps are
  int calls = 0;
  int sleeps = 0;

 private:
  UniqueFd kernel_;
  int channel_fd_ = -1;
  uint64_t next_seq_ = 0;
  std::vector<dm_user_message> answers_;
  bool closed_ = false;
};

}  // namespace dmu

#endif  // TEST_FAKE_TARGET_H_
