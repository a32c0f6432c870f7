// SPDX-License-Identifier: Apache-2.0
//
// Remap, for the kernel tests: answers that name a place, one call at a time or
// by a thread; and two RAM disks with known content to send them to. Needs root
// and the module brd.
#ifndef TEST_VM_REMAP_H_
#define TEST_VM_REMAP_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/redirect.h"

namespace dmu {

using Bytes = std::vector<uint8_t>;
using Headers = std::vector<WireHeader>;

constexpr size_t kHeaderBytes = sizeof(WireHeader);
constexpr uint64_t kRemapFlags =
    DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_USER_COPY | DM_USER_CHANNEL_REMAP;

WireHeader RemapTo(uint64_t seq, uint64_t device, uint64_t sector,
                   uint64_t len = 0);
WireHeader Answer(uint64_t seq, uint64_t type = DM_USER_RESP_SUCCESS);

// What one batch did. `error` is 0 or errno.
struct Exchanged {
  int error;
  uint32_t taken_bytes;
  uint32_t stale;
  uint32_t given_bytes;
};

// One DM_USER_IOC_BATCH, as a call or as a command of an io_uring, whatever
// Channel::kind says; does not wait for requests.
Exchanged Exchange(Channel* channel, const void* replies, size_t replies_bytes,
                   void* requests = nullptr, size_t requests_bytes = 0);

// Answers each request by a rule, in one thread, until it is destroyed.
class RemapServer {
 public:
  using Rule = std::function<WireHeader(const WireHeader&)>;
  RemapServer(Channel* channel, Rule rule);
  ~RemapServer();
  uint64_t flags_seen() const { return flags_seen_; }

 private:
  void Run();

  Channel* const channel_;
  const Rule rule_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> flags_seen_{0};
  std::thread thread_;
};

// Memory that ends `bytes` behind its beginning.
class Edge {
 public:
  explicit Edge(size_t bytes);
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;
  ~Edge();
  uint8_t* data() const { return data_; }

 private:
  uint8_t* pages_;
  size_t mapped_bytes_;
  uint8_t* data_;
};

// A partition of a loop device over another one, with few tags: there is room
// for so many requests at a time. The name of the partition is "" if it cannot
// be; who answers for the device below must do so while it is made.
class FewTags {
 public:
  static constexpr int kTags = 4;
  static constexpr uint64_t kStart = 64;  // of the partition, in sectors

  explicit FewTags(const std::string& below);
  FewTags(const FewTags&) = delete;
  FewTags& operator=(const FewTags&) = delete;
  ~FewTags();
  const std::string& partition() const { return partition_; }

 private:
  bool Set(const std::string& file, const std::string& value);

  std::string name_, partition_;
  int fd_;
};

// An I/O with its memory.
struct Pending {
  explicit Pending(size_t bytes) : buffer(bytes) {}
  // May be asked again.
  IoResult Result() {
    if (io.valid()) result = Await(&io);
    return result;
  }
  bool ready() { return !io.valid() || IsReady(&io); }
  Buffer buffer;
  Io io;
  IoResult result = {};
};

// The device "remap" with a channel that may answer by remap.
class RemapFixture : public testing::Test {
 protected:
  void SetUp() override;
  void Open(const std::string& features, uint64_t more_flags = 0,
            uint64_t coalesce_bytes = 0);
  void OpenBoth(const std::string& more = "", uint64_t more_flags = 0,
                uint64_t coalesce_bytes = 0) {
    Open(RedirectWords(16, {ram_[0], ram_[1]}, more), more_flags,
         coalesce_bytes);
  }

  // What is on a RAM disk when a test begins.
  static const Bytes& Whole(int device);
  static Bytes Content(int device, uint64_t sector, uint64_t sectors);
  // Each returns when its request is queued, behind those before it.
  Pending* Read(uint64_t sector, uint64_t sectors);
  Pending* Write(uint64_t sector, uint64_t sectors, uint32_t seed);
  // All that is queued, by one call; fails the test if it is another number.
  // `messages`: with coalescing, fewer.
  Headers Take(size_t queued, size_t messages);
  Headers Take(size_t queued) { return Take(queued, queued); }
  // In one call, of which all is taken and `stale` are passed over.
  void Give(const Headers& replies, uint32_t stale = 0);
  void ExpectError(Pending* pending, int error);
  void ExpectDone(Pending* pending);
  void ExpectRead(Pending* pending, const Bytes& content);
  // Nothing is with the daemon or waits for it.
  void ExpectIdle();

  std::string ram_[kRamDisks];
  // Devices to send to; they outlive the one above them.
  MappedDevice lowest_{"lowest"}, below_{"below"}, other_{"other"};
  MappedDevice device_{"remap"};
  std::unique_ptr<Channel> channel_;

 private:
  Pending* Keep(std::unique_ptr<Pending> pending);

  std::vector<std::unique_ptr<Pending>> pending_;
};

}  // namespace dmu

#endif  // TEST_VM_REMAP_H_
