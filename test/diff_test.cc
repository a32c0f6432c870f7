// SPDX-License-Identifier: Apache-2.0
//
// Goal: for any two images the plan leads from the old one to the new one, in
// place, in its order; and says nothing about what need not change.
// Method: random pairs with every kind of change; a naive applier that writes
// into the old image itself, copy by copy.
#include "tools/diff.h"

#include <xxhash.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "test/cow_test_util.h"

namespace dmu::tools {
namespace {

using test::Bytes;

DiffImage ImageOf(const Bytes& bytes) {
  DiffImage image;
  image.blocks = static_cast<uint32_t>(bytes.size() / kBlockBytes);
  image.read = [&bytes](uint64_t offset, ByteSpan out) {
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), out.size(),
                out.begin());
    return absl::OkStatus();
  };
  return image;
}

// No block like any other.
Bytes RandomBytes(std::mt19937* rng, size_t size) {
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((*rng)());
  return bytes;
}

class Pair {
 public:
  Pair(Bytes old_image, Bytes new_image)
      : old_(std::move(old_image)), new_(std::move(new_image)) {}
  explicit Pair(uint32_t seed) : rng_(seed) {
    const uint32_t old_blocks = 1 + rng_() % 200;
    old_ = test::RandomImage(&rng_, old_blocks);
    new_ = old_;
    // Grown, shrunk, or as it was.
    const uint32_t blocks = rng_() % 3 == 0 ? 1 + rng_() % 250 : old_blocks;
    new_.resize(size_t{blocks} * kBlockBytes, 0);
    for (uint32_t i = rng_() % 8; i > 0; --i) Change();
  }
  const Bytes& old_image() const { return old_; }
  const Bytes& new_image() const { return new_; }

 private:
  uint32_t blocks() const {
    return static_cast<uint32_t>(new_.size() / kBlockBytes);
  }
  void CopyFromOld(uint32_t to, uint32_t from) {
    if (to >= blocks() || from >= old_.size() / kBlockBytes) return;
    std::copy_n(old_.begin() + ptrdiff_t{from} * kBlockBytes, kBlockBytes,
                new_.begin() + ptrdiff_t{to} * kBlockBytes);
  }
  void CopyBytesFromOld(uint32_t to, size_t source) {
    if (source + kBlockBytes > old_.size()) return;
    std::copy_n(old_.begin() + static_cast<ptrdiff_t>(source), kBlockBytes,
                new_.begin() + ptrdiff_t{to} * kBlockBytes);
  }
  void Change() {
    const uint32_t first = rng_() % blocks();
    const uint32_t count = 1 + rng_() % 40;
    const uint32_t old_blocks =
        static_cast<uint32_t>(old_.size() / kBlockBytes);
    const uint32_t kind = rng_() % 8;
    const uint32_t from = rng_() % old_blocks;
    const uint32_t shift = rng_() % (2 * kBlockBytes);
    for (uint32_t i = first; i < std::min(first + count, blocks()); ++i) {
      switch (kind) {
        case 0:  // everything one block down
          CopyFromOld(i, i + 1);
          break;
        case 1:  // one block up
          if (i > 0) CopyFromOld(i, i - 1);
          break;
        case 2:  // moved from elsewhere
          CopyFromOld(i, from + (i - first));
          break;
        case 3:  // reversed: pairs that swap are cycles
          CopyFromOld(i, 2 * first + count - 1 - i);
          break;
        case 4:
          std::fill_n(new_.begin() + ptrdiff_t{i} * kBlockBytes, kBlockBytes,
                      uint8_t{0});
          break;
        case 5:  // moved by any number of bytes
          CopyBytesFromOld(i, size_t{from + (i - first)} * kBlockBytes + shift);
          break;
        case 6:  // a few bytes changed
          new_[size_t{i} * kBlockBytes + shift / 2] ^= 0x5a;
          break;
        default: {
          const Bytes block = test::RandomBlock(&rng_);
          std::copy(block.begin(), block.end(),
                    new_.begin() + ptrdiff_t{i} * kBlockBytes);
        }
      }
    }
  }

  std::mt19937 rng_;
  Bytes old_;
  Bytes new_;
};

DiffPlan Plan(const Pair& pair, unsigned threads) {
  auto plan = PlanDiff(ImageOf(pair.old_image()), ImageOf(pair.new_image()),
                       threads, [](uint64_t) {});
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// Into the old image itself, as a merge does: an ordered op reads what the
// image then holds.
Bytes ApplyInPlace(const DiffPlan& plan, const Pair& pair) {
  Bytes disk = pair.old_image();
  disk.resize(std::max(disk.size(), pair.new_image().size()), 0);
  for (const DiffPlan::Ordered& op : plan.ordered) {
    // What the file would hold is worked out from the images.
    const size_t at = size_t{op.new_block} * kBlockBytes;
    EXPECT_LE(op.source_bytes + kBlockBytes, pair.old_image().size());
    Bytes block(kBlockBytes);
    for (size_t i = 0; i < kBlockBytes; ++i) {
      const uint8_t data = static_cast<uint8_t>(
          op.is_xor
              ? pair.old_image()[op.source_bytes + i] ^ pair.new_image()[at + i]
              : 0);
      block[i] = disk[op.source_bytes + i] ^ data;
    }
    std::copy(block.begin(), block.end(),
              disk.begin() + static_cast<ptrdiff_t>(at));
  }
  for (const DiffPlan::Run& run : plan.rest) {
    const ptrdiff_t at = ptrdiff_t{run.new_block} * kBlockBytes;
    const size_t bytes = size_t{run.blocks} * kBlockBytes;
    if (run.zero) {
      std::fill_n(disk.begin() + at, bytes, uint8_t{0});
    } else {
      std::copy_n(pair.new_image().begin() + at, bytes, disk.begin() + at);
    }
  }
  disk.resize(pair.new_image().size());
  return disk;
}

TEST(DiffTest, ThePlanLeadsToTheNewImageInPlace) {
  uint64_t copies = 0;
  uint64_t xors = 0;
  uint64_t cycles = 0;
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    const Pair pair(seed);
    const DiffPlan plan = Plan(pair, 2);
    ASSERT_TRUE(ApplyInPlace(plan, pair) == pair.new_image()) << seed;
    EXPECT_EQ(plan.copy_blocks + plan.xor_blocks, plan.ordered.size());
    copies += plan.copy_blocks;
    xors += plan.xor_blocks;
    cycles += plan.cycles_broken;
  }
  EXPECT_GT(copies, 1000u) << "the pairs are too dull";
  EXPECT_GT(xors, 500u) << "the pairs have too few near matches";
  EXPECT_GT(cycles, 10u) << "the pairs have too few cycles";
}

TEST(DiffTest, NoBlockTwiceAndNoneThatNeedsNothing) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    const Pair pair(seed);
    const DiffPlan plan = Plan(pair, 1);
    std::set<uint32_t> given;
    const auto give = [&](uint32_t block) {
      EXPECT_TRUE(given.insert(block).second) << seed << " block " << block;
      const size_t at = size_t{block} * kBlockBytes;
      if (at + kBlockBytes > pair.old_image().size()) return;
      EXPECT_FALSE(std::equal(
          pair.new_image().begin() + static_cast<ptrdiff_t>(at),
          pair.new_image().begin() + static_cast<ptrdiff_t>(at + kBlockBytes),
          pair.old_image().begin() + static_cast<ptrdiff_t>(at)))
          << seed << " block " << block << " is as it was";
    };
    for (const DiffPlan::Ordered& op : plan.ordered) {
      EXPECT_TRUE(op.is_xor || op.source_bytes % kBlockBytes == 0);
      EXPECT_TRUE(op.is_xor ||
                  op.source_bytes != uint64_t{op.new_block} * kBlockBytes);
      give(op.new_block);
    }
    for (const DiffPlan::Run& run : plan.rest) {
      for (uint32_t i = 0; i < run.blocks; ++i) give(run.new_block + i);
    }
  }
}

void ExpectSamePlan(const DiffPlan& a, const DiffPlan& b) {
  EXPECT_TRUE(a.ordered == b.ordered);
  EXPECT_TRUE(a.rest == b.rest);
  EXPECT_EQ(a.base_digest, b.base_digest);
  EXPECT_EQ(a.target_digest, b.target_digest);
  EXPECT_EQ(a.target_checks, b.target_checks);
}

TEST(DiffTest, TheSameOnAnyNumberOfThreads) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    const Pair pair(seed);
    const DiffPlan one = Plan(pair, 1);
    ExpectSamePlan(one, Plan(pair, 2));
    ExpectSamePlan(one, Plan(pair, 5));
  }
}

// Larger than a chunk, so that threads really race, with contents that repeat.
TEST(DiffTest, TheSameOnAnyNumberOfThreadsInManyChunks) {
  std::mt19937 rng(7);
  Bytes old_image = RandomBytes(&rng, 1500 * size_t{kBlockBytes});
  for (uint32_t b = 0; b < 1500; b += 3) {  // every sample stands many times
    std::copy_n(old_image.begin(), 2000,
                old_image.begin() + ptrdiff_t{b} * kBlockBytes);
  }
  const Bytes insert = RandomBytes(&rng, 777);
  Bytes new_image = old_image;
  new_image.insert(new_image.begin() + 5000, insert.begin(), insert.end());
  new_image.resize(old_image.size());
  const Pair pair(old_image, new_image);
  const DiffPlan one = Plan(pair, 1);
  EXPECT_GT(one.xor_blocks, 1400u);
  ASSERT_TRUE(ApplyInPlace(one, pair) == new_image);
  for (int round = 0; round < 5; ++round) {
    ExpectSamePlan(one, Plan(pair, 2));
    ExpectSamePlan(one, Plan(pair, 5));
  }
}

uint64_t Xxh(const uint8_t* bytes, size_t size) {
  return XXH3_64bits(bytes, size);
}

std::vector<uint64_t> HashesOf(const Bytes& image) {
  std::vector<uint64_t> hashes;
  for (size_t at = 0; at < image.size(); at += kBlockBytes) {
    hashes.push_back(Xxh(&image[at], kBlockBytes));
  }
  return hashes;
}

uint64_t DigestOf(const uint64_t* hashes, size_t count) {
  return Xxh(reinterpret_cast<const uint8_t*>(hashes), count * 8);
}

TEST(DiffTest, DigestsAndChecksOfBothImages) {
  for (const uint32_t old_blocks : {700u, 300u, 1u}) {
    std::mt19937 rng(old_blocks);
    const Pair pair(test::RandomImage(&rng, old_blocks),
                    test::RandomImage(&rng, 600));
    const DiffPlan plan = Plan(pair, 2);
    const std::vector<uint64_t> olds = HashesOf(pair.old_image());
    const std::vector<uint64_t> news = HashesOf(pair.new_image());
    EXPECT_EQ(plan.base_digest, DigestOf(olds.data(), olds.size()));
    EXPECT_EQ(plan.target_digest, DigestOf(news.data(), news.size()));
    ASSERT_EQ(plan.target_checks.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      const size_t first = i * 256;
      EXPECT_EQ(plan.target_checks[i],
                static_cast<uint32_t>(DigestOf(
                    &news[first], std::min<size_t>(256, 600 - first))));
    }
  }
}

// 64 random blocks, of which block 20 of the new image is made anew.
class OneBlock {
 public:
  explicit OneBlock(uint32_t seed)
      : rng_(seed), old_(RandomBytes(&rng_, 64 * size_t{kBlockBytes})) {}

  // Its contents: those at `source` of the old image, with so many bytes
  // changed. Where they come from is overwritten when `lose`.
  Pair Make(size_t source, uint32_t changes, bool lose) {
    Bytes made = old_;
    if (lose) {
      const Bytes fill = RandomBytes(&rng_, 2 * kBlockBytes);
      const size_t at = source / kBlockBytes * kBlockBytes;
      std::copy_n(fill.begin(), std::min(fill.size(), made.size() - at),
                  made.begin() + static_cast<ptrdiff_t>(at));
    }
    const auto block = made.begin() + ptrdiff_t{20} * kBlockBytes;
    std::copy_n(old_.begin() + static_cast<ptrdiff_t>(source), kBlockBytes,
                block);
    for (uint32_t i = 0; i < changes; ++i) {
      block[rng_() % kBlockBytes] ^= static_cast<uint8_t>(1 + rng_() % 255);
    }
    return Pair(old_, made);
  }

  static const DiffPlan::Ordered* Find(const DiffPlan& plan) {
    for (const DiffPlan::Ordered& op : plan.ordered) {
      if (op.new_block == 20) return &op;
    }
    return nullptr;
  }

 private:
  std::mt19937 rng_;
  Bytes old_;
};

TEST(DiffNearTest, ABlockThatStandsUnalignedInTheOldImageBecomesAnXor) {
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    const size_t source = 30 * kBlockBytes + 1 + seed * 131;
    const Pair pair = OneBlock(seed).Make(source, 0, true);
    const DiffPlan plan = Plan(pair, 1);
    const DiffPlan::Ordered* op = OneBlock::Find(plan);
    ASSERT_NE(op, nullptr) << seed;
    EXPECT_TRUE(op->is_xor);
    EXPECT_EQ(op->source_bytes, source);
    EXPECT_TRUE(ApplyInPlace(plan, pair) == pair.new_image());
  }
}

TEST(DiffNearTest, AFewChangedBytesBecomeAnXorWhereverTheyStand) {
  for (const size_t source :
       {size_t{20} * kBlockBytes, size_t{41} * kBlockBytes,
        size_t{41} * kBlockBytes + 1777}) {
    const Pair pair = OneBlock(3).Make(source, 40, source / kBlockBytes != 20);
    const DiffPlan plan = Plan(pair, 1);
    const DiffPlan::Ordered* op = OneBlock::Find(plan);
    ASSERT_NE(op, nullptr) << source;
    EXPECT_TRUE(op->is_xor);
    EXPECT_EQ(op->source_bytes, source);
    EXPECT_TRUE(ApplyInPlace(plan, pair) == pair.new_image());
  }
}

TEST(DiffNearTest, WhatDiffersInMostBytesIsReplaced) {
  const Pair pair =
      OneBlock(4).Make(size_t{20} * kBlockBytes, 3 * kBlockBytes, false);
  const DiffPlan plan = Plan(pair, 1);
  EXPECT_EQ(OneBlock::Find(plan), nullptr);
  EXPECT_EQ(plan.replace_blocks, 1u);
}

TEST(DiffNearTest, ACopyIsPreferred) {
  const Pair pair = OneBlock(5).Make(size_t{9} * kBlockBytes, 0, false);
  const DiffPlan plan = Plan(pair, 1);
  const DiffPlan::Ordered* op = OneBlock::Find(plan);
  ASSERT_NE(op, nullptr);
  EXPECT_FALSE(op->is_xor);
  EXPECT_EQ(op->source_bytes, 9u * kBlockBytes);
}

// Everything behind an insertion is an xor of nothing, in one run, whichever
// way the contents moved and whether the image grows or shrinks.
TEST(DiffNearTest, ContentsThatMovedByAnyNumberOfBytes) {
  for (const int shift : {1, 100, 4095, 4097, 9000, -1, -100, -5000}) {
    for (const int grow : {0, 40, -40}) {
      std::mt19937 rng(11);
      const Bytes old_image = RandomBytes(&rng, 300 * size_t{kBlockBytes});
      Bytes new_image = old_image;
      const auto at = new_image.begin() + 12345;
      if (shift > 0) {
        const Bytes insert = RandomBytes(&rng, static_cast<size_t>(shift));
        new_image.insert(at, insert.begin(), insert.end());
      } else {
        new_image.erase(at, at - shift);
      }
      new_image.resize(static_cast<size_t>(300 + grow) * kBlockBytes);
      const Pair pair(old_image, new_image);
      const DiffPlan plan = Plan(pair, 2);
      EXPECT_GT(plan.xor_blocks, 250u) << shift << " " << grow;
      EXPECT_EQ(plan.cycles_broken, 0u);
      EXPECT_TRUE(ApplyInPlace(plan, pair) == new_image);
    }
  }
}

TEST(DiffNearTest, AnOldImageOfOneBlock) {
  std::mt19937 rng(12);
  const Bytes old_image = RandomBytes(&rng, kBlockBytes);
  Bytes new_image = RandomBytes(&rng, 3 * size_t{kBlockBytes});
  std::copy(old_image.begin() + 1, old_image.end(), new_image.begin() + 5000);
  new_image[4095] ^= 1;
  std::copy(old_image.begin(), old_image.end(), new_image.begin());
  new_image[7] ^= 1;
  const Pair pair(old_image, new_image);
  const DiffPlan plan = Plan(pair, 1);
  EXPECT_EQ(plan.xor_blocks, 1u);
  EXPECT_TRUE(ApplyInPlace(plan, pair) == new_image);
}

TEST(DiffTest, AReadErrorEndsIt) {
  const Pair pair(1);
  DiffImage bad = ImageOf(pair.old_image());
  bad.read = [](uint64_t, ByteSpan) {
    return absl::InternalError("the disk is broken");
  };
  const auto plan =
      PlanDiff(bad, ImageOf(pair.new_image()), 2, [](uint64_t) {});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace dmu::tools
