// SPDX-License-Identifier: Apache-2.0
//
// fake_kernel.h - the kernel's side of a channel over a socket pair.
//
// Speaks the real wire format, cut into transfers of any size, and keeps the
// promises of the target: a request is kept until it is answered, what a closed
// channel had not answered is sent again with the same seq, in order.
#ifndef TEST_FAKE_KERNEL_H_
#define TEST_FAKE_KERNEL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/io/unique_fd.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu {

class FakeKernel {
 public:
  struct Reply {
    uint64_t type = 0;
    std::vector<uint8_t> data;
  };

  // The daemon's end of a fresh pair, non-blocking. Requests that wait for an
  // answer are sent again on it.
  int Open();
  // For StreamChannel::Options::reopen; context is the FakeKernel.
  static int Reopen(void* context);
  void CloseKernelEnd() { fd_.reset(); }

  // Queues a request and returns its seq. `payload` only for writes.
  uint64_t Send(uint64_t type, uint64_t sector, uint64_t len,
                std::vector<uint8_t> payload = {}, uint64_t flags = 0);
  // Bytes as they are, for what no kernel would send.
  void SendRaw(const std::vector<uint8_t>& bytes);

  // Largest piece moved per Pump in each direction.
  void SetChunk(size_t bytes) { chunk_ = bytes; }
  // Moves at most one chunk each way. False when nothing moved.
  bool Pump();

  // The answer to `seq`, once it is there whole.
  std::optional<Reply> TakeReply(uint64_t seq);
  size_t outstanding() const { return outstanding_.size(); }
  int opens() const { return opens_; }
  // Whether the daemon closed its end; what it had sent has been read.
  bool daemon_closed() const { return daemon_closed_; }
  // A sentence when the daemon broke the protocol; else empty.
  const std::string& violation() const { return violation_; }

 private:
  struct Message {
    dm_user_message header;
    std::vector<uint8_t> payload;
  };

  void Queue(const Message& message);
  bool PumpOut();
  bool PumpIn();
  void Parse();

  UniqueFd fd_;
  size_t chunk_ = SIZE_MAX;
  uint64_t next_seq_ = 0;
  int opens_ = 0;
  bool daemon_closed_ = false;
  std::map<uint64_t, Message> outstanding_;  // by seq, as given to the daemon
  std::deque<uint8_t> out_;
  std::vector<uint8_t> in_;
  std::map<uint64_t, Reply> replies_;
  std::string violation_;
};

}  // namespace dmu

#endif  // TEST_FAKE_KERNEL_H_
