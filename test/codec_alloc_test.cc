// SPDX-License-Identifier: Apache-2.0
//
// Goal: decoding a unit takes nothing from the heap.
// Method: malloc counted over many units, after one to warm up.
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/compressor.h"
#include "gtest/gtest.h"
#include "test/alloc_counter.h"

namespace dmu::cow {
namespace {

TEST(CodecAllocTest, DecodeTakesNothing) {
  for (const char* name : {"gz", "lz4", "zstd"}) {
    const auto spec = ParseCompression(name);
    ASSERT_TRUE(spec.ok());
    const std::vector<uint8_t> unit(kUnitBytesMax, 'x');
    std::vector<uint8_t> stored(unit.size());
    auto compressor = Compressor::Create(*spec, kUnitBytesMax);
    stored.resize(compressor->Compress(unit, stored));
    ASSERT_GT(stored.size(), 0u);
    auto codec = Codec::Create(spec->compression);
    std::vector<uint8_t> out(unit.size());
    ASSERT_EQ(codec->Decode(stored, out), IoStatus::kOk);
    std::vector<uint8_t> cut(stored.begin(), stored.end() - 1);
    const uint64_t before = AllocationCount();
    for (int i = 0; i < 100; ++i) {
      if (codec->Decode(stored, out) != IoStatus::kOk ||
          codec->Decode(cut, out) != IoStatus::kCorrupt) {
        FAIL() << name;
      }
    }
    EXPECT_EQ(AllocationCount() - before, 0u) << name;
  }
}

}  // namespace
}  // namespace dmu::cow
