// SPDX-License-Identifier: Apache-2.0
//
// Goal: buffers and pieces of buffers never meet, small requests do not take
// long ones' memory for good, and who waits hears of what comes back.
#include "daemon/base/buffer_pool.h"

#include <string.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "test/pool_taker.h"

namespace dmu {
namespace {

constexpr uint64_t kWhole = BufferPool::kBufferBytes;
constexpr uint64_t kPiece = BufferPool::kPieceBytes;
constexpr uint32_t kPieces = kWhole / kPiece;
constexpr uint64_t kRun = BufferPool::kRunBytesMax;

void Count(void* context) { ++*static_cast<int*>(context); }

TEST(BufferPoolTest, PiecesShareABuffer) {
  auto pool = BufferPool::Create(4);
  PoolTaker taker(pool.get());
  std::vector<uint8_t*> pieces;
  for (uint32_t i = 0; i < kPieces; ++i) {
    pieces.push_back(taker.Acquire(i % 2 == 0 ? 512 : kPiece));
    ASSERT_NE(pieces.back(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces.back()) % kPiece, 0u);
  }
  EXPECT_EQ(pool->in_use(), 1u);
  std::sort(pieces.begin(), pieces.end());
  EXPECT_EQ(pieces.back() - pieces.front(), (kPieces - 1) * kPiece);
  taker.ReleaseAll();
  EXPECT_EQ(pool->in_use(), 0u);
}

TEST(BufferPoolTest, HalfIsForLongRequests) {
  auto pool = BufferPool::Create(4);
  PoolTaker taker(pool.get());
  std::vector<uint8_t*> buffers;
  for (uint32_t i = 0; i < 2 * kPieces; ++i) {
    buffers.push_back(taker.Acquire(kPiece));
  }
  EXPECT_EQ(pool->in_use(), 2u);
  // More of them each take a buffer that a long one could have, and give the
  // whole of it back.
  buffers.push_back(taker.Acquire(kPiece));
  EXPECT_EQ(pool->in_use(), 3u);
  buffers.push_back(taker.Acquire(kPiece + 1));
  EXPECT_EQ(pool->in_use(), 4u);
  EXPECT_EQ(taker.Acquire(kWhole), nullptr);
  EXPECT_EQ(taker.Acquire(kPiece), nullptr);
  // A piece that comes back is for the next small one only.
  taker.Release(buffers[3]);
  EXPECT_EQ(taker.Acquire(kWhole), nullptr);
  buffers[3] = taker.Acquire(kPiece);
  EXPECT_NE(buffers[3], nullptr);
  taker.ReleaseAll();
}

TEST(BufferPoolTest, OneBufferIsNeverCut) {
  auto pool = BufferPool::Create(1);
  PoolTaker taker(pool.get());
  uint8_t* first = taker.Acquire(512);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(taker.Acquire(512), nullptr);
  taker.Release(first);
  EXPECT_EQ(taker.Acquire(kWhole), first);
  taker.Release(first);
}

TEST(BufferPoolTest, APieceThatComesBackIsToldToWhoWaits) {
  auto pool = BufferPool::Create(2);
  PoolTaker taker(pool.get());
  std::vector<uint8_t*> buffers = {taker.Acquire(kWhole)};
  for (uint32_t i = 0; i < kPieces; ++i) {
    buffers.push_back(taker.Acquire(kPiece));
  }
  EXPECT_EQ(taker.Acquire(kPiece), nullptr);
  int told = 0;
  BufferPool::Share none;
  BufferPool::Waiter waiter(Count, &told);
  pool->Wait(&waiter, kPiece, &none);
  taker.Release(buffers.back());
  buffers.pop_back();
  EXPECT_EQ(told, 1);
  taker.ReleaseAll();
  EXPECT_EQ(told, 1) << "once";
}

// Of 32 the first that gives nothing back gets half, the next a quarter, and
// there is still something for those that do.
TEST(BufferPoolTest, NobodyGetsMoreThanIsLeft) {
  auto pool = BufferPool::Create(32);
  BufferPool::Share stuck[3];
  std::vector<uint8_t*> held[3];
  const size_t most[3] = {17, 8, 4};
  for (int i = 0; i < 3; ++i) {
    while (uint8_t* buffer = pool->Acquire(kWhole, &stuck[i])) {
      held[i].push_back(buffer);
    }
    EXPECT_EQ(held[i].size(), most[i]);
  }
  BufferPool::Share well;
  for (int i = 0; i < 10; ++i) {
    uint8_t* long_one = pool->Acquire(kWhole, &well);
    uint8_t* short_one = pool->Acquire(kPiece, &well);
    ASSERT_NE(long_one, nullptr);
    ASSERT_NE(short_one, nullptr);
    pool->Release(long_one, &well);
    pool->Release(short_one, &well);
  }
  for (int i = 0; i < 3; ++i) {
    for (uint8_t* buffer : held[i]) pool->Release(buffer, &stuck[i]);
    EXPECT_EQ(stuck[i].bytes, 0u);
  }
}

// Who cannot have what was given back does not keep it from the next one.
TEST(BufferPoolTest, TheFirstThatCanIsTold) {
  auto pool = BufferPool::Create(2);
  PoolTaker taker(pool.get());
  std::vector<uint8_t*> pieces;
  for (uint32_t i = 0; i < kPieces; ++i) pieces.push_back(taker.Acquire(1));
  BufferPool::Share greedy, modest;
  uint8_t* whole = pool->Acquire(kWhole, &greedy);
  int told_greedy = 0, told_long = 0, told_first = 0, told_second = 0;
  BufferPool::Waiter wants_more(Count, &told_greedy);
  BufferPool::Waiter wants_long(Count, &told_long);
  BufferPool::Waiter first(Count, &told_first), second(Count, &told_second);
  pool->Wait(&wants_more, kPiece, &greedy);
  pool->Wait(&wants_long, kWhole, &modest);
  pool->Wait(&first, kPiece, &modest);
  pool->Wait(&second, kPiece, &modest);
  taker.Release(pieces[0]);
  taker.Release(pieces[1]);
  EXPECT_EQ(told_greedy, 0) << "has more than is left";
  EXPECT_EQ(told_long, 0) << "there is no whole one";
  EXPECT_EQ(told_first + told_second, 2);
  // One that was told takes less than there is: the next is told.
  first.queued = second.queued = false;
  told_first = told_second = 0;
  pool->Wait(&first, kPiece, &modest);
  pool->Wait(&second, kPiece, &modest);
  pool->PassOn();
  EXPECT_EQ(told_first, 1);
  EXPECT_EQ(told_second, 0);
  uint8_t* piece = pool->Acquire(kPiece, &modest);
  EXPECT_EQ(told_second, 1);
  pool->Release(piece, &modest);
  pool->CancelWait(&wants_long);
  pool->CancelWait(&wants_more);
  pool->Release(whole, &greedy);
  taker.ReleaseAll();
}

TEST(BufferPoolTest, LongOnesGetSeveralInARow) {
  auto pool = BufferPool::Create(16);
  PoolTaker taker(pool.get());
  uint64_t got_bytes = 0;
  uint8_t* run = taker.AcquireRun(kRun + 512, &got_bytes);
  ASSERT_NE(run, nullptr);
  EXPECT_EQ(got_bytes, kRun);
  EXPECT_EQ(pool->in_use(), kRun / kWhole);
  memset(run, 1, kRun);
  uint8_t* shorter = taker.AcquireRun(kWhole + 512, &got_bytes);
  EXPECT_EQ(got_bytes, kWhole + 512);
  EXPECT_EQ(shorter, run + kRun) << "the lowest that is free";
  EXPECT_EQ(pool->in_use(), kRun / kWhole + 2);
  uint8_t* piece = taker.AcquireRun(512, &got_bytes);
  EXPECT_EQ(got_bytes, 512u);
  EXPECT_EQ(piece, shorter + 2 * kWhole);
  taker.Release(run);
  EXPECT_EQ(pool->in_use(), 3u);
  taker.ReleaseAll();
  EXPECT_EQ(pool->in_use(), 0u);
}

// Of what is free, half stays for others; then one is what there is.
TEST(BufferPoolTest, RunsAreForPlenty) {
  auto pool = BufferPool::Create(8);
  PoolTaker taker(pool.get());
  uint64_t got_bytes = 0;
  taker.AcquireRun(kRun, &got_bytes);
  EXPECT_EQ(got_bytes, kRun);
  taker.AcquireRun(kRun, &got_bytes);
  EXPECT_EQ(got_bytes, 2 * kWhole);
  taker.AcquireRun(kRun, &got_bytes);
  EXPECT_EQ(got_bytes, kWhole);
  taker.AcquireRun(kRun, &got_bytes);
  EXPECT_EQ(got_bytes, kWhole);
  EXPECT_EQ(taker.AcquireRun(kRun, &got_bytes), nullptr);
  EXPECT_EQ(got_bytes, kWhole) << "what to wait for";
  taker.ReleaseAll();
}

TEST(BufferPoolTest, ARunIsNoMoreThanIsLeftForOthers) {
  auto pool = BufferPool::Create(32);
  BufferPool::Share stuck;
  uint64_t got_bytes = 0, all_bytes = 0;
  std::vector<uint8_t*> held;
  while (uint8_t* buffer = pool->AcquireRun(kRun, &stuck, &got_bytes)) {
    held.push_back(buffer);
    all_bytes += got_bytes;
    ASSERT_EQ(stuck.bytes, all_bytes);
  }
  EXPECT_LE(all_bytes, 17 * kWhole);
  EXPECT_GE(all_bytes, 16 * kWhole);
  for (uint8_t* buffer : held) pool->Release(buffer, &stuck);
  EXPECT_EQ(stuck.bytes, 0u);
}

// Free ones with others between them are no run.
TEST(BufferPoolTest, NoRunWhereNoneIsWhole) {
  auto pool = BufferPool::Create(16);
  PoolTaker taker(pool.get());
  std::vector<uint8_t*> buffers;
  for (int i = 0; i < 16; ++i) buffers.push_back(taker.Acquire(kWhole));
  for (size_t i = 0; i < 16; i += 2) taker.Release(buffers[i]);
  uint64_t got_bytes = 0;
  ASSERT_NE(taker.AcquireRun(kRun, &got_bytes), nullptr);
  EXPECT_EQ(got_bytes, kWhole);
  taker.Release(buffers[5]);  // 4, 5 and 6 now
  taker.AcquireRun(kRun, &got_bytes);
  EXPECT_EQ(got_bytes, 3 * kWhole);
  taker.ReleaseAll();
}

// What each holds is its own, in any order of coming and going.
TEST(BufferPoolTest, NothingOverlaps) {
  struct Held {
    uint8_t* buffer;
    uint64_t bytes;
    uint8_t mark;
  };
  auto pool = BufferPool::Create(12);
  PoolTaker taker(pool.get());
  std::mt19937 random(4711);
  std::vector<Held> held;
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 100 < 55) {
      const uint64_t most[] = {kPiece, kPiece, kPiece, kWhole, kRun};
      uint64_t bytes = 1 + random() % most[random() % 5];
      uint8_t* buffer = taker.AcquireRun(bytes, &bytes);
      if (buffer == nullptr) continue;
      held.push_back({buffer, bytes, static_cast<uint8_t>(step)});
      memset(buffer, held.back().mark, bytes);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      const Held& last = held.back();
      ASSERT_TRUE(std::all_of(last.buffer, last.buffer + last.bytes,
                              [&](uint8_t byte) { return byte == last.mark; }));
      taker.Release(last.buffer);
      held.pop_back();
    }
  }
  for (const Held& one : held) taker.Release(one.buffer);
  EXPECT_EQ(pool->in_use(), 0u);
  std::vector<uint8_t*> all;
  for (int i = 0; i < 12; ++i) all.push_back(taker.Acquire(kWhole));
  EXPECT_EQ(std::count(all.begin(), all.end(), nullptr), 0);
  taker.ReleaseAll();
}

}  // namespace
}  // namespace dmu
