// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the writer writes, the reader and Android's rules accept; what
// would break a file is refused; a power cut never leaves half a file that
// passes for a whole one.
// Method: files in memory; every prefix of the recorded writes, and every
// subset order within the un-synced tail, loaded again.
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/writer.h"
#include "gtest/gtest.h"
#include "test/cow_test_util.h"

namespace dmu::cow {
namespace {

using test::Bytes;
using test::MemorySink;

WriterOptions Options() {
  WriterOptions options;
  options.compression = Compression::kLz4;
  options.max_unit_bytes = 4 * kBlockBytes;
  options.op_count_max = 16;
  options.base_bytes = 64 * kBlockBytes;
  options.target_bytes = 64 * kBlockBytes;
  return options;
}

// Two copies, three units of several sizes and forms, a zero.
void Write(MemorySink* sink, const WriterOptions& options) {
  auto writer = Writer::Create(sink, options);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->AddCopy(1, 5).ok());
  ASSERT_TRUE((*writer)->AddCopy(9, 4).ok());
  ASSERT_TRUE((*writer)->AddReplace(16, 2, Bytes(100, 1)).ok());
  ASSERT_TRUE((*writer)->AddReplace(20, 0, Bytes(kBlockBytes, 2)).ok());
  ASSERT_TRUE((*writer)->AddZero(30).ok());
  ASSERT_TRUE((*writer)->AddReplace(40, 1, Bytes(77, 3)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ((*writer)->op_count(), 6u);
  EXPECT_EQ((*writer)->file_bytes(), sink->file.size());
}

TEST(WriterTest, KeepsAndroidsRules) {
  MemorySink sink;
  Write(&sink, Options());
  const Header h = DecodeHeader(sink.file.data());
  EXPECT_EQ(LoadLe<uint64_t>(sink.file.data()), kMagic);
  EXPECT_EQ(h.major_version, 3);
  EXPECT_EQ(h.minor_version, 0);
  EXPECT_EQ(h.header_size, 78);
  EXPECT_EQ(h.footer_size, 0);
  EXPECT_EQ(h.op_size, 16);
  EXPECT_EQ(h.block_size, 4096u);
  EXPECT_EQ(h.cluster_ops, 0u);
  EXPECT_EQ(h.num_merge_ops, 0u);
  EXPECT_EQ(h.buffer_size, kScratchBytes);
  EXPECT_EQ(h.sequence_data_count, 0u);
  EXPECT_EQ(h.resume_point_count, 0u);
  EXPECT_EQ(h.resume_point_max, 4u);
  EXPECT_EQ(h.op_count, 6u);
  EXPECT_EQ(h.op_count_max, 16u + kExtensionBytes / kOpBytes);
  EXPECT_EQ(h.compression, Compression::kLz4);
  EXPECT_EQ(h.max_unit_bytes, 4u * kBlockBytes);
  for (uint32_t i = 0; i < kScratchBytes; ++i) {
    ASSERT_EQ(sink.file[h.header_size + i], 0) << "scratch byte " << i;
  }
  // Data strictly in op order, without a hole, from DataOffset on.
  uint64_t next = h.DataOffset();
  for (const Op& op : test::OpsOf(sink.file)) {
    if (op.type == OpType::kReplace) {
      EXPECT_EQ(op.source, next);
    }
    next += op.data_length;
  }
  EXPECT_EQ(next, sink.file.size());
}

TEST(WriterTest, TheReaderTakesIt) {
  for (const bool scratch : {true, false}) {
    for (const bool extension : {true, false}) {
      WriterOptions options = Options();
      options.scratch = scratch;
      options.extension = extension;
      MemorySink sink;
      Write(&sink, options);
      auto image = test::LoadBytes(sink.file);
      ASSERT_TRUE(image.ok()) << image.status();
      EXPECT_EQ((*image)->has_extension, extension);
      EXPECT_EQ((*image)->order_error, "");
      EXPECT_EQ((*image)->merge_bytes, 10u * kBlockBytes);
      if (extension) {
        EXPECT_EQ((*image)->extension.base_bytes, 64u * kBlockBytes);
      }
    }
  }
}

TEST(WriterTest, RefusesWhatWouldBreakTheFile) {
  MemorySink sink;
  WriterOptions options = Options();
  options.op_count_max = 3;
  auto created = Writer::Create(&sink, options);
  ASSERT_TRUE(created.ok());
  Writer* writer = created->get();
  const auto bad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(writer->AddReplace(0, 3, Bytes(10)).code(), bad) << "too large";
  EXPECT_EQ(writer->AddReplace(0, 0, Bytes()).code(), bad) << "no data";
  EXPECT_EQ(writer->AddReplace(0, 0, Bytes(4097)).code(), bad) << "too long";
  ASSERT_TRUE(writer->AddZero(1).ok());
  EXPECT_EQ(writer->AddCopy(2, 3).code(), bad) << "a copy behind a zero";
  ASSERT_TRUE(writer->AddZero(2).ok());
  ASSERT_TRUE(writer->AddZero(3).ok());
  EXPECT_EQ(writer->AddZero(4).code(), bad) << "more than op_count_max";
  ASSERT_TRUE(writer->Finish().ok());
  auto image = test::LoadBytes(sink.file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->index.op_count(), 3u);
}

TEST(WriterTest, RefusesBadOptions) {
  const auto refused = [](const WriterOptions& options) {
    MemorySink sink;
    return Writer::Create(&sink, options).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  WriterOptions options = Options();
  options.max_unit_bytes = 4097;
  EXPECT_TRUE(refused(options));
  options.max_unit_bytes = 2 * kUnitBytesMax;
  EXPECT_TRUE(refused(options));
  options = Options();
  options.op_count_max = kOpsMax + 1;
  EXPECT_TRUE(refused(options));
}

// The disk held an older, complete COW file; writes up to the last sync are
// there, of those after it any subset is.
TEST(WriterTest, APowerCutLeavesNoHalfFileThatPasses) {
  for (const bool extension : {true, false}) {
    MemorySink old_sink;
    WriterOptions old_options = Options();
    old_options.extension = extension;
    old_options.op_count_max = 40;
    Write(&old_sink, old_options);
    MemorySink sink;
    WriterOptions options = Options();
    options.extension = extension;
    Write(&sink, options);

    size_t synced = 0;  // events before this one are durable
    int cuts = 0;
    for (size_t at = 0; at <= sink.events.size(); ++at) {
      const size_t pending = at - synced;
      ASSERT_LE(pending, 12u) << "too many subsets to try";
      for (uint32_t subset = 0; subset < (1u << pending); ++subset) {
        Bytes disk = old_sink.file;
        for (size_t i = 0; i < at; ++i) {
          const bool kept = i < synced || (subset >> (i - synced) & 1) != 0;
          if (kept && !sink.events[i].sync) {
            test::Apply(sink.events[i], &disk);
          }
        }
        const auto image = test::LoadBytes(disk);
        ++cuts;
        if (!image.ok()) continue;
        // What loads is one of the two files, whole.
        const bool is_old = disk == old_sink.file;
        const bool is_new =
            std::equal(sink.file.begin(), sink.file.end(), disk.begin());
        EXPECT_TRUE(is_old || is_new)
            << "cut before event " << at << ", subset " << subset;
      }
      if (at < sink.events.size() && sink.events[at].sync) synced = at + 1;
    }
    EXPECT_GT(cuts, 8);
  }
}

}  // namespace
}  // namespace dmu::cow
