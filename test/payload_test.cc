// SPDX-License-Identifier: Apache-2.0
//
// Goal: an image in the payload.bin of a full update comes out as it went in,
// whatever its operations; what is cut, damaged or needs the old image is
// refused with a sentence, and leaves no file.
// Method: payloads put together here, compressed by libbz2 and liblzma.
#include <bzlib.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/payload.pb.h"
#include "test/cow_test_util.h"
#include "test/temp_file.h"
#include "tools/image_extract.h"
#include "tools/sha256.h"

namespace dmu::test {
namespace {

namespace fs = std::filesystem;
using proto::PayloadManifest;
using proto::PayloadOperation;
using proto::PayloadPartition;
using testing::HasSubstr;

std::string Digest(const Bytes& bytes) {
  tools::Sha256 sum;
  sum.Update(bytes);
  return absl::HexStringToBytes(sum.Finish());
}

Bytes Stored(const Bytes& data, PayloadOperation::Type type) {
  Bytes out(data.size() * 2 + 1000);
  if (type == PayloadOperation::REPLACE_BZ) {
    auto bytes = static_cast<unsigned>(out.size());
    EXPECT_EQ(BZ2_bzBuffToBuffCompress(
                  reinterpret_cast<char*>(out.data()), &bytes,
                  reinterpret_cast<char*>(const_cast<uint8_t*>(data.data())),
                  static_cast<unsigned>(data.size()), 9, 0, 0),
              BZ_OK);
    out.resize(bytes);
    return out;
  }
  if (type == PayloadOperation::REPLACE_XZ) {
    size_t bytes = 0;
    EXPECT_EQ(
        lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr, data.data(),
                                data.size(), out.data(), &bytes, out.size()),
        LZMA_OK);
    out.resize(bytes);
    return out;
  }
  return data;
}

struct Made {
  PayloadManifest manifest;
  Bytes data;

  PayloadPartition* partition(int i) { return manifest.mutable_partitions(i); }
  PayloadOperation* operation(int i) {
    return partition(0)->mutable_operations(i);
  }

  // signature: bytes that nobody looks at.
  Bytes File(size_t signature = 37) const {
    const std::string text = manifest.SerializeAsString();
    Bytes file = {'C', 'r', 'A', 'U'};
    const auto put = [&file](uint64_t value, int bytes) {
      for (int i = bytes - 1; i >= 0; --i) {
        file.push_back(static_cast<uint8_t>(value >> (8 * i)));
      }
    };
    put(2, 8);
    put(text.size(), 8);
    put(signature, 4);
    file.insert(file.end(), text.begin(), text.end());
    file.resize(file.size() + signature, 0xee);
    file.insert(file.end(), data.begin(), data.end());
    return file;
  }
};

void AddOperation(Made* made, PayloadPartition* partition,
                  PayloadOperation::Type type, const Bytes& data,
                  const std::vector<std::pair<uint64_t, uint64_t>>& extents) {
  PayloadOperation* operation = partition->add_operations();
  operation->set_type(type);
  for (const auto& [start, count] : extents) {
    auto* extent = operation->add_dst_extents();
    extent->set_start_block(start);
    extent->set_num_blocks(count);
  }
  if (data.empty()) return;
  const Bytes stored = Stored(data, type);
  operation->set_data_offset(made->data.size());
  operation->set_data_length(stored.size());
  operation->set_data_sha256_hash(Digest(stored));
  made->data.insert(made->data.end(), stored.begin(), stored.end());
}

// Every operation of a full update; the blocks of some are all over the image.
Made Good(const Bytes& image, const Bytes& other) {
  const auto blocks = [&image](uint64_t first, uint64_t count) {
    return Bytes(image.begin() + first * 4096,
                 image.begin() + (first + count) * 4096);
  };
  Made made;
  auto* system = made.manifest.add_partitions();
  system->set_partition_name("system");
  system->mutable_new_partition_info()->set_size(image.size());
  system->mutable_new_partition_info()->set_hash(Digest(image));
  AddOperation(&made, system, PayloadOperation::REPLACE, blocks(0, 3),
               {{0, 3}});
  Bytes apart = blocks(20, 2);
  const Bytes rest = blocks(3, 5);
  apart.insert(apart.end(), rest.begin(), rest.end());
  AddOperation(&made, system, PayloadOperation::REPLACE_BZ, apart,
               {{20, 2}, {3, 5}});
  AddOperation(&made, system, PayloadOperation::REPLACE_XZ, blocks(8, 12),
               {{8, 12}});
  AddOperation(&made, system, PayloadOperation::ZERO, {}, {{22, 30}});
  AddOperation(&made, system, PayloadOperation::DISCARD, {}, {{52, 2}});
  // Filled in part.
  Bytes tail = blocks(54, 1);
  tail.resize(1000);
  AddOperation(&made, system, PayloadOperation::REPLACE_XZ, tail, {{54, 1}});
  auto* vendor = made.manifest.add_partitions();
  vendor->set_partition_name("vendor");
  vendor->mutable_new_partition_info()->set_size(other.size());
  vendor->mutable_new_partition_info()->set_hash(Digest(other));
  AddOperation(&made, vendor, PayloadOperation::REPLACE_XZ, other,
               {{0, other.size() / 4096}});
  return made;
}

Bytes Image() {
  std::mt19937 rng(9);
  Bytes image = RandomImage(&rng, 55);
  std::fill(image.begin() + 22 * 4096, image.begin() + 54 * 4096, 0);
  std::fill(image.begin() + 54 * 4096 + 1000, image.end(), 0);
  return image;
}

// Text, so that a little of it becomes much.
Bytes Other() {
  Bytes other(5 << 20);
  for (size_t i = 0; i < other.size(); ++i) {
    other[i] = static_cast<uint8_t>("what is said again "[i % 19]);
  }
  return other;
}

absl::StatusOr<uint64_t> Extract(const Bytes& file,
                                 const std::string& partition) {
  tools::ImageExtractOptions options;
  options.input_path = WriteTemp("payload.bin", file);
  options.partition = partition;
  options.output_path = TempPath("out.img");
  fs::remove(options.output_path);
  return tools::ExtractImage(options);
}

TEST(PayloadTest, ImagesComeOutAsTheyWentIn) {
  const Bytes image = Image();
  const Bytes other = Other();
  const Made made = Good(image, other);
  for (const size_t signature : {size_t{0}, size_t{523}}) {
    const auto system = Extract(made.File(signature), "system");
    ASSERT_TRUE(system.ok()) << system.status();
    EXPECT_EQ(*system, image.size());
    EXPECT_TRUE(ReadWhole(TempPath("out.img")) == image);
    const auto vendor = Extract(made.File(signature), "vendor");
    ASSERT_TRUE(vendor.ok()) << vendor.status();
    EXPECT_TRUE(ReadWhole(TempPath("out.img")) == other);
  }
  // The digest of each operation is Android's to leave out.
  Made without = made;
  without.operation(1)->clear_data_sha256_hash();
  EXPECT_TRUE(Extract(without.File(), "system").ok());
}

TEST(PayloadTest, APartitionIsToBeNamed) {
  const Bytes file = Good(Image(), Other()).File();
  absl::Status status = Extract(file, "").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("name one of system, vendor"));
  status = Extract(file, "boot").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("system, vendor"));
  status = Extract(Bytes(4096), "system").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("is no payload.bin"));
}

void ExpectRefused(const Bytes& file, absl::StatusCode code,
                   const std::string& says) {
  const absl::Status status = Extract(file, "system").status();
  EXPECT_EQ(status.code(), code) << says << ": " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  EXPECT_FALSE(fs::exists(TempPath("out.img"))) << says;
}

TEST(PayloadTest, WhatIsWrongIsRefusedWithASentence) {
  constexpr auto kBad = absl::StatusCode::kDataLoss;
  constexpr auto kNotServed = absl::StatusCode::kUnimplemented;
  const Made good = Good(Image(), Other());
  const Bytes file = good.File();
  Bytes bytes(file.begin(), file.begin() + 20);
  ExpectRefused(bytes, kBad, "its header alone has 24");
  bytes = file;
  bytes[11] = 1;
  ExpectRefused(bytes, kNotServed, "a payload of version 1; served is 2");
  bytes = file;
  bytes[12] = 0xff;
  ExpectRefused(bytes, kBad, "its manifest and signature have");
  bytes = file;
  bytes[20] = 0xff;
  ExpectRefused(bytes, kBad, "its manifest and signature have");
  bytes = file;
  bytes[24] = 0xff;
  ExpectRefused(bytes, kBad, "its manifest is no protobuf message");
  bytes = Bytes(file.begin(), file.end() - 1);
  ExpectRefused(bytes, kBad, "vendor, operation 0: its data are");

  const auto edited = [&good](auto edit) {
    Made made = good;
    edit(&made);
    return made.File();
  };
  ExpectRefused(edited([](Made* m) { m->manifest.set_block_size(1000); }), kBad,
                "its blocks have 1000 bytes");
  ExpectRefused(
      edited([](Made* m) {
        m->partition(0)->mutable_new_partition_info()->set_size(55 * 4096 + 1);
      }),
      kBad, "expected whole blocks of 4096");
  ExpectRefused(
      edited([](Made* m) { m->operation(2)->set_data_offset(UINT64_MAX); }),
      kBad, "system, operation 2: its data are");
  ExpectRefused(edited([](Made* m) {
                  m->operation(0)->mutable_dst_extents(0)->set_start_block(53);
                }),
                kBad, "system, operation 0: it fills 3 blocks from 53 on");
  ExpectRefused(
      edited([](Made* m) {
        m->operation(3)->mutable_dst_extents(0)->set_num_blocks(UINT64_MAX);
      }),
      kBad, "operation 3: it fills");
  ExpectRefused(edited([](Made* m) {
                  m->operation(0)->mutable_dst_extents(0)->set_num_blocks(2);
                }),
                kBad,
                "system, operation 0: it has more data than blocks to fill");
  ExpectRefused(edited([](Made* m) {
                  m->operation(0)->mutable_dst_extents(0)->set_num_blocks(4);
                }),
                kBad, "its data end 4096 bytes before its blocks");
  for (const int number : {1, 2}) {
    ExpectRefused(edited([number](Made* m) {
                    m->operation(number)->clear_data_sha256_hash();
                    m->operation(number)->set_data_length(
                        m->operation(number)->data_length() - 9);
                  }),
                  kBad, "data are cut");
    ExpectRefused(edited([number](Made* m) {
                    m->operation(number)->clear_data_sha256_hash();
                    m->operation(number)->set_data_length(
                        m->operation(number)->data_length() + 9);
                  }),
                  kBad, "something is behind the end of its");
    ExpectRefused(edited([number](Made* m) {
                    m->operation(number)->clear_data_sha256_hash();
                    m->data[m->operation(number)->data_offset() + 1] ^= 1;
                  }),
                  kBad, "data are damaged");
  }
  ExpectRefused(edited([](Made* m) { m->data[5] ^= 1; }), kBad,
                "system, operation 0: its data have the SHA-256");
  ExpectRefused(edited([](Made* m) {
                  m->operation(0)->clear_data_sha256_hash();
                  m->data[5] ^= 1;
                }),
                kBad, "system comes to the SHA-256");
  ExpectRefused(edited([](Made* m) {
                  m->partition(0)->mutable_new_partition_info()->clear_hash();
                }),
                kBad, "expected one");
  for (const int type : {2, 4, 5, 9, 14}) {
    ExpectRefused(
        edited([type](Made* m) {
          m->operation(3)->set_type(static_cast<PayloadOperation::Type>(type));
        }),
        kNotServed, "needs the old image");
  }
  ExpectRefused(
      edited([](Made* m) {
        m->partition(0)->mutable_hash_tree_extent()->set_num_blocks(3);
      }),
      kNotServed, "leaves its hash tree");
}

// Nothing that was damaged anywhere comes out as something else.
TEST(PayloadTest, DamageAnywhereIsRefused) {
  const Bytes image = Image();
  const Bytes file = Good(image, Bytes(4096)).File();
  std::mt19937 rng(5);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    Bytes bytes = file;
    for (uint32_t edits = 1 + rng() % 3; edits > 0; --edits) {
      bytes[rng() % bytes.size()] = static_cast<uint8_t>(rng());
    }
    if (rng() % 8 == 0) bytes.resize(rng() % bytes.size());
    const auto got = Extract(bytes, "system");
    if (got.ok()) {
      ASSERT_TRUE(ReadWhole(TempPath("out.img")) == image) << round;
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace dmu::test
