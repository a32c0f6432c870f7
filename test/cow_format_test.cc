// SPDX-License-Identifier: Apache-2.0
//
// Goal: the bytes on disk are Android's. Method: files worked out by hand from
// the format, byte for byte, decoded and encoded again.
#include <gtest/gtest.h>

#include <cstring>

#include "daemon/base/bytes.h"
#include "daemon/cow/extension.h"
#include "daemon/cow/format.h"
#include "daemon/cow/progress.h"
#include "test/cow_test_util.h"

namespace dmu::cow {
namespace {

using test::Bytes;
using test::FromHex;

// No scratch, room for 8 ops, 2 used, no compression.
constexpr char kSmallHeader[] =
    "2121574f63776f43 0300 0000 4e00 0000 1000 00100000 00000000"
    "0000000000000000 00000000"
    "0000000000000000 00000000 04000000 0200000000000000 0800000000000000"
    "00000000 00100000";

TEST(Header, DecodesAndEncodesTheSameBytes) {
  const Bytes bytes = FromHex(kSmallHeader);
  ASSERT_EQ(bytes.size(), kHeaderBytesV3);
  const Header h = DecodeHeader(bytes.data());
  EXPECT_EQ(h.major_version, 3);
  EXPECT_EQ(h.minor_version, 0);
  EXPECT_EQ(h.header_size, 78);
  EXPECT_EQ(h.footer_size, 0);
  EXPECT_EQ(h.op_size, 16);
  EXPECT_EQ(h.block_size, 4096u);
  EXPECT_EQ(h.num_merge_ops, 0u);
  EXPECT_EQ(h.buffer_size, 0u);
  EXPECT_EQ(h.resume_point_count, 0u);
  EXPECT_EQ(h.resume_point_max, 4u);
  EXPECT_EQ(h.op_count, 2u);
  EXPECT_EQ(h.op_count_max, 8u);
  EXPECT_EQ(h.compression, Compression::kNone);
  EXPECT_EQ(h.max_unit_bytes, 4096u);
  EXPECT_EQ(h.OpsOffset(), 0x8eu);
  EXPECT_EQ(h.DataOffset(), 0x10eu);
  Bytes again(kHeaderBytesV3);
  EncodeHeader(h, again.data());
  EXPECT_EQ(again, bytes);
}

TEST(Header, EveryFieldHasItsOwnBytes) {
  // Each byte of the header but magic and version, which decides what the
  // others are, changes what is decoded, and is written back.
  for (uint32_t i = 10; i < kHeaderBytesV3; ++i) {
    Bytes bytes = FromHex(kSmallHeader);
    bytes[i] ^= 0x5a;
    Bytes again(kHeaderBytesV3);
    EncodeHeader(DecodeHeader(bytes.data()), again.data());
    EXPECT_EQ(again, bytes) << "byte " << i;
  }
}

TEST(Header, ChecksumLeavesTheMergeCounterOut) {
  Header h = DecodeHeader(FromHex(kSmallHeader).data());
  const uint32_t crc = HeaderChecksum(h);
  h.num_merge_ops = 2;
  EXPECT_EQ(HeaderChecksum(h), crc);
  h.op_count = 3;
  EXPECT_NE(HeaderChecksum(h), crc);
}

struct OpCase {
  const char* hex;
  OpType type;
  uint8_t span_log2;
  uint32_t data_length;
  uint32_t new_block;
  uint64_t source;
};

constexpr OpCase kOps[] = {
    {"00000000 02000000 0500000000000010", OpType::kCopy, 0, 0, 2, 5},
    {"00000000 03000000 0000000000000030", OpType::kZero, 0, 0, 3, 0},
    {"00000000 09000000 0400000000000010", OpType::kCopy, 0, 0, 9, 4},
    {"4f000000 10000000 1601000000000024", OpType::kReplace, 2, 79, 16, 0x116},
    {"1a000000 14000000 6501000000000020", OpType::kReplace, 0, 26, 20, 0x165},
    {"1b000000 01000000 0a60000000000060", OpType::kXor, 0, 27, 1, 24586},
    {"01000000 00000000 010000000000002c", OpType::kReplace, 6, 1, 0, 1},
};

TEST(Op, DecodesAndEncodesTheSameBytes) {
  for (const OpCase& c : kOps) {
    const Bytes bytes = FromHex(c.hex);
    Op op;
    ASSERT_TRUE(DecodeOpV3(bytes.data(), Compression::kLz4, &op)) << c.hex;
    EXPECT_EQ(op.type, c.type);
    EXPECT_EQ(op.span_log2, c.span_log2);
    EXPECT_EQ(op.data_length, c.data_length);
    EXPECT_EQ(op.new_block, c.new_block);
    EXPECT_EQ(op.source, c.source);
    Bytes again(kOpBytesV3);
    EncodeOpV3(op, again.data());
    EXPECT_EQ(again, bytes) << c.hex;
  }
}

TEST(Op, FieldsDoNotTouchEachOther) {
  Op op;
  op.type = OpType::kReplace;
  op.span_log2 = 6;
  op.data_length = UINT32_MAX;
  op.new_block = UINT32_MAX;
  op.source = (uint64_t{1} << 48) - 1;
  uint8_t bytes[kOpBytesV3];
  EncodeOpV3(op, bytes);
  EXPECT_EQ(LoadLe<uint64_t>(bytes + 8), 0x2c00ffffffffffffu);
}

TEST(Op, RefusesWhatIsNoOp) {
  Op op;
  for (int type = 0; type < 16; ++type) {
    uint8_t bytes[kOpBytesV3] = {};
    bytes[15] = static_cast<uint8_t>(type << 4);
    EXPECT_EQ(DecodeOpV3(bytes, Compression::kNone, &op),
              type == 1 || type == 2 || type == 3 || type == 6)
        << type;
  }
  for (int bit = 48; bit < 57; ++bit) {
    uint8_t bytes[kOpBytesV3] = {};
    StoreLe<uint64_t>(bytes + 8, uint64_t{1} << 60 | uint64_t{1} << bit);
    EXPECT_FALSE(DecodeOpV3(bytes, Compression::kNone, &op))
        << "reserved bit " << bit;
  }
  uint8_t bytes[kOpBytesV3] = {};
  bytes[15] = 0x2e;  // span_log2 7
  EXPECT_FALSE(DecodeOpV3(bytes, Compression::kNone, &op));
}

struct StoredCase {
  uint8_t compression;
  uint16_t data_length;
  Compression stored_as;
};

// Version 2 stores gz and brotli compressed even when that is no gain, and may
// so have exactly as many bytes as the block; lz4 and zstd are raw then.
TEST(OpV2, WhatIsRaw) {
  const StoredCase cases[] = {
      {0, 4096, Compression::kNone}, {1, 4096, Compression::kGz},
      {1, 4107, Compression::kGz},   {2, 4096, Compression::kBrotli},
      {3, 4096, Compression::kNone}, {3, 4095, Compression::kLz4},
      {4, 4096, Compression::kNone}, {4, 47, Compression::kZstd},
  };
  for (const StoredCase& c : cases) {
    uint8_t bytes[kOpBytesV2] = {2, c.compression};
    StoreLe<uint16_t>(bytes + 2, c.data_length);
    Op op;
    ASSERT_TRUE(DecodeOpV2(bytes, &op));
    EXPECT_EQ(op.compression, c.stored_as)
        << int{c.compression} << ' ' << c.data_length;
  }
}

TEST(OpV2, RefusesWhatIsNoOp) {
  Op op;
  for (int type = 0; type < 256; ++type) {
    uint8_t bytes[kOpBytesV2] = {static_cast<uint8_t>(type)};
    EXPECT_EQ(DecodeOpV2(bytes, &op), (type >= 1 && type <= 7) || type == 255)
        << type;
  }
  uint8_t bytes[kOpBytesV2] = {1, 5};
  EXPECT_FALSE(DecodeOpV2(bytes, &op)) << "compression 5";
  bytes[1] = 0;
  bytes[8] = 1;
  EXPECT_FALSE(DecodeOpV2(bytes, &op)) << "block beyond 32 bits";
  bytes[8] = 0;
  bytes[18] = 1;
  EXPECT_FALSE(DecodeOpV2(bytes, &op)) << "source beyond 48 bits";
  bytes[0] = 4;
  EXPECT_TRUE(DecodeOpV2(bytes, &op)) << "but a label may be anything";
}

TEST(Extension, RoundTripsAndSeesEveryFlippedBit) {
  Extension ext;
  ext.base_bytes = 1 << 20;
  ext.target_bytes = 2 << 20;
  ext.data_end = 12345;
  ext.op_count = 77;
  ext.complete = true;
  ext.unit_check_count = 77;
  ext.header_crc = 0xdeadbeef;
  uint8_t bytes[kExtensionBytes];
  EncodeExtension(ext, bytes);
  EXPECT_EQ(std::memcmp(bytes, "DMSUEXT2", 8), 0);
  Extension again;
  ASSERT_TRUE(DecodeExtension(bytes, &again));
  EXPECT_TRUE(again.complete);
  EXPECT_EQ(again.unit_check_count, 77u);
  EXPECT_EQ(again.base_bytes, ext.base_bytes);
  EXPECT_EQ(again.target_bytes, ext.target_bytes);
  EXPECT_EQ(again.data_end, ext.data_end);
  EXPECT_EQ(again.op_count, ext.op_count);
  EXPECT_EQ(again.header_crc, ext.header_crc);
  for (uint32_t bit = 0; bit < kExtensionBytes * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(DecodeExtension(bytes, &again)) << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
}

TEST(Progress, CounterAndStateAreAllThatChanges) {
  Bytes sector(kSectorBytes, 0xee);
  EncodeProgress(Header(), 0x0102030405060708, ScratchState::kWindowStaged,
                 sector.data());
  for (uint32_t i = 0; i < kSectorBytes; ++i) {
    if (i >= 26 && i < 34) {
      EXPECT_EQ(sector[i], 8 - (i - 26)) << i;
    } else {
      EXPECT_EQ(sector[i], i == 78 ? 2 : 0xee) << i;
    }
  }
}

TEST(Progress, ScratchMetadataRoundTrips) {
  std::vector<uint32_t> blocks(kScratchEntriesMax);
  for (uint32_t i = 0; i < blocks.size(); ++i) blocks[i] = 1000 - i;
  blocks[7] = 0;  // block 0 is a block like any other
  Bytes area(kScratchMetadataBytes - 1, 0xee);
  EncodeScratchMetadata(Header(), blocks.data(), kScratchEntriesMax,
                        area.data());
  std::vector<ScratchEntry> entries;
  ASSERT_TRUE(DecodeScratchMetadata(Header(), area.data(), &entries));
  ASSERT_EQ(entries.size(), kScratchEntriesMax);
  for (uint32_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i].new_block, blocks[i]);
    EXPECT_EQ(entries[i].file_offset, 78u + 8192 + 4096 * i);
  }
  // The 511th place must hold the terminator.
  area[kScratchEntriesMax * kScratchEntryBytes] = 1;
  EXPECT_FALSE(DecodeScratchMetadata(Header(), area.data(), &entries));
}

TEST(Progress, RefusesImpossibleScratchMetadata) {
  const uint32_t blocks[] = {4, 5};
  std::vector<ScratchEntry> entries;
  Bytes area(kScratchMetadataBytes - 1);
  auto changed = [&](uint32_t at, uint64_t value) {
    EncodeScratchMetadata(Header(), blocks, 2, area.data());
    StoreLe<uint64_t>(area.data() + at, value);
    return DecodeScratchMetadata(Header(), area.data(), &entries);
  };
  EXPECT_TRUE(changed(0, 6));
  EXPECT_FALSE(changed(0, 5)) << "block twice";
  EXPECT_FALSE(changed(0, uint64_t{1} << 32)) << "no block";
  EXPECT_FALSE(changed(8, Header().ScratchDataOffset(0) - 1))
      << "in front of the data";
  EXPECT_FALSE(changed(8, Header().ScratchDataOffset(510) - 4095))
      << "behind the data";
  EXPECT_TRUE(changed(8, Header().ScratchDataOffset(509)));
}

}  // namespace
}  // namespace dmu::cow
