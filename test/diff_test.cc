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
#include "test/diff_test_util.h"

namespace dmu::tools {
namespace {

class RandomPair {
 public:
  explicit RandomPair(uint32_t seed) : rng_(seed) {
    const uint32_t old_blocks = 1 + rng_() % 200;
    old_ = test::RandomImage(&rng_, old_blocks);
    new_ = old_;
    // Grown, shrunk, or as it was.
    const uint32_t blocks = rng_() % 3 == 0 ? 1 + rng_() % 250 : old_blocks;
    new_.resize(size_t{blocks} * kBlockBytes, 0);
    for (uint32_t i = rng_() % 8; i > 0; --i) Change();
  }
  Pair Take() { return {std::move(old_), std::move(new_)}; }

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

TEST(DiffTest, ThePlanLeadsToTheNewImageInPlace) {
  uint64_t copies = 0;
  uint64_t xors = 0;
  uint64_t cycles = 0;
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    const Pair pair = RandomPair(seed).Take();
    const DiffPlan plan = Plan(pair, 2);
    ASSERT_TRUE(ApplyInPlace(plan, pair) == pair.new_image) << seed;
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
    const Pair pair = RandomPair(seed).Take();
    const DiffPlan plan = Plan(pair, 1);
    std::set<uint32_t> given;
    const auto give = [&](uint32_t block) {
      EXPECT_TRUE(given.insert(block).second) << seed << " block " << block;
      const size_t at = size_t{block} * kBlockBytes;
      if (at + kBlockBytes > pair.old_image.size()) return;
      EXPECT_FALSE(std::equal(
          pair.new_image.begin() + static_cast<ptrdiff_t>(at),
          pair.new_image.begin() + static_cast<ptrdiff_t>(at + kBlockBytes),
          pair.old_image.begin() + static_cast<ptrdiff_t>(at)))
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
  EXPECT_EQ(a.samples, b.samples);
}

TEST(DiffTest, TheSameOnAnyNumberOfThreads) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    const Pair pair = RandomPair(seed).Take();
    const DiffPlan one = Plan(pair, 1);
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

TEST(DiffTest, SamplesOfWhatStaysAndOfWhatDoesNot) {
  std::mt19937 rng(9);
  for (const size_t kept : {0u, 10u, 400u, 500u}) {
    Pair pair{RandomBytes(&rng, 500 * size_t{kBlockBytes}), {}};
    std::fill_n(pair.old_image.begin(), 20 * kBlockBytes, uint8_t{0});
    pair.new_image = RandomBytes(&rng, pair.old_image.size());
    std::copy_n(pair.old_image.begin(), kept * kBlockBytes,
                pair.new_image.begin());
    const std::vector<uint64_t> hashes = HashesOf(pair.old_image);
    const DiffPlan plan = Plan(pair, 2);
    EXPECT_EQ(plan.samples.size(), kept == 400 ? 64u : 32u);
    size_t stay = 0;
    uint32_t next = 20;  // those before are zeros
    for (const DiffPlan::Sample& sample : plan.samples) {
      EXPECT_GE(sample.block, next);
      next = sample.block + 1;
      ASSERT_LT(sample.block, 500u);
      EXPECT_EQ(sample.check, static_cast<uint32_t>(hashes[sample.block]));
      stay += sample.block < kept;
    }
    EXPECT_EQ(stay, kept >= 400 ? 32u : 0u);
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
  const Pair pair{old_image, new_image};
  const DiffPlan one = Plan(pair, 1);
  EXPECT_GT(one.xor_blocks, 1400u);
  ASSERT_TRUE(ApplyInPlace(one, pair) == new_image);
  for (int round = 0; round < 5; ++round) {
    ExpectSamePlan(one, Plan(pair, 2));
    ExpectSamePlan(one, Plan(pair, 5));
  }
}

TEST(DiffTest, DigestsAndChecksOfBothImages) {
  for (const uint32_t old_blocks : {700u, 300u, 1u}) {
    std::mt19937 rng(old_blocks);
    const Pair pair{test::RandomImage(&rng, old_blocks),
                    test::RandomImage(&rng, 600)};
    const DiffPlan plan = Plan(pair, 2);
    const std::vector<uint64_t> olds = HashesOf(pair.old_image);
    const std::vector<uint64_t> news = HashesOf(pair.new_image);
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

TEST(DiffTest, AReadErrorEndsIt) {
  const Pair pair = RandomPair(1).Take();
  DiffImage bad = ImageOf(pair.old_image);
  bad.read = [](uint64_t, ByteSpan) {
    return absl::InternalError("the disk is broken");
  };
  const auto plan = PlanDiff(bad, ImageOf(pair.new_image), 2, [](uint64_t) {});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace dmu::tools
