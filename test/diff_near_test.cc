// SPDX-License-Identifier: Apache-2.0
//
// Goal: old contents are found at any byte offset, and an xor is chosen only
// where it pays.
// Method: images of random bytes, in which nothing matches by chance, with one
// change of a known kind.
#include "tools/diff_near.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "test/diff_test_util.h"
#include "tools/sample_table.h"

namespace dmu::tools {
namespace {

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
    return {old_, made};
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
    EXPECT_TRUE(ApplyInPlace(plan, pair) == pair.new_image);
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
    EXPECT_TRUE(ApplyInPlace(plan, pair) == pair.new_image);
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
      const Pair pair{old_image, new_image};
      const DiffPlan plan = Plan(pair, 2);
      EXPECT_GT(plan.xor_blocks, 250u) << shift << " " << grow;
      EXPECT_EQ(plan.cycles_broken, 0u);
      EXPECT_TRUE(ApplyInPlace(plan, pair) == new_image);
    }
  }
}

TEST(DiffNearTest, AnEmptyOldImage) {
  std::mt19937 rng(16);
  const Pair pair{{}, RandomBytes(&rng, 3 * size_t{kBlockBytes})};
  const DiffPlan plan = Plan(pair, 2);
  EXPECT_EQ(plan.replace_blocks, 3u);
  EXPECT_TRUE(plan.ordered.empty());
}

TEST(DiffNearTest, AnOldImageOfOneBlock) {
  std::mt19937 rng(12);
  const Bytes old_image = RandomBytes(&rng, kBlockBytes);
  Bytes new_image = RandomBytes(&rng, 3 * size_t{kBlockBytes});
  std::copy(old_image.begin() + 1, old_image.end(), new_image.begin() + 5000);
  new_image[4095] ^= 1;
  std::copy(old_image.begin(), old_image.end(), new_image.begin());
  new_image[7] ^= 1;
  const Pair pair{old_image, new_image};
  const DiffPlan plan = Plan(pair, 1);
  EXPECT_EQ(plan.xor_blocks, 1u);
  EXPECT_TRUE(ApplyInPlace(plan, pair) == new_image);
}

// With a table of a few samples runs are still found, by going on from one
// match to the next; nothing else may suffer.
TEST(DiffNearTest, ATableMuchTooSmall) {
  std::mt19937 rng(13);
  const Bytes old_image = RandomBytes(&rng, 512 * size_t{kBlockBytes});
  Bytes new_image(123, 7);
  new_image.insert(new_image.end(), old_image.begin(), old_image.end() - 123);
  Comparison comparison;
  ASSERT_TRUE(CompareImages(
                  ImageOf(old_image), ImageOf(new_image), 1, [](uint64_t) {},
                  &comparison)
                  .ok());
  for (const uint64_t budget_bytes : {0, 8, 64, 1024, 1 << 20}) {
    Comparison found = comparison;
    std::vector<uint64_t> sources(512);
    std::vector<uint16_t> gains(512);
    ASSERT_TRUE(FindNearSources(ImageOf(old_image), ImageOf(new_image), 2,
                                budget_bytes, &found, &sources, &gains)
                    .ok());
    const auto xors =
        std::count(found.kinds.begin(), found.kinds.end(), BlockKind::kXor);
    EXPECT_GE(xors, budget_bytes >= 1024 ? 400 : 0) << budget_bytes;
    for (size_t b = 0; b < 512; ++b) {
      if (found.kinds[b] != BlockKind::kXor) continue;
      EXPECT_EQ(sources[b] + 123, b * kBlockBytes);
    }
  }
}

TEST(SampleTableTest, KeepsWithinItsBudgetAndFindsWhatItHolds) {
  std::mt19937 rng(14);
  const Bytes contents = RandomBytes(&rng, 1 << 20);
  for (const uint64_t budget_bytes : {16u, 4096u, 1u << 20}) {
    SampleTable table(contents.size(), budget_bytes);
    EXPECT_LE(table.memory_bytes(), budget_bytes);
    uint64_t samples = 0;
    const size_t positions = contents.size() - SampleTable::kWindowBytes;
    table.ForEachSample(contents.data(), positions, [&](size_t i) {
      table.Add(SampleTable::HashWindow(&contents[i]), i);
      ++samples;
    });
    // Not more than there are slots: half as many are aimed at.
    EXPECT_LE(samples, budget_bytes / 8 + 8);
    uint64_t found = 0;
    table.ForEachSample(contents.data(), positions, [&](size_t i) {
      found += table.Find(SampleTable::HashWindow(&contents[i])) == i;
    });
    EXPECT_GE(found * 2, samples);
  }
}

TEST(SampleTableTest, TheLeastOfASlotWhateverTheOrder) {
  std::mt19937 rng(15);
  std::vector<std::pair<uint64_t, uint64_t>> samples;
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t high = rng();
    samples.push_back({high << 32 | rng(), i});
  }
  const auto found = [&samples](SampleTable* table) {
    for (const auto& [hash, position] : samples) table->Add(hash, position);
    std::vector<uint64_t> positions;
    for (const auto& [hash, position] : samples) {
      positions.push_back(table->Find(hash));
    }
    return positions;
  };
  SampleTable up(1 << 20, 4096);
  SampleTable down(1 << 20, 4096);
  const std::vector<uint64_t> upwards = found(&up);
  std::reverse(samples.begin(), samples.end());
  std::vector<uint64_t> downwards = found(&down);
  std::reverse(downwards.begin(), downwards.end());
  EXPECT_EQ(upwards, downwards);
}

}  // namespace
}  // namespace dmu::tools
