// SPDX-License-Identifier: Apache-2.0
//
// diff_test_util.h - pairs of images in memory, and a naive applier of plans.
#ifndef TEST_DIFF_TEST_UTIL_H_
#define TEST_DIFF_TEST_UTIL_H_

#include <algorithm>
#include <random>

#include "gtest/gtest.h"
#include "test/cow_test_util.h"
#include "tools/diff.h"

namespace dmu::tools {

using test::Bytes;

struct Pair {
  Bytes old_image;
  Bytes new_image;
};

inline DiffImage ImageOf(const Bytes& bytes) {
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
inline Bytes RandomBytes(std::mt19937* rng, size_t size) {
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((*rng)());
  return bytes;
}

inline DiffPlan Plan(const Pair& pair, unsigned threads) {
  auto plan = PlanDiff(ImageOf(pair.old_image), ImageOf(pair.new_image),
                       threads, [](uint64_t) {});
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// Into the old image itself, as a merge does: an ordered op reads what the
// image then holds.
inline Bytes ApplyInPlace(const DiffPlan& plan, const Pair& pair) {
  Bytes disk = pair.old_image;
  disk.resize(std::max(disk.size(), pair.new_image.size()), 0);
  for (const DiffPlan::Ordered& op : plan.ordered) {
    // What the file would hold is worked out from the images.
    const size_t at = size_t{op.new_block} * kBlockBytes;
    EXPECT_LE(op.source_bytes + kBlockBytes, pair.old_image.size());
    Bytes block(kBlockBytes);
    for (size_t i = 0; i < kBlockBytes; ++i) {
      const uint8_t data =
          static_cast<uint8_t>(op.is_xor ? pair.old_image[op.source_bytes + i] ^
                                               pair.new_image[at + i]
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
      std::copy_n(pair.new_image.begin() + at, bytes, disk.begin() + at);
    }
  }
  disk.resize(pair.new_image.size());
  return disk;
}

}  // namespace dmu::tools

#endif  // TEST_DIFF_TEST_UTIL_H_
