// SPDX-License-Identifier: Apache-2.0
//
// Goal: what a burst of requests took of the pool goes back when it is over,
// and only then; a daemon that serves little is never woken for it. Method: the
// real pool, which pages of it are there is the kernel's word (mincore), and
// the real loop.
#include "daemon/io/pool_trimmer.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "test/pool_taker.h"

namespace dmu {
namespace {

constexpr uint32_t kCount = 32;

class PoolTrimmerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = EpollLoop::Create();
    pool_ = BufferPool::Create(kCount);
    taker_ = std::make_unique<PoolTaker>(pool_.get());
    trimmer_ = std::make_unique<PoolTrimmer>(pool_.get(), loop_.get());
    // Where all of it begins.
    first_ = taker_->Acquire(BufferPool::kBufferBytes);
    taker_->Release(first_);
  }

  // Takes and touches so many, and gives them back.
  void Use(uint32_t count) {
    std::vector<uint8_t*> buffers;
    for (uint32_t i = 0; i < count; ++i) {
      buffers.push_back(taker_->Acquire(BufferPool::kBufferBytes));
      memset(buffers.back(), 1, BufferPool::kBufferBytes);
    }
    for (uint8_t* buffer : buffers) taker_->Release(buffer);
  }

  size_t PagesThere() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> there(kCount * BufferPool::kBufferBytes / page);
    EXPECT_EQ(mincore(first_, kCount * BufferPool::kBufferBytes, there.data()),
              0);
    size_t pages = 0;
    for (const unsigned char at : there) pages += at & 1;
    return pages;
  }

  // Runs the loop until `us` have passed, which a timer tells.
  void Pass(uint64_t us) {
    bool over = false;
    Timer timer([](void* context) { *static_cast<bool*>(context) = true; },
                &over);
    loop_->Arm(&timer, us);
    while (!over) loop_->Turn(/*wait=*/true);
  }

  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<BufferPool> pool_;
  std::unique_ptr<PoolTaker> taker_;
  std::unique_ptr<PoolTrimmer> trimmer_;
  uint8_t* first_ = nullptr;
};

TEST_F(PoolTrimmerTest, ABurstIsGivenBack) {
  for (int round = 0; round < 2; ++round) {
    Use(kCount);
    const size_t pages = PagesThere();
    EXPECT_GE(pages, kCount * BufferPool::kBufferBytes / 65536);
    // A look sees the burst, the next one that it is over.
    for (int i = 0; i < 200 && PagesThere() > 0; ++i) {
      Pass(PoolTrimmer::kQuietUs);
    }
    EXPECT_EQ(PagesThere(), 0u) << round;
  }
}

// With huge pages one buffer would take the memory of 32.
TEST_F(PoolTrimmerTest, ABufferTakesItsOwnMemory) {
  Use(1);
  EXPECT_EQ(PagesThere() * static_cast<size_t>(sysconf(_SC_PAGESIZE)),
            size_t{BufferPool::kBufferBytes});
}

TEST_F(PoolTrimmerTest, AFewBuffersStayAndWakeNobody) {
  Use(PoolTrimmer::kKeptBuffers);
  const size_t pages = PagesThere();
  EXPECT_GT(pages, 0u);
  const uint64_t turns = loop_->turns();
  Pass(3 * PoolTrimmer::kQuietUs);
  EXPECT_EQ(loop_->turns(), turns + 1) << "the test's own timer";
  EXPECT_EQ(PagesThere(), pages);
}

// Whatever is in use when it looks keeps its bytes.
TEST_F(PoolTrimmerTest, WhatIsInUseStays) {
  std::vector<uint8_t*> buffers;
  for (uint32_t i = 0; i < kCount; ++i) {
    buffers.push_back(taker_->Acquire(BufferPool::kBufferBytes));
    memset(buffers.back(), static_cast<int>(i + 1), BufferPool::kBufferBytes);
  }
  Pass(3 * PoolTrimmer::kQuietUs);
  // Steady load: nothing is given back.
  while (buffers.size() > 2) {
    taker_->Release(buffers.back());
    buffers.pop_back();
  }
  Pass(3 * PoolTrimmer::kQuietUs);
  for (uint32_t i = 0; i < buffers.size(); ++i) {
    for (uint32_t at = 0; at < BufferPool::kBufferBytes; ++at) {
      ASSERT_EQ(buffers[i][at], i + 1);
    }
    taker_->Release(buffers[i]);
  }
}

TEST_F(PoolTrimmerTest, MayEndInABurst) {
  Use(kCount);
  trimmer_.reset();
  Use(kCount);
  Pass(PoolTrimmer::kQuietUs);
}

}  // namespace
}  // namespace dmu
