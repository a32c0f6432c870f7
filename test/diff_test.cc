// SPDX-License-Identifier: Apache-2.0
//
// Goal: for any two images the plan leads from the old one to the new one, in
// place, in its order; and says nothing about what need not change.
// Method: random pairs with every kind of change; a naive applier that writes
// into the old image itself, copy by copy.
#include "tools/diff.h"

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

class Pair {
 public:
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
  void Change() {
    const uint32_t first = rng_() % blocks();
    const uint32_t count = 1 + rng_() % 40;
    const uint32_t old_blocks =
        static_cast<uint32_t>(old_.size() / kBlockBytes);
    const uint32_t kind = rng_() % 6;
    const uint32_t from = rng_() % old_blocks;
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

// Into the old image itself, as a merge does.
Bytes ApplyInPlace(const DiffPlan& plan, const Pair& pair) {
  Bytes disk = pair.old_image();
  disk.resize(std::max(disk.size(), pair.new_image().size()), 0);
  for (const DiffPlan::Copy& copy : plan.copies) {
    std::copy_n(disk.begin() + ptrdiff_t{copy.source} * kBlockBytes,
                kBlockBytes,
                disk.begin() + ptrdiff_t{copy.new_block} * kBlockBytes);
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
  uint64_t cycles = 0;
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    const Pair pair(seed);
    const DiffPlan plan = Plan(pair, 2);
    ASSERT_TRUE(ApplyInPlace(plan, pair) == pair.new_image()) << seed;
    copies += plan.copies.size();
    cycles += plan.cycles_broken;
  }
  EXPECT_GT(copies, 1000u) << "the pairs are too dull";
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
    for (const DiffPlan::Copy& copy : plan.copies) give(copy.new_block);
    for (const DiffPlan::Run& run : plan.rest) {
      for (uint32_t i = 0; i < run.blocks; ++i) give(run.new_block + i);
    }
  }
}

TEST(DiffTest, TheSameOnAnyNumberOfThreads) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    const Pair pair(seed);
    const DiffPlan one = Plan(pair, 1);
    const DiffPlan three = Plan(pair, 3);
    ASSERT_EQ(one.copies.size(), three.copies.size());
    for (size_t i = 0; i < one.copies.size(); ++i) {
      EXPECT_EQ(one.copies[i].new_block, three.copies[i].new_block);
      EXPECT_EQ(one.copies[i].source, three.copies[i].source);
    }
    ASSERT_EQ(one.rest.size(), three.rest.size());
    for (size_t i = 0; i < one.rest.size(); ++i) {
      EXPECT_EQ(one.rest[i].new_block, three.rest[i].new_block);
      EXPECT_EQ(one.rest[i].blocks, three.rest[i].blocks);
    }
  }
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
