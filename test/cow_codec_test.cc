// SPDX-License-Identifier: Apache-2.0
//
// Goal: what is compressed comes back; what is not a whole, exact stream is
// refused, without a byte outside the unit and without taking memory.
// Method: every compressor, unit size and kind of data; then every truncation
// and many random damages, with guard bytes behind the unit.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/compressor.h"
#include "gtest/gtest.h"

namespace dmu::cow {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;

Bytes Data(const std::string& kind, size_t bytes) {
  Bytes data(bytes, 0);
  std::mt19937 random(static_cast<uint32_t>(bytes));
  if (kind == "text") {
    const std::string line = "a line of a configuration file = value 0123\n";
    for (size_t i = 0; i < bytes; ++i) {
      data[i] = static_cast<uint8_t>(line[i % line.size()]);
      if (i % 61 == 0) data[i] = static_cast<uint8_t>('a' + random() % 26);
    }
  } else if (kind == "random") {
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  }
  return data;
}

class CodecTest : public ::testing::TestWithParam<
                      std::tuple<const char*, uint32_t, const char*>> {
 protected:
  void SetUp() override {
    const auto spec = ParseCompression(std::get<0>(GetParam()));
    ASSERT_TRUE(spec.ok());
    const uint32_t unit_bytes = std::get<1>(GetParam()) * 1024;
    data_ = Data(std::get<2>(GetParam()), unit_bytes);
    auto compressor = Compressor::Create(*spec, unit_bytes);
    ASSERT_NE(compressor, nullptr);
    stored_.resize(unit_bytes);
    const uint32_t used = compressor->Compress(data_, stored_);
    ASSERT_LT(used, unit_bytes);
    raw_ = used == 0;
    if (raw_) {
      stored_ = data_;
    } else {
      stored_.resize(used);
    }
    codec_ = Codec::Create(spec->compression);
    ASSERT_NE(codec_, nullptr);
    out_.assign(unit_bytes + kGuardBytes, kGuard);
  }

  IoStatus Decode(const Bytes& stored) {
    const IoStatus status =
        DecodeUnit(codec_.get(), stored, ByteSpan(out_.data(), data_.size()));
    for (size_t i = data_.size(); i < out_.size(); ++i) {
      EXPECT_EQ(out_[i], kGuard) << "written behind the unit";
    }
    return status;
  }

  bool OutIsData() const {
    return std::equal(data_.begin(), data_.end(), out_.begin());
  }

  Bytes data_;
  Bytes stored_;
  bool raw_ = false;
  std::unique_ptr<Codec> codec_;
  Bytes out_;
};

TEST_P(CodecTest, RoundTrip) {
  // Twice: the context must be as new after a unit.
  for (int i = 0; i < 2; ++i) {
    std::fill(out_.begin(), out_.end() - kGuardBytes, uint8_t{0x11});
    ASSERT_EQ(Decode(stored_), IoStatus::kOk);
    EXPECT_TRUE(OutIsData());
  }
}

TEST_P(CodecTest, NothingButTheWholeStreamIsTaken) {
  const size_t step = std::max<size_t>(1, stored_.size() / 97);
  for (size_t cut = 0; cut < stored_.size(); cut += step) {
    EXPECT_EQ(Decode(Bytes(stored_.begin(),
                           stored_.begin() + static_cast<ptrdiff_t>(cut))),
              IoStatus::kCorrupt)
        << cut << " of " << stored_.size() << " bytes";
  }
  if (raw_) return;
  Bytes longer = stored_;
  longer.push_back(0);
  EXPECT_EQ(Decode(longer), IoStatus::kCorrupt) << "a byte too many";
  // And it still works.
  ASSERT_EQ(Decode(stored_), IoStatus::kOk);
  EXPECT_TRUE(OutIsData());
}

TEST_P(CodecTest, DamageStaysInsideTheUnit) {
  if (raw_) return;
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    Bytes damaged = stored_;
    for (int n = 0; n < 1 + i % 4; ++n) {
      damaged[random() % damaged.size()] ^=
          static_cast<uint8_t>(1 + random() % 255);
    }
    const IoStatus status = Decode(damaged);
    EXPECT_TRUE(status == IoStatus::kOk || status == IoStatus::kCorrupt);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, CodecTest,
    ::testing::Combine(::testing::Values("none", "gz", "gz,1", "lz4", "zstd",
                                         "zstd,19"),
                       ::testing::Values(4u, 8u, 16u, 32u, 64u, 128u, 256u),
                       ::testing::Values("zeros", "text", "random")));

TEST(CodecTest, WhatIsNotServedHasNoCodec) {
  EXPECT_EQ(Codec::Create(Compression::kBrotli), nullptr);
  EXPECT_EQ(Codec::Create(static_cast<Compression>(99)), nullptr);
}

TEST(CompressionSpecTest, Text) {
  for (const char* good : {"none", "gz", "gz,4", "lz4", "zstd", "zstd,-1"}) {
    EXPECT_TRUE(ParseCompression(good).ok()) << good;
  }
  for (const char* bad :
       {"gz,4,4", "zs,4", "zstd.4", "zstd,x", "gz,", "gz,99", "GZ"}) {
    EXPECT_FALSE(ParseCompression(bad).ok()) << bad;
  }
  EXPECT_EQ(ParseCompression("brotli").status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace dmu::cow
