// SPDX-License-Identifier: Apache-2.0
//
// Goal: pieces of a COW file are loaded side by side, each once, and nobody
// gets another's bytes, whatever the order in which the storage answers.
#include "daemon/backend/unit_cache.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace dmu {
namespace {

constexpr uint32_t kUnitBytes = 512;

uint8_t ByteOf(uint32_t key) { return static_cast<uint8_t>(key * 37 + 1); }

// Unit n is at n * kUnitBytes. Reads are answered when the test says.
class HeldDisk : public Disk {
 public:
  uint64_t size_bytes() const override { return uint64_t{1} << 40; }
  const char* name() const override { return "held"; }
  void Submit(DiskOp* op) override {
    EXPECT_EQ(op->kind, DiskOp::Kind::kRead);
    held.push_back(op);
  }
  uint32_t KeyOf(size_t i) const {
    return static_cast<uint32_t>(held[i]->offset / kUnitBytes);
  }
  void Answer(size_t i, IoStatus status = IoStatus::kOk) {
    DiskOp* op = held[i];
    const uint32_t key = KeyOf(i);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
    op->status = status;
    if (status == IoStatus::kOk) {
      std::fill_n(op->buffer, op->length_bytes, ByteOf(key));
    } else {
      op->cause = {.where = name(), .offset = op->offset, .error = 5};
    }
    op->done.run(op->done.context);
  }
  std::vector<DiskOp*> held;
};

struct Reader {
  UnitCache::Waiter waiter;
  UnitCache* cache = nullptr;
  int times = 0;
  IoStatus status = IoStatus::kOk;
  bool right = false;
  uint64_t error_offset = 0;

  void Ask(uint32_t key) {
    waiter.context = this;
    waiter.ready = [](void* context, IoStatus status, const uint8_t* data) {
      auto* self = static_cast<Reader*>(context);
      ++self->times;
      self->status = status;
      if (data == nullptr) {
        self->error_offset = self->cache->cause().offset;
        return;
      }
      self->right = std::count(data, data + kUnitBytes,
                               ByteOf(self->waiter.key)) == kUnitBytes;
    };
    UnitCache::Source source;
    source.offset = uint64_t{key} * kUnitBytes;
    source.stored_bytes = source.unit_bytes = kUnitBytes;
    cache->Load(key, source, &waiter);
  }
};

class UnitCacheTest : public ::testing::Test {
 protected:
  void Make(uint32_t entries) {
    cache_ = UnitCache::Create(&disk_, nullptr, kUnitBytes, 0, entries);
    ASSERT_NE(cache_, nullptr);
  }
  Reader* Ask(uint32_t key) {
    readers_.emplace_back();
    readers_.back().cache = cache_.get();
    readers_.back().Ask(key);
    return &readers_.back();
  }

  HeldDisk disk_;
  std::unique_ptr<UnitCache> cache_;
  std::deque<Reader> readers_;
};

TEST_F(UnitCacheTest, LoadsSideBySide) {
  Make(8);
  for (uint32_t key = 0; key < 6; ++key) Ask(key);
  EXPECT_EQ(disk_.held.size(), UnitCache::kLoadsMax);
  // The last one first; the next of those that wait takes its place.
  disk_.Answer(3);
  EXPECT_EQ(readers_[3].times, 1);
  EXPECT_TRUE(readers_[3].right);
  EXPECT_EQ(readers_[0].times, 0);
  ASSERT_EQ(disk_.held.size(), UnitCache::kLoadsMax);
  EXPECT_EQ(disk_.KeyOf(3), 4u);
  while (!disk_.held.empty()) disk_.Answer(0);
  for (const Reader& reader : readers_) {
    EXPECT_EQ(reader.times, 1);
    EXPECT_TRUE(reader.right);
  }
  EXPECT_TRUE(cache_->idle());
}

TEST_F(UnitCacheTest, WhoWaitsForTheSameSharesALoad) {
  Make(8);
  Reader* first = Ask(7);
  Reader* second = Ask(7);
  Reader* other = Ask(8);
  EXPECT_EQ(disk_.held.size(), 2u);
  disk_.Answer(0);
  EXPECT_EQ(first->times, 1);
  EXPECT_EQ(second->times, 1);
  EXPECT_EQ(other->times, 0);
  EXPECT_NE(cache_->Find(7), nullptr);
  disk_.Answer(0);
  EXPECT_TRUE(other->right);
}

TEST_F(UnitCacheTest, OneErrorIsOneReadersAlone) {
  Make(8);
  Reader* good = Ask(1);
  Reader* bad = Ask(2);
  disk_.Answer(1, IoStatus::kIoError);
  EXPECT_EQ(bad->status, IoStatus::kIoError);
  EXPECT_EQ(bad->error_offset, uint64_t{2} * kUnitBytes);
  EXPECT_EQ(good->times, 0);
  disk_.Answer(0);
  EXPECT_TRUE(good->right);
  EXPECT_EQ(cache_->Find(2), nullptr);
  // And is not remembered.
  Reader* again = Ask(2);
  disk_.Answer(0);
  EXPECT_TRUE(again->right);
}

// What Find has given is still there after the next Load has begun.
TEST_F(UnitCacheTest, WhatWasFoundIsNotFilled) {
  Make(4);
  for (uint32_t key = 0; key < 4; ++key) {
    Ask(key);
    disk_.Answer(0);
  }
  Ask(10);
  Ask(11);
  const uint8_t* found = cache_->Find(3);
  ASSERT_NE(found, nullptr);
  for (uint32_t key = 12; key < 20; ++key) Ask(key);
  for (const DiskOp* op : disk_.held) EXPECT_NE(op->buffer, found);
  EXPECT_EQ(*found, ByteOf(3));
  while (!disk_.held.empty()) disk_.Answer(0);
}

TEST_F(UnitCacheTest, OneEntryIsEnough) {
  Make(1);
  for (uint32_t key = 0; key < 3; ++key) Ask(key);
  while (!disk_.held.empty()) {
    EXPECT_EQ(disk_.held.size(), 1u);
    disk_.Answer(0);
  }
  for (const Reader& reader : readers_) EXPECT_TRUE(reader.right);
}

TEST_F(UnitCacheTest, EverybodyIsAnsweredOnceWhateverTheOrder) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t end) { return random() % end; };
    const uint32_t entries = 1 + static_cast<uint32_t>(below(9));
    Make(entries);
    readers_.clear();
    for (int step = 0; step < 300; ++step) {
      if (disk_.held.empty() || below(3) > 0) {
        const auto key = static_cast<uint32_t>(below(12));
        const uint8_t* data = cache_->Find(key);
        if (data == nullptr) {
          Ask(key);
        } else {
          ASSERT_EQ(std::count(data, data + kUnitBytes, ByteOf(key)),
                    kUnitBytes);
        }
      } else {
        disk_.Answer(below(disk_.held.size()),
                     below(20) == 0 ? IoStatus::kIoError : IoStatus::kOk);
      }
      ASSERT_LE(disk_.held.size(), std::min(UnitCache::kLoadsMax, entries));
    }
    while (!disk_.held.empty()) disk_.Answer(below(disk_.held.size()));
    for (const Reader& reader : readers_) {
      ASSERT_EQ(reader.times, 1) << "seed " << seed;
      ASSERT_TRUE(reader.right || reader.status == IoStatus::kIoError);
    }
    ASSERT_TRUE(cache_->idle());
    cache_.reset();
  }
}

}  // namespace
}  // namespace dmu
