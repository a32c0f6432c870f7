// SPDX-License-Identifier: Apache-2.0
//
// Goal: nothing is taken from the heap on the path of a request.
// Method: real channel, device and back ends; the kernel's side writes from and
// reads into fixed buffers, so every allocation counted is the daemon's.
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "daemon/backend/file.h"
#include "daemon/backend/null.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/channel/stream.h"
#include "daemon/device/device.h"
#include "daemon/io/disk_file.h"
#include "daemon/io/disk_uring.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "test/alloc_counter.h"
#include "test/fake_call.h"

namespace dmu {
namespace {

constexpr uint64_t kSizeBytes = 8 << 20;
constexpr uint64_t kPayloadMax = 192 * 1024;

class AllocTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = EpollLoop::Create();
    pool_ = BufferPool::Create(4);
    closed_.run = [](void*) {};
    failed_.run = [](void*) { FAIL() << "a request failed"; };
    stopped_.run = [](void* context) { *static_cast<bool*>(context) = true; };
    stopped_.context = &stopped_flag_;
  }

  void Serve(std::unique_ptr<Backend> backend,
             const StreamChannel::Options& options = {}) {
    int fds[2];
    ASSERT_EQ(
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
        0);
    kernel_.reset(fds[0]);
    auto channel = std::make_unique<StreamChannel>(UniqueFd(fds[1]), options,
                                                   loop_.get(), pool_.get());
    device_ = std::make_unique<Device>("alloc", std::move(channel),
                                       std::move(backend), loop_.get(),
                                       &closed_, &failed_);
    device_->Start();
  }

  // One request from header to the last byte of its answer.
  void Roundtrip(uint64_t seq, uint64_t type, uint64_t sector, uint64_t len,
                 uint64_t flags) {
    dm_user_message header = {};
    header.seq = seq;
    header.type = type;
    header.flags = flags;
    header.sector = sector;
    header.len = len;
    memcpy(out_, &header, sizeof(header));
    const size_t out_bytes =
        sizeof(header) + (type == DM_USER_REQ_MAP_WRITE ? len : 0);
    const size_t in_bytes =
        sizeof(header) + (type == DM_USER_REQ_MAP_READ ? len : 0);
    size_t sent = 0;
    size_t received = 0;
    while (sent < out_bytes || received < in_bytes) {
      if (sent < out_bytes) {
        const ssize_t put = write(kernel_.get(), out_ + sent, out_bytes - sent);
        if (put > 0) sent += static_cast<size_t>(put);
      }
      loop_->Turn(/*wait=*/false);
      const ssize_t got =
          read(kernel_.get(), in_ + received, in_bytes - received);
      if (got > 0) received += static_cast<size_t>(got);
    }
    dm_user_message reply;
    memcpy(&reply, in_, sizeof(reply));
    ASSERT_EQ(reply.type, DM_USER_RESP_SUCCESS);
    ASSERT_EQ(reply.seq, seq);
  }

  void MixedTraffic(uint64_t first_seq, int rounds) {
    for (int i = 0; i < rounds; ++i) {
      const uint64_t seq = first_seq + static_cast<uint64_t>(i) * 4;
      const uint64_t len = 512 + (static_cast<uint64_t>(i) * 7919 * 512) %
                                     (kPayloadMax - 512) / 512 * 512;
      const uint64_t sector = static_cast<uint64_t>(i) * 104729 %
                              ((kSizeBytes - kPayloadMax) / 512);
      Roundtrip(seq, DM_USER_REQ_MAP_WRITE, sector, len,
                i % 3 == 0 ? DM_USER_REQ_MAP_FLAG_FUA : 0);
      Roundtrip(seq + 1, DM_USER_REQ_MAP_READ, sector, len, 0);
      Roundtrip(seq + 2, DM_USER_REQ_MAP_WRITE, 0, 0,
                DM_USER_REQ_MAP_FLAG_PREFLUSH);
      Roundtrip(seq + 3, DM_USER_REQ_MAP_DISCARD, sector, 4096, 0);
    }
  }

  void ExpectNoAllocations(int rounds = 1000) {
    MixedTraffic(0, 10);  // what is taken once is taken here
    const uint64_t before = AllocationCount();
    MixedTraffic(1000, rounds);
    EXPECT_EQ(AllocationCount() - before, 0u);
    device_->Stop(&stopped_);
    while (!stopped_flag_) loop_->Turn(/*wait=*/false);
  }

  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<BufferPool> pool_;
  UniqueFd kernel_;
  std::unique_ptr<Device> device_;
  Task closed_;
  Task failed_;
  Task stopped_;
  bool stopped_flag_ = false;
  uint8_t out_[sizeof(dm_user_message) + kPayloadMax] = {};
  uint8_t in_[sizeof(dm_user_message) + kPayloadMax];
};

TEST_F(AllocTest, CounterCounts) {
  const uint64_t before = AllocationCount();
  int* volatile kept = new int(1);  // volatile: not to be optimised away
  delete kept;
  EXPECT_GT(AllocationCount(), before);
}

TEST_F(AllocTest, NullDevice) {
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()));
  ExpectNoAllocations();
}

TEST_F(AllocTest, InBatches) {
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()),
        {.batch = true});
  ExpectNoAllocations();
}

TEST_F(AllocTest, ByACallThatWaits) {
  FakeCall call(loop_.get());
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()),
        {.batch = true, .call = &call});
  ExpectNoAllocations();
  EXPECT_GT(call.begun(), 1000);
  device_.reset();
}

TEST_F(AllocTest, FileDevice) {
  char path[] = "/tmp/dmu-alloc-test-XXXXXX";
  UniqueFd fd(mkstemp(path));
  ASSERT_EQ(ftruncate(fd.get(), kSizeBytes), 0);
  auto disk = FileDisk::Open(path, {.writable = true}, loop_.get());
  unlink(path);
  ASSERT_TRUE(disk.ok());
  Serve(std::make_unique<FileBackend>(std::move(*disk), false, loop_.get()));
  ExpectNoAllocations();
}

TEST_F(AllocTest, FileDeviceByTheRing) {
  char path[] = "/tmp/dmu-alloc-test-XXXXXX";
  UniqueFd fd(mkstemp(path));
  ASSERT_EQ(ftruncate(fd.get(), kSizeBytes), 0);
  auto ring = Ring::Create({}, loop_.get());
  ASSERT_NE(ring, nullptr) << strerror(errno);
  auto flusher = Flusher::Create(loop_.get());
  ASSERT_NE(flusher, nullptr) << strerror(errno);
  auto disk = UringDisk::Open(path, {.writable = true}, ring.get(),
                              flusher.get(), loop_.get());
  unlink(path);
  ASSERT_TRUE(disk.ok());
  Serve(std::make_unique<FileBackend>(std::move(*disk), false, loop_.get()));
  ExpectNoAllocations(/*rounds=*/100);  // each flush is a wait
  device_.reset();
}

}  // namespace
}  // namespace dmu
