// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the pipeline hands over is the plan's data, in the plan's order,
// the same on any number of threads, each with its check; an error ends it.
// Method: a pair of images with everything in it; the codec undoes the work.
#include "tools/unit_pipeline.h"

#include <memory>
#include <random>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/unit_check.h"
#include "gtest/gtest.h"
#include "test/diff_test_util.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kBlocks = 900;

Pair MixedPair() {
  std::mt19937 rng(1);
  Pair pair;
  pair.old_image = test::RandomImage(&rng, kBlocks);
  const Bytes moved = RandomBytes(&rng, 300 * size_t{kBlockBytes});
  std::copy(moved.begin(), moved.end(), pair.old_image.begin());
  pair.new_image = test::RandomImage(&rng, kBlocks);
  std::copy(moved.begin(), moved.end() - 100, pair.new_image.begin() + 100);
  return pair;
}

struct Unit {
  uint32_t new_block;
  uint8_t span_log2;
  Bytes stored;
  bool operator==(const Unit&) const = default;
};

class UnitPipelineTest : public ::testing::Test {
 protected:
  UnitPipelineTest() : pair_(MixedPair()), plan_(Plan(pair_, 1)) {}

  // Everything, with its check proved.
  std::vector<Unit> Run(const cow::CompressionSpec& spec, uint32_t unit_bytes,
                        unsigned threads) {
    const DiffImage old_image = ImageOf(pair_.old_image);
    const DiffImage new_image = ImageOf(pair_.new_image);
    UnitPipeline pipeline(old_image, new_image, plan_,
                          {spec, false, unit_bytes}, threads);
    uint64_t blocks = plan_.xor_blocks + plan_.replace_blocks;
    std::vector<Unit> units;
    while (blocks > 0) {
      const auto stored = pipeline.Next();
      EXPECT_TRUE(stored.ok()) << stored.status();
      if (!stored.ok()) break;
      EXPECT_EQ(stored->check, cow::UnitCheck(stored->bytes));
      units.push_back({stored->unit.new_block, stored->unit.span_log2,
                       Bytes(stored->bytes.begin(), stored->bytes.end())});
      blocks -= stored->unit.bytes() / kBlockBytes;
    }
    return units;
  }

  const Pair pair_;
  const DiffPlan plan_;
};

TEST_F(UnitPipelineTest, TheDataOfThePlanInItsOrder) {
  ASSERT_GT(plan_.xor_blocks, 250u);
  ASSERT_GT(plan_.replace_blocks, 200u);
  const cow::CompressionSpec spec{cow::Compression::kZstd, 3};
  const auto codec =
      cow::Codec::Create(cow::CompressionBit(cow::Compression::kZstd));
  for (const uint32_t unit_bytes : {4096u, 16384u, 262144u}) {
    const std::vector<Unit> units = Run(spec, unit_bytes, 2);
    size_t at = 0;
    const auto decode = [&](uint32_t new_block) {
      const Unit& unit = units.at(at++);
      EXPECT_EQ(unit.new_block, new_block);
      Bytes raw(size_t{kBlockBytes} << unit.span_log2);
      EXPECT_LE(raw.size(), unit_bytes);
      const bool stored_raw = unit.stored.size() == raw.size();
      EXPECT_EQ(cow::DecodeUnit(
                    codec.get(),
                    stored_raw ? cow::Compression::kNone : spec.compression,
                    unit.stored, raw),
                IoStatus::kOk);
      return raw;
    };
    for (const DiffPlan::Ordered& op : plan_.ordered) {
      if (!op.is_xor) continue;
      const Bytes raw = decode(op.new_block);
      for (size_t i = 0; i < kBlockBytes; ++i) {
        ASSERT_EQ(raw.at(i) ^ pair_.old_image[op.source_bytes + i],
                  pair_.new_image[size_t{op.new_block} * kBlockBytes + i]);
      }
    }
    for (const DiffPlan::Run& run : plan_.rest) {
      for (uint32_t done = 0; !run.zero && done < run.blocks;) {
        const Bytes raw = decode(run.new_block + done);
        EXPECT_TRUE(
            std::equal(raw.begin(), raw.end(),
                       pair_.new_image.begin() +
                           ptrdiff_t{run.new_block + done} * kBlockBytes));
        done += static_cast<uint32_t>(raw.size() / kBlockBytes);
      }
    }
    EXPECT_EQ(at, units.size());
  }
}

TEST_F(UnitPipelineTest, TheSameOnAnyNumberOfThreads) {
  for (const auto compression :
       {cow::Compression::kNone, cow::Compression::kGz, cow::Compression::kLz4,
        cow::Compression::kZstd}) {
    const cow::CompressionSpec spec{compression, 3};
    const std::vector<Unit> one = Run(spec, 65536, 1);
    EXPECT_TRUE(one == Run(spec, 65536, 2));
    EXPECT_TRUE(one == Run(spec, 65536, 5));
  }
}

TEST_F(UnitPipelineTest, AReadErrorEndsIt) {
  for (const bool of_old : {true, false}) {
    DiffImage old_image = ImageOf(pair_.old_image);
    DiffImage new_image = ImageOf(pair_.new_image);
    (of_old ? old_image : new_image).read = [](uint64_t, ByteSpan) {
      return absl::InternalError("the disk is broken");
    };
    UnitPipeline pipeline(old_image, new_image, plan_, {{}, false, 65536}, 2);
    EXPECT_EQ(pipeline.Next().status().code(), absl::StatusCode::kInternal);
  }
}

// Left in the middle: the threads must not wait for a consumer that is gone.
TEST_F(UnitPipelineTest, MayBeLeftAtAnyTime) {
  const DiffImage old_image = ImageOf(pair_.old_image);
  const DiffImage new_image = ImageOf(pair_.new_image);
  for (int taken = 0; taken < 40; ++taken) {
    UnitPipeline pipeline(old_image, new_image, plan_, {}, 3);
    for (int i = 0; i < taken; ++i) EXPECT_TRUE(pipeline.Next().ok());
  }
}

}  // namespace
}  // namespace dmu::tools
