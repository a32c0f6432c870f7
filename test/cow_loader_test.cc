// SPDX-License-Identifier: Apache-2.0
//
// Goal: a good file gives the right index, order and progress; every kind of
// bad file is refused with its code and a sentence, and nothing is taken on
// trust. Method: small files built by the writer or by hand, one thing changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "daemon/base/bytes.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/writer.h"
#include "test/cow_test_util.h"

namespace dmu::cow {
namespace {

using test::Bytes;
using test::FromHex;
using test::LoadBytes;
using testing::ElementsAre;
using testing::HasSubstr;
using Loaded = absl::StatusOr<std::unique_ptr<Image>>;
using absl::StatusCode;

// copy 2 <- 5, zero 3; no scratch, ends behind the last op.
Bytes SmallestFile() {
  Bytes file = FromHex(
      "2121574f63776f43 0300 0000 4e00 0000 1000 00100000 00000000"
      "0000000000000000 00000000"
      "0000000000000000 00000000 04000000 0200000000000000 0800000000000000"
      "00000000 00100000");
  file.resize(0x8e);
  const Bytes ops = FromHex(
      "00000000 02000000 0500000000000010"
      "00000000 03000000 0000000000000030");
  file.insert(file.end(), ops.begin(), ops.end());
  return file;
}

// Sequence 9, 1; copy, zero, replace of 4 blocks, replace, and an op for block
// 1 whose last byte the caller chooses (0x60 xor, 0x10 copy).
Bytes SequenceFile(uint8_t last_op) {
  Bytes file = FromHex(
      "2121574f63776f43 0300 0000 4e00 0000 1000 00100000 00000000"
      "0000000000000000 00000000"
      "0200000000000000 02000000 04000000 0500000000000000 0800000000000000"
      "03000000 00400000"
      "09000000 01000000"
      "0700000000000000 0400000000000000"
      "0900000000000000 0500000000000000");
  file.resize(0x96);
  Bytes ops = FromHex(
      "00000000 09000000 0400000000000010"
      "00000000 03000000 0000000000000030"
      "4f000000 10000000 1601000000000024"
      "1a000000 14000000 6501000000000020"
      "1b000000 01000000 0a60000000000060");
  ops.back() = last_op;
  if (last_op == 0x10) StoreLe<uint32_t>(ops.data() + 64, 0);
  file.insert(file.end(), ops.begin(), ops.end());
  file.resize(0x116 + 79 + 26 + 27, 0x41);
  return file;
}

// First blocks in the order of M; an entry of a duplicate is left out.
std::vector<uint32_t> Order(const Index& index) {
  std::map<uint32_t, uint32_t> blocks;
  for (uint32_t rank = 0; rank < index.op_count(); ++rank) {
    const uint32_t block = index.AtRank(rank).new_block;
    blocks[index.Find(block)->position] = block;
  }
  std::vector<uint32_t> order;
  for (const auto& [position, block] : blocks) order.push_back(block);
  return order;
}

TEST(Loader, ReadsTheSmallestFile) {
  const Loaded image = LoadBytes(SmallestFile());
  ASSERT_TRUE(image.ok()) << image.status();
  const Index& index = (*image)->index;
  EXPECT_EQ(index.op_count(), 2u);
  EXPECT_FALSE((*image)->has_extension);
  EXPECT_EQ((*image)->span_blocks, 4u);
  EXPECT_EQ((*image)->source_end_bytes, 6u * 4096);
  EXPECT_EQ((*image)->merge_bytes, 8192u);
  EXPECT_EQ((*image)->order_error, "");
  EXPECT_FALSE(index.Find(1).has_value());
  ASSERT_TRUE(index.Find(2).has_value());
  EXPECT_EQ(index.Find(2)->type, OpType::kCopy);
  EXPECT_EQ(index.Find(3)->op, 1u);
  EXPECT_FALSE(index.Find(4).has_value());
  EXPECT_EQ(index.NextStart(0), 2u);
  EXPECT_EQ(index.NextStart(2), 3u);
  EXPECT_EQ(index.NextStart(3), Index::kNoBlock);
  EXPECT_LE(index.resident_bytes(), 32u);
}

TEST(Loader, SequenceComesFirstInTheMergeOrder) {
  const Loaded image = LoadBytes(SequenceFile(0x10));
  ASSERT_TRUE(image.ok()) << image.status();
  const Index& index = (*image)->index;
  // M = 9 1 | 3 16 20
  EXPECT_THAT(Order(index), ElementsAre(9, 1, 3, 16, 20));
  EXPECT_EQ(index.order(), Index::Order::kSequence);
  EXPECT_EQ(index.listed_count(), 2u);
  EXPECT_EQ(index.Find(19)->new_block, 16u);
  EXPECT_EQ(index.Find(19)->span_log2, 2);
  EXPECT_FALSE(index.Find(21).has_value());
  EXPECT_EQ((*image)->span_blocks, 21u);
}

TEST(Loader, ResumePointCountIsClamped) {
  Bytes file = SequenceFile(0x10);
  StoreLe<uint32_t>(file.data() + 46, 6);
  const Loaded image = LoadBytes(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->header.resume_point_count, 4u);
}

TEST(Loader, NoOpsAtAll) {
  Bytes file = SmallestFile();
  StoreLe<uint64_t>(file.data() + 54, 0);
  file.resize(kHeaderBytesV3);
  const Loaded image = LoadBytes(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->index.op_count(), 0u);
  EXPECT_FALSE((*image)->index.Find(0).has_value());
  EXPECT_EQ((*image)->index.NextStart(0), Index::kNoBlock);
}

TEST(Loader, ARoomForManyOpsCostsNothing) {
  Bytes file = SmallestFile();
  StoreLe<uint64_t>(file.data() + 62, UINT32_MAX);
  const Loaded image = LoadBytes(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_LE((*image)->index.resident_bytes(), 32u);
}

struct BadCase {
  const char* name;
  StatusCode code;
  const char* text;  // part of the sentence
  std::function<void(Bytes*)> change;
};

template <typename T>
std::function<void(Bytes*)> Set(uint32_t at, T value) {
  return [at, value](Bytes* file) { StoreLe<T>(file->data() + at, value); };
}

std::function<void(Bytes*)> Cut(size_t bytes) {
  return [bytes](Bytes* file) { file->resize(bytes); };
}

constexpr StatusCode kBad = StatusCode::kDataLoss;
constexpr StatusCode kLater = StatusCode::kUnimplemented;

void ExpectRefused(const Bytes& good, const std::vector<BadCase>& cases) {
  ASSERT_TRUE(LoadBytes(good).ok()) << LoadBytes(good).status();
  for (const BadCase& c : cases) {
    Bytes file = good;
    c.change(&file);
    const Loaded image = LoadBytes(file);
    EXPECT_EQ(image.status().code(), c.code) << c.name << image.status();
    EXPECT_THAT(image.status().ToString(), HasSubstr(c.text)) << c.name;
  }
}

TEST(Loader, RefusesBadHeaders) {
  ExpectRefused(
      SmallestFile(),
      {
          {"empty", kBad, "not a COW file", Cut(0)},
          {"ten bytes", kBad, "not a COW file", Cut(10)},
          {"half a header", kBad, "truncated", Cut(40)},
          {"magic", kBad, "not a COW file", Set<uint8_t>(3, 0)},
          {"version 2", kBad, "header_size", Set<uint16_t>(8, 2)},
          {"version 0", kLater, "version 0.0", Set<uint16_t>(8, 0)},
          {"version 4", kLater, "version 4.0", Set<uint16_t>(8, 4)},
          {"version 3.1", kLater, "version 3.1", Set<uint16_t>(10, 1)},
          {"header size 0", kBad, "header_size", Set<uint16_t>(12, 0)},
          {"header size 79", kBad, "header_size", Set<uint16_t>(12, 79)},
          {"footer", kBad, "footer_size", Set<uint16_t>(14, 84)},
          {"op size", kBad, "op_size", Set<uint16_t>(16, 20)},
          {"block size 0", kBad, "block_size", Set<uint32_t>(18, 0)},
          {"block size 4097", kBad, "block_size", Set<uint32_t>(18, 4097)},
          {"block size 8192", kLater, "8192", Set<uint32_t>(18, 8192)},
          {"clusters", kBad, "cluster_ops", Set<uint32_t>(22, 4)},
          {"counter", kBad, "num_merge_ops", Set<uint64_t>(26, 3)},
          {"counter max", kBad, "num_merge_ops", Set<uint64_t>(26, UINT64_MAX)},
          {"scratch size", kBad, "buffer_size", Set<uint32_t>(34, 4096)},
          {"scratch beyond end", kBad, "scratch region",
           Set<uint32_t>(34, kScratchBytes)},
          {"sequence", kBad, "sequence_data_count", Set<uint64_t>(38, 3)},
          {"sequence overflow", kBad, "sequence_data_count",
           Set<uint64_t>(38, uint64_t{1} << 62)},
          {"resume area", kBad, "op table", Set<uint32_t>(50, UINT32_MAX)},
          {"op count over max", kBad, "op_count", Set<uint64_t>(54, 9)},
          {"op count over file", kBad, "op table", Set<uint64_t>(54, 3)},
          {"op max", kBad, "op_count_max",
           Set<uint64_t>(62, (uint64_t{1} << 32) + 1)},
          {"compression 5", kBad, "compression_algorithm",
           Set<uint32_t>(70, 5)},
          {"unit 0", kBad, "max_compression_size", Set<uint32_t>(74, 0)},
          {"unit 5000", kBad, "max_compression_size", Set<uint32_t>(74, 5000)},
          {"unit 512K", kBad, "max_compression_size",
           Set<uint32_t>(74, 512 * 1024)},
          {"cut in the ops", kBad, "op table", Cut(0x8e + 31)},
      });
}

TEST(Loader, RefusesMoreOpsThanItCanNumber) {
  Bytes file = SmallestFile();
  StoreLe<uint64_t>(file.data() + 54, kOpsMax + 1);
  StoreLe<uint64_t>(file.data() + 62, kOpsMax + 1);
  EXPECT_EQ(LoadBytes(file).status().code(), kLater);
}

TEST(Loader, RefusesBadOps) {
  const uint32_t ops = 0x96;
  const auto op_field = [ops](uint32_t op, uint32_t field) {
    return ops + op * 16 + field;
  };
  ExpectRefused(
      SequenceFile(0x10),
      {
          {"xor without data", kBad, "data bytes",
           Set<uint8_t>(op_field(4, 15), 0x60)},
          {"type 4", kBad, "is not an op", Set<uint8_t>(op_field(0, 15), 0x40)},
          {"reserved bits", kBad, "is not an op",
           Set<uint8_t>(op_field(0, 14), 1)},
          {"copy with data", kBad, "data bytes",
           Set<uint32_t>(op_field(0, 0), 1)},
          {"copy of two blocks", kBad, "covers",
           Set<uint8_t>(op_field(0, 15), 0x12)},
          {"zero with data", kBad, "data bytes",
           Set<uint32_t>(op_field(1, 0), 1)},
          {"copy far away", kBad, "beyond the largest image",
           Set<uint8_t>(op_field(0, 12), 1)},
          {"last block", kBad, "largest image",
           Set<uint32_t>(op_field(1, 4), UINT32_MAX)},
          {"unit over the end", kBad, "largest image",
           Set<uint32_t>(op_field(2, 4), UINT32_MAX - 2)},
          {"no data", kBad, "data bytes", Set<uint32_t>(op_field(2, 0), 0)},
          {"too much data", kBad, "data bytes",
           Set<uint32_t>(op_field(2, 0), 16385)},
          {"data elsewhere", kBad, "expected 278",
           Set<uint8_t>(op_field(2, 8), 0x17)},
          {"hole", kBad, "expected 357", Set<uint8_t>(op_field(3, 8), 0x66)},
          {"unit over the maximum", kBad, "header allows",
           Set<uint32_t>(74, 8192)},
          {"compressed with none", kBad, "compression none",
           Set<uint32_t>(70, 0)},
          {"cut in the data", kBad, "truncated", Cut(0x116 + 79 + 25)},
          {"cut in front of the data", kBad, "truncated", Cut(0x100)},
          {"overlap", kBad, "overlaps", Set<uint32_t>(op_field(3, 4), 19)},
          {"same start as a unit", kBad, "overlaps",
           Set<uint32_t>(op_field(3, 4), 16)},
          {"sequence names nothing", kBad, "no op gives", Set<uint32_t>(78, 8)},
          {"sequence inside a unit", kBad, "no op gives",
           Set<uint32_t>(78, 17)},
          {"sequence twice", kBad, "both name", Set<uint32_t>(82, 9)},
      });
}

// A raw file: op i is given by (type, block, source).
struct RawOp {
  OpType type;
  uint32_t block;
  uint64_t source = 0;
};
Bytes FileOf(const std::vector<RawOp>& ops, bool scratch = false) {
  Header h;
  h.buffer_size = scratch ? kScratchBytes : 0;
  h.op_count = h.op_count_max = ops.size();
  Bytes file(h.DataOffset());
  EncodeHeader(h, file.data());
  for (size_t i = 0; i < ops.size(); ++i) {
    Op op;
    op.type = ops[i].type;
    op.new_block = ops[i].block;
    op.source = ops[i].source;
    EncodeOpV3(op, file.data() + h.OpsOffset() + i * kOpBytesV3);
  }
  return file;
}

constexpr OpType kCopy = OpType::kCopy;
constexpr OpType kZero = OpType::kZero;

TEST(Loader, WithoutSequenceTheFileOrderIsTheMergeOrder) {
  const Loaded image =
      LoadBytes(FileOf({{kZero, 30}, {kCopy, 20, 1}, {kZero, 10}}));
  ASSERT_TRUE(image.ok());
  EXPECT_THAT(Order((*image)->index), ElementsAre(30, 20, 10));
  EXPECT_EQ((*image)->index.order(), Index::Order::kFile);
  EXPECT_EQ((*image)->index.Find(10)->op, 2u);
}

TEST(Loader, DuplicatesCountButTheFirstWins) {
  const Loaded image = LoadBytes(
      FileOf({{kZero, 1}, {kZero, 3}, {kZero, 3}, {kZero, 2}, {kZero, 3}}));
  ASSERT_TRUE(image.ok()) << image.status();
  const Index& index = (*image)->index;
  EXPECT_EQ(index.op_count(), 5u);
  EXPECT_EQ(index.duplicate_count(), 2u);
  EXPECT_EQ(index.Find(3)->op, 1u);
  EXPECT_EQ(index.NextStart(2), 3u);
  EXPECT_EQ(index.NextStart(3), Index::kNoBlock);
  EXPECT_EQ(index.merge_count(), 5u);
  EXPECT_THAT(Order(index), ElementsAre(1, 3, 2));
  EXPECT_EQ(index.Find(3)->position, 1u);
  EXPECT_EQ((*image)->merge_bytes, 5u * 4096);
  EXPECT_EQ((*image)->order_error, "");
}

struct OrderCase {
  const char* name;
  std::vector<RawOp> ops;
  bool valid;
};

TEST(Loader, JudgesTheMergeOrder) {
  const OrderCase cases[] = {
      {"chain read before it is overwritten",
       {{kCopy, 3, 2}, {kCopy, 2, 1}},
       true},
      {"source overwritten by an earlier copy",
       {{kCopy, 3, 2}, {kCopy, 2, 1}, {kCopy, 4, 2}},
       false},
      {"source overwritten by an earlier zero",
       {{kZero, 2}, {kCopy, 4, 2}},
       false},
      {"source overwritten by a later zero", {{kCopy, 4, 2}, {kZero, 2}}, true},
      {"copy onto itself", {{kCopy, 4, 4}, {kZero, 2}}, true},
      {"swap", {{kCopy, 1, 2}, {kCopy, 2, 1}}, false},
      // The second one is never carried out.
      {"copy given twice", {{kCopy, 1, 2}, {kCopy, 1, 2}}, true},
      {"copy and zero for one block", {{kCopy, 1, 2}, {kZero, 1}}, true},
      {"zero and copy for one block", {{kZero, 1}, {kCopy, 1, 2}}, true},
  };
  for (const OrderCase& c : cases) {
    const Loaded image = LoadBytes(FileOf(c.ops));
    ASSERT_TRUE(image.ok()) << c.name << image.status();
    EXPECT_EQ((*image)->order_error.empty(), c.valid)
        << c.name << ": " << (*image)->order_error;
  }
}

TEST(Loader, SequenceDecidesTheMergeOrder) {
  // File order 2 <- 1, 3 <- 2 would be wrong; the sequence 3, 2 mends it.
  Bytes plain = FileOf({{kCopy, 2, 1}, {kCopy, 3, 2}});
  EXPECT_NE((*LoadBytes(plain))->order_error, "");
  StoreLe<uint64_t>(plain.data() + 38, 2);
  const Bytes sequence = FromHex("03000000 02000000");
  plain.insert(plain.begin() + kHeaderBytesV3, sequence.begin(),
               sequence.end());
  const Loaded image = LoadBytes(plain);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->order_error, "");
}

TEST(Loader, ManyOpsOverManyPieces) {
  std::vector<RawOp> ops;
  // Descending, and more than two pieces of the table.
  for (uint32_t i = 0; i < 10000; ++i) ops.push_back({kCopy, 20000 - i, 5});
  const Loaded image = LoadBytes(FileOf(ops));
  ASSERT_TRUE(image.ok()) << image.status();
  for (uint32_t i = 0; i < 10000; ++i) {
    ASSERT_EQ((*image)->index.Find(20000 - i)->op, i);
  }
  EXPECT_LE((*image)->index.resident_bytes(), 80000u);
}

// What the daemon promises to need for a partition of this many ops.
TEST(IndexTest, AnOpTakesLessThanEightBytes) {
  constexpr uint32_t kOps = 120'000;
  constexpr uint32_t kBlocks = 1 << 20;  // 4 GiB
  for (const auto order :
       {Index::Order::kFile, Index::Order::kOrdered, Index::Order::kSequence}) {
    IndexBuilder builder;
    ASSERT_TRUE(builder.Begin(0).ok());
    std::vector<Op> ops(kOps);
    for (uint32_t i = 0; i < kOps; ++i) {
      ops[i].type = i % 2 == 0 ? OpType::kCopy : OpType::kZero;
      ops[i].new_block =
          static_cast<uint32_t>(uint64_t{i} * 0x9e3779b1 % (kBlocks - 3));
      ASSERT_TRUE(builder.Add(ops[i]).ok());
    }
    builder.BeginSort(order);
    uint32_t steps = 0;
    for (bool through = false; !through; ++steps) {
      const absl::StatusOr<bool> step = builder.SortStep();
      ASSERT_TRUE(step.ok()) << step.status();
      through = *step;
    }
    // No step is long: each entry is looked at some times, a part of them in
    // each.
    EXPECT_GE(steps, 3 * kOps / IndexBuilder::kStepEntries);
    uint32_t listed = 0;
    std::vector<uint32_t> position(kOps, UINT32_MAX);
    for (uint32_t i = 0; i < kOps; ++i) {
      if (order == Index::Order::kSequence) {
        const uint32_t op = kOps - 1 - i;
        ASSERT_TRUE(builder.AddToSequence(ops[op].new_block).ok());
        position[op] = listed++;
      } else if (order == Index::Order::kFile) {
        position[i] = i;
      } else if (ops[i].type == OpType::kCopy) {
        ASSERT_TRUE(builder.AddListed(i, ops[i]));
        position[i] = listed++;
      }
    }
    while (!builder.FinishStep()) {
    }
    const Index index = builder.Take();
    EXPECT_LE(index.resident_bytes(), 8u * kOps);
    uint32_t rest = listed;
    for (uint32_t rank = 0; rank < kOps; ++rank) {
      const Index::Found found = index.AtRank(rank);
      ASSERT_EQ(found.new_block, ops[found.op].new_block);
      ASSERT_EQ(found.type, ops[found.op].type);
      const bool listed_op = position[found.op] != UINT32_MAX;
      ASSERT_EQ(found.position, listed_op ? position[found.op] : rest++);
      ASSERT_EQ(index.Find(found.new_block)->op, found.op);
    }
  }
}

// ---- progress --------------------------------------------------------------

struct ProgressCase {
  const char* name;
  uint64_t counter;
  uint8_t state;
  std::vector<uint32_t> staged;
  Progress::Verdict verdict;
};

TEST(Loader, JudgesTheMergeState) {
  using Verdict = Progress::Verdict;
  const ProgressCase cases[] = {
      {"not begun", 0, 0, {}, Verdict::kIdle},
      {"under way", 2, 1, {}, Verdict::kIdle},
      {"scratch of state 1 is ignored", 2, 1, {99}, Verdict::kIdle},
      {"first window", 0, 2, {10, 11}, Verdict::kReplay},
      {"window of all", 0, 2, {10, 11, 12, 13}, Verdict::kReplay},
      {"middle window", 1, 2, {11, 12}, Verdict::kReplay},
      {"window in another order", 1, 2, {12, 11}, Verdict::kReplay},
      {"torn pair", 2, 2, {10, 11}, Verdict::kCommitted},
      {"torn pair at the end", 4, 2, {12, 13}, Verdict::kCommitted},
      {"half before, half behind", 2, 2, {11, 12}, Verdict::kCorrupt},
      {"beyond the end", 3, 2, {13, 14}, Verdict::kCorrupt},
      {"gap", 0, 2, {10, 12}, Verdict::kCorrupt},
      {"block of no op", 0, 2, {10, 77}, Verdict::kCorrupt},
      {"nothing staged", 1, 2, {}, Verdict::kCorrupt},
  };
  const Bytes good = FileOf(
      {{kCopy, 10, 1}, {kCopy, 11, 2}, {kCopy, 12, 3}, {kCopy, 13, 4}}, true);
  for (const ProgressCase& c : cases) {
    Bytes file = good;
    EncodeProgress(DecodeHeader(file.data()), c.counter,
                   static_cast<ScratchState>(c.state), file.data());
    EncodeScratchMetadata(DecodeHeader(file.data()), c.staged.data(),
                          static_cast<uint32_t>(c.staged.size()),
                          file.data() + kHeaderBytesV3 + 1);
    const Loaded image = LoadBytes(file);
    ASSERT_TRUE(image.ok()) << c.name << image.status();
    const Progress& progress = (*image)->progress;
    EXPECT_EQ(progress.verdict, c.verdict) << c.name;
    EXPECT_EQ(progress.merged_ops, c.counter) << c.name;
    const bool kept =
        c.verdict == Verdict::kReplay || c.verdict == Verdict::kCorrupt;
    EXPECT_EQ(progress.scratch.size(), kept ? c.staged.size() : 0) << c.name;
  }
}

TEST(Loader, RefusesImpossibleMergeStates) {
  Bytes good = FileOf({{kCopy, 10, 1}}, true);
  const uint32_t blocks[] = {10};
  EncodeScratchMetadata(DecodeHeader(good.data()), blocks, 1,
                        good.data() + kHeaderBytesV3 + 1);
  good[kHeaderBytesV3] = 2;
  ExpectRefused(good, {
                          {"state 3", kBad, "merge state", Set<uint8_t>(78, 3)},
                          {"staged data outside", kBad, "staged blocks",
                           Set<uint64_t>(79 + 8, 100)},
                      });
}

// ---- extension record ------------------------------------------------------

Bytes ExtendedFile(uint64_t base_blocks, uint64_t target_blocks) {
  test::MemorySink sink;
  WriterOptions options;
  options.scratch = false;
  options.op_count_max = 3;
  options.base_bytes = base_blocks * kBlockBytes;
  options.target_bytes = target_blocks * kBlockBytes;
  auto writer = Writer::Create(&sink, options);
  EXPECT_TRUE(writer.ok());
  EXPECT_TRUE((*writer)->AddCopy(3, 7).ok());
  EXPECT_TRUE((*writer)->AddZero(4).ok());
  EXPECT_TRUE((*writer)->AddReplace(5, 0, Bytes(kBlockBytes, 1)).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
  return sink.file;
}

uint32_t RecordOffset(const Bytes& file) {
  return static_cast<uint32_t>(ExtensionOffsetV3(DecodeHeader(file.data())));
}

TEST(Loader, ReadsTheExtension) {
  const Loaded image = LoadBytes(ExtendedFile(10, 6));
  ASSERT_TRUE(image.ok()) << image.status();
  ASSERT_TRUE((*image)->has_extension);
  EXPECT_EQ((*image)->extension.base_bytes, 10u * 4096);
  EXPECT_EQ((*image)->extension.target_bytes, 6u * 4096);
  EXPECT_EQ(TargetBytes(**image, 10 * 4096), 6u * 4096);
}

TEST(Loader, ExtensionHoldsAtAnyMergeState) {
  Bytes file = ExtendedFile(10, 6);
  StoreLe<uint64_t>(file.data() + kMergeCounterOffset, 2);
  const Loaded image = LoadBytes(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE((*image)->has_extension);
}

TEST(Loader, RefusesWhatTheExtensionContradicts) {
  const Bytes good = ExtendedFile(10, 6);
  const uint32_t at = RecordOffset(good);
  // Changes a field of the record and makes its checksum right again.
  const auto record = [at](std::function<void(Extension*)> change) {
    return [at, change](Bytes* file) {
      Extension ext;
      ASSERT_TRUE(DecodeExtension(file->data() + at, &ext));
      change(&ext);
      EncodeExtension(ext, file->data() + at);
    };
  };
  ExpectRefused(
      good, {
                {"damaged record", kBad, "checksum", Set<uint8_t>(at + 17, 9)},
                {"header changed", kBad, "checksum", Set<uint32_t>(46, 3)},
                {"cut by a byte", kBad, "truncated", Cut(good.size() - 1)},
                {"not complete", kBad, "did not finish",
                 record([](Extension* e) { e->complete = false; })},
                {"another op table", kBad, "ops have checksum",
                 record([](Extension* e) { e->ops_check ^= 1; })},
                {"tables too large", kBad, "room for",
                 record([](Extension* e) { e->target_check_count = 9999; })},
                {"a copy moved", kBad, "ops have checksum",
                 Set<uint8_t>(0x8e + 8, 6)},
                {"data end", kBad, "data ends",
                 record([](Extension* e) { e->data_end += 1; })},
                {"target too small", kBad, "images have",
                 record([](Extension* e) { e->target_bytes = 5 * 4096; })},
                {"base too small", kBad, "images have",
                 record([](Extension* e) { e->base_bytes = 7 * 4096; })},
                {"odd size", kBad, "cannot be",
                 record([](Extension* e) { e->base_bytes += 1; })},
                {"huge size", kBad, "cannot be", record([](Extension* e) {
                   e->target_bytes = UINT64_MAX - 511;
                 })},
            });
}

TEST(Loader, ARecordOfFewerOpsIsNoRecord) {
  // A writer that does not know the record appended an op.
  Bytes file = ExtendedFile(10, 6);
  const uint32_t at = RecordOffset(file);
  Extension ext;
  ASSERT_TRUE(DecodeExtension(file.data() + at, &ext));
  --ext.op_count;
  --ext.unit_check_count;
  EncodeExtension(ext, file.data() + at);
  const Loaded image = LoadBytes(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_FALSE((*image)->has_extension);
}

// ---- the base --------------------------------------------------------------

struct BaseCase {
  bool extension;
  uint64_t base_blocks;
  bool for_merge;
  bool fits;
};

// From 10 blocks to 20, every new one given by an op.
Bytes GrowingFile() {
  test::MemorySink sink;
  WriterOptions options;
  options.scratch = false;
  options.op_count_max = 11;
  options.base_bytes = 10 * kBlockBytes;
  options.target_bytes = 20 * kBlockBytes;
  auto writer = Writer::Create(&sink, options);
  EXPECT_TRUE(writer.ok());
  EXPECT_TRUE((*writer)->AddCopy(3, 7).ok());
  for (uint32_t block = 10; block < 20; ++block) {
    EXPECT_TRUE((*writer)->AddZero(block).ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return sink.file;
}

TEST(CheckBase, ComparesSizes) {
  const auto extended = LoadBytes(GrowingFile());
  Bytes without = GrowingFile();
  without[RecordOffset(without)] = 0;
  const auto plain = LoadBytes(without);
  ASSERT_TRUE(extended.ok() && plain.ok());
  ASSERT_FALSE((*plain)->has_extension);
  const BaseCase cases[] = {
      {true, 10, false, true},  {true, 9, false, false},
      {true, 11, false, false}, {true, 20, false, true},
      {true, 10, true, false},  {true, 20, true, true},
      {true, 21, true, false},  {false, 8, false, true},
      {false, 7, false, false}, {false, 100, true, true},
      {false, 20, true, true},  {false, 19, true, false},
  };
  for (const BaseCase& c : cases) {
    const absl::Status status =
        CheckBase(c.extension ? **extended : **plain,
                  c.base_blocks * kBlockBytes, c.for_merge);
    EXPECT_EQ(status.ok(), c.fits) << c.base_blocks << status;
    if (!c.fits) {
      EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    }
  }
}

TEST(CheckBase, WithoutExtensionAMergeNeedsRoomForEveryOp) {
  const auto image = LoadBytes(FileOf({{kCopy, 9, 2}}));
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(CheckBase(**image, 3 * kBlockBytes, false).ok());
  EXPECT_FALSE(CheckBase(**image, 9 * kBlockBytes, true).ok());
  EXPECT_TRUE(CheckBase(**image, 10 * kBlockBytes, true).ok());
  EXPECT_EQ(TargetBytes(**image, 3 * kBlockBytes), 10u * kBlockBytes);
}

}  // namespace
}  // namespace dmu::cow
