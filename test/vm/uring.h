// SPDX-License-Identifier: Apache-2.0
//
// Batches through an io_uring, for the kernel tests: what a test submits, and
// what came of it, one completion at a time.
#ifndef TEST_VM_URING_H_
#define TEST_VM_URING_H_

#include <liburing.h>

#include <cstdint>
#include <map>
#include <vector>

#include "dm-user/uapi/dm-user.h"

namespace dmu {

// One command. Lives, with all memory it names, until it is complete.
struct UringBatch {
  UringBatch() = default;
  // Wants requests into `buffer_bytes` of its own memory.
  explicit UringBatch(uint32_t buffer_bytes, uint32_t timeout_ms = UINT32_MAX);
  UringBatch(const UringBatch&) = delete;
  UringBatch& operator=(const UringBatch&) = delete;

  dm_user_batch batch = {};
  std::vector<uint8_t> replies;
  std::vector<uint8_t> requests;
  // The payload of the entry.
  uint64_t batch_address = 0;  // 0: that of `batch`
  uint64_t reserved = 0;
  uint32_t cmd_op = DM_USER_IOC_BATCH;
  uint8_t entry_flags = 0;  // IOSQE_*
};

class Uring {
 public:
  explicit Uring(unsigned setup_flags = 0);
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;
  ~Uring();

  bool ok() const { return ready_; }
  io_uring* ring() { return &ring_; }
  void Close();

  // Hands the command to the kernel for the file; false when it would not.
  bool Submit(int fd, UringBatch* command);

  // The result of the command; -ETIME when there is none after the time, which
  // no command gives.
  int Await(UringBatch* command, int timeout_ms = 10000);
  // There is a result already.
  bool IsDone(UringBatch* command) {
    return results_.count(command) > 0 || (Reap(0), results_.count(command));
  }

 private:
  void Reap(int timeout_ms);

  io_uring ring_ = {};
  bool ready_ = false;
  std::map<UringBatch*, int> results_;
};

// Linux 6.8 and newer: a command that waits holds no thread.
bool UringParks();

}  // namespace dmu

#endif  // TEST_VM_URING_H_
