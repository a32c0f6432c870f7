// SPDX-License-Identifier: Apache-2.0
//
// Goal: decoding a unit takes nothing from the heap, whatever the unit.
// Method: malloc counted over many units, good ones, cut ones and such as make
// the libraries ask for more, after one to warm up.
#include <random>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/compressor.h"
#include "gtest/gtest.h"
#include "test/alloc_counter.h"

namespace dmu::cow {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr CompressionSet kAll =
    CompressionBit(Compression::kGz) | CompressionBit(Compression::kBrotli) |
    CompressionBit(Compression::kLz4) | CompressionBit(Compression::kZstd);

TEST(CodecAllocTest, DecodeTakesNothing) {
  auto codec = Codec::Create(kAll);
  ASSERT_NE(codec, nullptr);
  Bytes unit(kUnitBytesMax, 'x');
  std::mt19937 random(3);
  for (size_t i = 0; i < unit.size() / 2; ++i) {
    unit[i] = static_cast<uint8_t>('a' + random() % (1 + i / 8192));
  }
  for (const char* name : {"gz", "brotli", "brotli,4", "lz4", "zstd"}) {
    const auto spec = ParseCompression(name);
    ASSERT_TRUE(spec.ok());
    Bytes stored(unit.size());
    auto compressor = Compressor::Create(*spec, kUnitBytesMax);
    stored.resize(compressor->Compress(unit, stored));
    ASSERT_GT(stored.size(), 0u);
    Bytes out(unit.size());
    ASSERT_EQ(codec->Decode(spec->compression, stored, out), IoStatus::kOk);
    const Bytes cut(stored.begin(), stored.end() - 1);
    Bytes damaged = stored;
    const uint64_t before = AllocationCount();
    for (size_t i = 0; i < 100; ++i) {
      const size_t at = i < 50 ? i : random() % damaged.size();
      damaged[at] ^= 0x5a;
      if (codec->Decode(spec->compression, stored, out) != IoStatus::kOk ||
          codec->Decode(spec->compression, cut, out) != IoStatus::kCorrupt) {
        FAIL() << name;
      }
      const IoStatus status = codec->Decode(spec->compression, damaged, out);
      if (status != IoStatus::kOk && status != IoStatus::kCorrupt) FAIL();
      damaged[at] ^= 0x5a;
    }
    EXPECT_EQ(AllocationCount() - before, 0u) << name;
  }
}

TEST(CodecAllocTest, OldZstdFramesTakeNothing) {
  auto codec = Codec::Create(kAll);
  Bytes out(kBlockBytes);
  for (const uint8_t version : {0x25, 0x26, 0x27}) {  // 0.5, 0.6, 0.7
    const Bytes frame = {version, 0xb5, 0x2f, 0xfd, 0, 0x58, 0xc0, 0, 0};
    const Bytes short_header = {version, 0xb5, 0x2f, 0xfd, 0, 0xc0, 0, 0};
    const uint64_t before = AllocationCount();
    const IoStatus a = codec->Decode(Compression::kZstd, frame, out);
    const IoStatus b = codec->Decode(Compression::kZstd, short_header, out);
    EXPECT_EQ(AllocationCount() - before, 0u) << int{version};
    EXPECT_EQ(a, IoStatus::kCorrupt);
    EXPECT_EQ(b, IoStatus::kCorrupt);
  }
}

TEST(CodecAllocTest, OnlyWhatTheSetNeedsIsMade) {
  uint64_t before = AllocationCount();
  const auto none = Codec::Create(0);
  const uint64_t for_none = AllocationCount() - before;
  before = AllocationCount();
  const auto all = Codec::Create(kAll);
  EXPECT_GT(AllocationCount() - before, for_none);
  EXPECT_EQ(for_none, 1u);
}

}  // namespace
}  // namespace dmu::cow
