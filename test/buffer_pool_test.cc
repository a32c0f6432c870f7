// SPDX-License-Identifier: Apache-2.0
//
// Goal: buffers and pieces of buffers never meet, small requests do not take
// long ones' memory for good, who waits hears of what comes back, and nobody
// waits for ever.
#include "daemon/base/buffer_pool.h"

#include <string.h>

#include <algorithm>
#include <cstdint>
#include <memory>
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
  EXPECT_EQ(taker.Acquire(kPiece), nullptr) << "it is kept for who waited";
  uint8_t* piece = pool->Acquire(kPiece, &none);
  EXPECT_NE(piece, nullptr);
  pool->Release(piece, &none);
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
  BufferPool::Share greedy, modest[3];
  uint8_t* whole = pool->Acquire(kWhole, &greedy);
  int told_greedy = 0, told_long = 0, told_first = 0, told_second = 0;
  BufferPool::Waiter wants_more(Count, &told_greedy);
  BufferPool::Waiter wants_long(Count, &told_long);
  BufferPool::Waiter first(Count, &told_first), second(Count, &told_second);
  pool->Wait(&wants_more, kPiece, &greedy);
  pool->Wait(&wants_long, kWhole, &modest[0]);
  pool->Wait(&first, kPiece, &modest[1]);
  pool->Wait(&second, kPiece, &modest[2]);
  taker.Release(pieces[0]);
  EXPECT_EQ(told_greedy, 0) << "has more than is left";
  EXPECT_EQ(told_long, 0) << "there is no whole one";
  EXPECT_EQ(told_first, 1);
  EXPECT_EQ(told_second, 0);
  // Who does not want it any more leaves it to the next.
  pool->CancelWait(&first);
  EXPECT_EQ(told_second, 1);
  EXPECT_EQ(modest[1].bytes, 0u);
  uint8_t* piece = pool->Acquire(kPiece, &modest[2]);
  EXPECT_NE(piece, nullptr);
  pool->Release(piece, &modest[2]);
  pool->CancelWait(&first);
  pool->CancelWait(&second);
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

// Who waits comes before who could do with less.
TEST(BufferPoolTest, NoRunWhileSomebodyWaits) {
  auto pool = BufferPool::Create(32);
  PoolTaker taker(pool.get());
  BufferPool::Share greedy;
  std::vector<uint8_t*> held;
  while (uint8_t* buffer = pool->Acquire(kWhole, &greedy)) {
    held.push_back(buffer);
  }
  int told = 0;
  BufferPool::Waiter waiter(Count, &told);
  pool->Wait(&waiter, kWhole, &greedy);
  uint64_t got_bytes = 0;
  ASSERT_NE(taker.AcquireRun(kRun, &got_bytes), nullptr);
  EXPECT_EQ(got_bytes, kWhole);
  pool->CancelWait(&waiter);
  ASSERT_NE(taker.AcquireRun(kRun, &got_bytes), nullptr);
  EXPECT_EQ(got_bytes, kRun);
  taker.ReleaseAll();
  for (uint8_t* buffer : held) pool->Release(buffer, &greedy);
}

// One buffer that comes back is enough for several.
TEST(BufferPoolTest, AllThatCanAreTold) {
  auto pool = BufferPool::Create(2);
  PoolTaker taker(pool.get());
  uint8_t* first = taker.Acquire(kWhole);
  ASSERT_NE(taker.Acquire(kWhole), nullptr);
  BufferPool::Share shares[3];
  int told[3] = {};
  BufferPool::Waiter waiters[3] = {
      {Count, &told[0]}, {Count, &told[1]}, {Count, &told[2]}};
  for (int i = 0; i < 3; ++i) pool->Wait(&waiters[i], kPiece, &shares[i]);
  taker.Release(first);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(told[i], 1);
  // What is too short goes back; while others have the rest there is no more.
  EXPECT_EQ(pool->Acquire(kWhole, &shares[0]), nullptr);
  EXPECT_EQ(shares[0].bytes, 0u);
  for (int i = 1; i < 3; ++i) {
    uint8_t* piece = pool->Acquire(kPiece, &shares[i]);
    ASSERT_NE(piece, nullptr);
    EXPECT_EQ(shares[i].bytes, kPiece);
    pool->Release(piece, &shares[i]);
  }
  taker.ReleaseAll();
}

// A channel that always has requests of one length, and works on `depth` of
// them at a time. As the real ones do: it asks until it gets nothing, then
// waits, and when it is told asks again in a turn of its own - after those that
// still are at it, which is the worst that may be.
class BusyChannel {
 public:
  BusyChannel(BufferPool* pool, uint64_t bytes, size_t depth)
      : pool_(pool), bytes_(bytes), depth_(depth) {}
  ~BusyChannel() {
    pool_->CancelWait(&waiter_);
    while (!held_.empty()) Answer();
  }

  // Answers the oldest request and takes up what can be had.
  void Turn() {
    if (!held_.empty()) Answer();
    if (!waits_) Take();
  }
  // What was posted when it was told.
  void RunPosted() {
    if (waits_ && !waiter_.queued) {
      waits_ = false;
      Take();
    }
  }
  int answered() const { return answered_; }

 private:
  void Take() {
    while (held_.size() < depth_) {
      uint8_t* buffer = pool_->Acquire(bytes_, &share_);
      if (buffer == nullptr) {
        waits_ = true;
        pool_->Wait(&waiter_, bytes_, &share_);
        return;
      }
      held_.push_back(buffer);
    }
  }
  void Answer() {
    pool_->Release(held_.front(), &share_);
    held_.erase(held_.begin());
    ++answered_;
  }

  BufferPool* const pool_;
  const uint64_t bytes_;
  const size_t depth_;
  BufferPool::Share share_;
  int told_ = 0;
  BufferPool::Waiter waiter_{Count, &told_};
  bool waits_ = false;
  std::vector<uint8_t*> held_;
  int answered_ = 0;
};

struct Crowd {
  const char* name;
  uint32_t buffers;
  uint64_t bytes;
  int channels;
  size_t depth;
  uint64_t lone_bytes;
};

// Long requests and short ones, many channels and one, whoever was there first:
// what each gets done is not far from what the others do.
TEST(BufferPoolTest, NobodyIsStarved) {
  static constexpr Crowd kCrowds[] = {
      {"a short one among long ones", 8, kWhole, 8, 8, kPiece},
      {"a long one among short ones", 8, kPiece, 8, 64, kWhole},
      {"a long one among long ones", 2, kWhole, 4, 1, kWhole},
      {"one among very many", 2, kWhole, 40, 1, kWhole},
      {"a short one where nothing is cut", 1, kWhole, 3, 1, kPiece},
      {"a long one where nothing is cut", 1, kPiece, 3, 1, kWhole},
  };
  constexpr int kTurns = 4000;
  for (const Crowd& crowd : kCrowds) {
    SCOPED_TRACE(crowd.name);
    auto pool = BufferPool::Create(crowd.buffers);
    std::vector<std::unique_ptr<BusyChannel>> channels;
    for (int i = 0; i < crowd.channels; ++i) {
      channels.push_back(
          std::make_unique<BusyChannel>(pool.get(), crowd.bytes, crowd.depth));
    }
    // They have all there is when the last one comes.
    for (auto& channel : channels) channel->Turn();
    channels.push_back(
        std::make_unique<BusyChannel>(pool.get(), crowd.lone_bytes, 1));
    for (int turn = 0; turn < kTurns; ++turn) {
      for (auto& channel : channels) channel->Turn();
      for (auto& channel : channels) channel->RunPosted();
    }
    int all = 0;
    for (auto& channel : channels) all += channel->answered();
    const int fair = all / static_cast<int>(channels.size());
    EXPECT_GE(channels.back()->answered(), fair / 4);
    for (auto& channel : channels) {
      EXPECT_GE(channel->answered(), fair / 4)
          << "channel " << &channel - channels.data() << " of " << fair;
    }
  }
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
