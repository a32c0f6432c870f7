// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the writer writes, the reader and Android's rules accept; what
// would break a file is refused; a power cut never leaves half a file that
// passes for a whole one.
// Method: files in memory, in every layout; every prefix of the recorded
// writes, and every subset order within the un-synced tail, loaded again.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/unit_check.h"
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
  EXPECT_EQ(h.op_count_max, 16u + ExtensionSlots(Options()));
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

// What Android's writer makes of the same calls, byte for byte.
TEST(WriterTest, VersionTwoIsAndroidsByteForByte) {
  MemorySink sink;
  WriterOptions options;
  options.version = 2;
  options.scratch = false;
  options.extension = false;
  options.cluster_ops = 4;
  auto writer = Writer::Create(&sink, options);
  ASSERT_TRUE(writer.ok());
  const uint32_t sequence[] = {6, 5};
  ASSERT_TRUE((*writer)->AddSequence(sequence).ok());
  ASSERT_TRUE((*writer)->AddCopy(5, 1).ok());
  ASSERT_TRUE((*writer)->AddCopy(6, 2).ok());
  ASSERT_TRUE((*writer)->AddZero(1).ok());
  ASSERT_TRUE((*writer)->AddReplace(0, 0, Bytes(kBlockBytes, 0x77)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  Bytes expected = test::FromHex(
      "2121574f63776f43 0200 0000 2600 5400 1400 00100000 04000000"
      "0000000000000000 00000000"
      "07 00 0800 0000000000000000 7600000000000000"
      "01 00 0000 0500000000000000 0100000000000000"
      "01 00 0000 0600000000000000 0200000000000000"
      "05 00 0000 0000000000000000 0800000000000000"
      "06000000 05000000"
      "03 00 0000 0100000000000000 0000000000000000"
      "02 00 0010 0000000000000000 ce00000000000000"
      "05 00 0000 0000000000000000 1410000000000000"
      "0000000000000000000000000000000000000000");
  expected.insert(expected.end(), kBlockBytes, 0x77);
  const Bytes footer =
      test::FromHex("ff00 4000 8c00000000000000 0700000000000000");
  expected.insert(expected.end(), footer.begin(), footer.end());
  expected.resize(expected.size() + 64);
  EXPECT_EQ(expected.size(), 4386u);
  EXPECT_TRUE(sink.file == expected);
}

TEST(WriterTest, VersionThreeIsAndroidsByteForByte) {
  MemorySink sink;
  WriterOptions options;
  options.scratch = false;
  options.extension = false;
  options.compression = Compression::kLz4;
  options.max_unit_bytes = 16 * 1024;
  options.op_count_max = 8;
  auto writer = Writer::Create(&sink, options);
  ASSERT_TRUE(writer.ok());
  const uint32_t sequence[] = {9, 1};
  ASSERT_TRUE((*writer)->AddSequence(sequence).ok());
  ASSERT_TRUE((*writer)->AddCopy(9, 4).ok());
  ASSERT_TRUE((*writer)->AddZero(3).ok());
  ASSERT_TRUE((*writer)->AddReplace(16, 2, Bytes(79, 1)).ok());
  ASSERT_TRUE((*writer)->AddReplace(20, 0, Bytes(26, 2)).ok());
  ASSERT_TRUE((*writer)->AddLabel(7).ok());
  ASSERT_TRUE((*writer)->AddXor(1, 6 * 4096 + 10, Bytes(27, 3)).ok());
  ASSERT_TRUE((*writer)->AddLabel(9).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  Bytes expected = test::FromHex(
      "2121574f63776f43 0300 0000 4e00 0000 1000 00100000 00000000"
      "0000000000000000 00000000"
      "0200000000000000 02000000 04000000 0500000000000000 0800000000000000"
      "03000000 00400000"
      "09000000 01000000"
      "0700000000000000 0400000000000000"
      "0900000000000000 0500000000000000");
  expected.resize(0x96);
  const Bytes ops = test::FromHex(
      "00000000 09000000 0400000000000010"
      "00000000 03000000 0000000000000030"
      "4f000000 10000000 1601000000000024"
      "1a000000 14000000 6501000000000020"
      "1b000000 01000000 0a60000000000060");
  expected.insert(expected.end(), ops.begin(), ops.end());
  expected.resize(0x116);
  expected.insert(expected.end(), 79, 1);
  expected.insert(expected.end(), 26, 2);
  expected.insert(expected.end(), 27, 3);
  EXPECT_EQ(expected.size(), 410u);
  EXPECT_TRUE(sink.file == expected);
}

// ---- labels, resume, both versions ----------------------------------------

class MemorySource : public Source {
 public:
  explicit MemorySource(const Bytes& file) : file_(file) {}
  uint64_t size_bytes() const override { return file_.size(); }
  absl::Status ReadAt(uint64_t offset, ByteSpan out) override {
    std::copy_n(file_.begin() + static_cast<int64_t>(offset), out.size(),
                out.begin());
    return absl::OkStatus();
  }

 private:
  const Bytes& file_;
};

struct Layout {
  uint16_t version;
  uint32_t cluster_ops;
  bool sequence;
  bool extension;
};

std::vector<Layout> Layouts() {
  std::vector<Layout> layouts;
  for (const bool extension : {true, false}) {
    for (const bool sequence : {true, false}) {
      layouts.push_back({3, 0, sequence, extension});
      for (const uint32_t cluster_ops : {2u, 3u, 4u, 1024u}) {
        layouts.push_back({2, cluster_ops, sequence, extension});
      }
    }
    layouts.push_back({2, 0, false, extension});
  }
  return layouts;
}

WriterOptions OptionsOf(const Layout& layout) {
  WriterOptions options = Options();
  options.version = layout.version;
  options.cluster_ops = layout.cluster_ops;
  options.extension = layout.extension;
  options.scratch = false;
  options.op_count_max = 64;
  return options;
}

// Three groups of ops; group g is followed by label g + 1. `sink` says whether
// the writer has to go on with what it finds there.
constexpr uint32_t kGroups = 3;

absl::Status AddGroup(Writer* writer, uint32_t group) {
  const uint32_t at = 20 * group;
  absl::Status status = writer->AddCopy(at, at + 5);
  if (status.ok()) {
    status = writer->AddXor(at + 1, (at + 6) * kBlockBytes + 7, Bytes(50, 9));
  }
  return status;
}

absl::Status AddRest(Writer* writer, uint32_t group) {
  const uint32_t at = 20 * group;
  absl::Status status = writer->AddZero(at + 2);
  if (status.ok()) {
    status = writer->AddReplace(at + 3, 0,
                                Bytes(100 + group, static_cast<uint8_t>(at)));
  }
  if (status.ok()) {
    status = writer->AddReplace(at + 4, 0, Bytes(kBlockBytes, 7));
  }
  return status;
}

std::vector<uint32_t> SequenceOfGroups() {
  std::vector<uint32_t> sequence;
  for (uint32_t group = kGroups; group-- > 0;) {
    sequence.push_back(20 * group + 1);
    sequence.push_back(20 * group);
  }
  return sequence;
}

// Groups [first, kGroups); ordered ops of all groups first where that is the
// rule.
absl::Status AddGroups(Writer* writer, const Layout& layout, uint32_t first,
                       uint32_t labels_until) {
  const bool mixed = layout.sequence || layout.version == 2;
  for (uint32_t group = first; group < kGroups; ++group) {
    absl::Status status = AddGroup(writer, group);
    if (status.ok() && mixed) status = AddRest(writer, group);
    if (status.ok() && group < labels_until) {
      status = writer->AddLabel(group + 1);
    }
    if (!status.ok()) return status;
  }
  for (uint32_t group = first; group < kGroups && !mixed; ++group) {
    absl::Status status = AddRest(writer, group);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void WriteGroups(MemorySink* sink, const Layout& layout, uint32_t labels) {
  auto writer = Writer::Create(sink, OptionsOf(layout));
  ASSERT_TRUE(writer.ok()) << writer.status();
  if (layout.sequence) {
    ASSERT_TRUE((*writer)->AddSequence(SequenceOfGroups()).ok());
  }
  ASSERT_TRUE(AddGroups(writer->get(), layout, 0, labels).ok());
  ImageFacts facts;
  facts.target_checks = {1, 2};
  facts.samples = {{3, 4}};
  ASSERT_TRUE((*writer)->Finish(facts).ok());
  EXPECT_EQ((*writer)->file_bytes(), sink->file.size());
}

TEST(WriterTest, EveryLayoutIsRead) {
  for (const Layout& layout : Layouts()) {
    SCOPED_TRACE(testing::Message()
                 << "version " << layout.version << " clusters "
                 << layout.cluster_ops << " sequence " << layout.sequence
                 << " extension " << layout.extension);
    MemorySink sink;
    WriteGroups(&sink, layout, kGroups);
    const auto image = test::LoadBytes(sink.file);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ((*image)->index.op_count(), 5 * kGroups);
    EXPECT_EQ((*image)->order_error, "");
    EXPECT_EQ((*image)->has_extension, layout.extension);
    EXPECT_EQ((*image)->labels.size(), kGroups);
    // M begins with what the sequence, or else the file, puts first.
    EXPECT_EQ((*image)->index.Find(layout.sequence ? 41 : 0)->position, 0u);
    if (layout.extension) {
      const uint8_t* checks = sink.file.data() + (*image)->unit_checks_offset;
      EXPECT_EQ(LoadLe<uint32_t>(checks), 0u) << "a copy has none";
      EXPECT_EQ(LoadLe<uint32_t>(checks + 4), UnitCheck(Bytes(50, 9)));
      const uint8_t* sample = sink.file.data() + (*image)->samples_offset;
      EXPECT_EQ(DecodeSample(sample).check, 4u);
    }
  }
}

TEST(WriterTest, ALabelCanBeReadAndGoneOnFrom) {
  for (const Layout& layout : Layouts()) {
    for (uint32_t label = 1; label <= kGroups; ++label) {
      SCOPED_TRACE(testing::Message()
                   << "version " << layout.version << " clusters "
                   << layout.cluster_ops << " sequence " << layout.sequence
                   << " extension " << layout.extension << " label " << label);
      // The same file without a break, and one that is broken off and gone on
      // with.
      MemorySink whole;
      WriteGroups(&whole, layout, kGroups);
      MemorySink broken;
      WriteGroups(&broken, layout, kGroups);
      const auto partial = test::LoadBytes(broken.file, label);
      ASSERT_TRUE(partial.ok()) << partial.status();
      EXPECT_TRUE((*partial)->partial);
      const bool mixed = layout.sequence || layout.version == 2;
      EXPECT_EQ((*partial)->index.op_count(), (mixed ? 5 : 2) * label);
      EXPECT_EQ(test::LoadBytes(broken.file, 99).status().code(),
                absl::StatusCode::kInvalidArgument);

      const Bytes before = broken.file;
      MemorySource source(before);
      auto writer = Writer::Resume(&broken, &source, label, OptionsOf(layout));
      ASSERT_TRUE(writer.ok()) << writer.status();
      // Cut off here, it must not pass for complete.
      const auto cut = test::LoadBytes(broken.file);
      if (layout.version == 2 || layout.extension) {
        EXPECT_FALSE(cut.ok());
      }
      ASSERT_TRUE(AddGroups(writer->get(), layout, label, kGroups).ok());
      if (!mixed) {
        for (uint32_t group = 0; group < label; ++group) {
          ASSERT_TRUE(AddRest(writer->get(), group).ok());
        }
      }
      ImageFacts facts;
      facts.target_checks = {1, 2};
      facts.samples = {{3, 4}};
      ASSERT_TRUE((*writer)->Finish(facts).ok());
      const auto image = test::LoadBytes(broken.file);
      ASSERT_TRUE(image.ok()) << image.status();
      EXPECT_EQ((*image)->index.op_count(), 5 * kGroups);
      EXPECT_EQ((*image)->has_extension, layout.extension);
      EXPECT_EQ((*image)->labels.size(), kGroups);
      if (mixed) {
        EXPECT_EQ(broken.file, whole.file);
      }
    }
  }
}

TEST(WriterTest, VersionThreeKeepsTheLastFourLabels) {
  MemorySink sink;
  const Layout layout = {3, 0, false, true};
  auto writer = Writer::Create(&sink, OptionsOf(layout));
  ASSERT_TRUE(writer.ok());
  for (uint32_t i = 1; i <= 6; ++i) {
    ASSERT_TRUE((*writer)->AddZero(i).ok());
    ASSERT_TRUE((*writer)->AddLabel(i).ok());
  }
  EXPECT_FALSE(test::LoadBytes(sink.file).ok()) << "not finished";
  EXPECT_EQ(DecodeHeader(sink.file.data()).resume_point_count, 4u);
  EXPECT_FALSE(test::LoadBytes(sink.file, 2).ok());
  ASSERT_TRUE(test::LoadBytes(sink.file, 3).ok());
  EXPECT_EQ((*test::LoadBytes(sink.file, 3))->index.op_count(), 3u);
  // A label that goes back drops the younger ones.
  ASSERT_TRUE((*writer)->AddZero(7).ok());
  ASSERT_TRUE((*writer)->AddLabel(4).ok());
  EXPECT_FALSE(test::LoadBytes(sink.file, 5).ok());
  EXPECT_EQ((*test::LoadBytes(sink.file, 4))->index.op_count(), 7u);
}

TEST(WriterTest, AnEstimateIsNotLessThanTheFile) {
  for (const Layout& layout : Layouts()) {
    NullSink null;
    auto writer = Writer::Create(&null, OptionsOf(layout));
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(AddGroups(writer->get(), {3, 0, false, false}, 0, 0).ok());
    const uint64_t open_bytes = (*writer)->file_bytes();
    ASSERT_TRUE((*writer)->Finish().ok());
    EXPECT_GE((*writer)->file_bytes(), open_bytes);
    MemorySink sink;
    auto real = Writer::Create(&sink, OptionsOf(layout));
    ASSERT_TRUE(AddGroups(real->get(), {3, 0, false, false}, 0, 0).ok());
    ASSERT_TRUE((*real)->Finish().ok());
    EXPECT_EQ(sink.file.size(), (*writer)->file_bytes());
  }
}

// ---- power cuts -------------------------------------------------------------

// What the disk may hold when the power goes before event `at`: writes up to
// the last sync, and of the sectors written after it any subset (all of them
// when they are few, else some by chance).
class Cuts {
 public:
  Cuts(const Bytes& before, const std::vector<MemorySink::Event>& events)
      : before_(before), events_(events) {}

  template <typename Visit>
  void ForEach(Visit visit) {
    Bytes durable = before_;
    std::vector<MemorySink::Event> pending;
    for (size_t at = 0;; ++at) {
      const bool all = pending.size() <= 6;
      const uint64_t subsets = all ? uint64_t{1} << pending.size() : 48;
      for (uint64_t i = 0; i < subsets; ++i) {
        const uint32_t kept_of_8 = 1 + random_() % 7;
        Bytes disk = durable;
        for (size_t n = 0; n < pending.size(); ++n) {
          const bool kept = all ? (i >> n & 1) != 0 : random_() % 8 < kept_of_8;
          if (kept) test::Apply(pending[n], &disk);
        }
        visit(disk);
      }
      if (at == events_.size()) return;
      if (events_[at].sync) {
        for (const MemorySink::Event& write : pending) {
          test::Apply(write, &durable);
        }
        pending.clear();
      } else {
        AddSectors(events_[at], &pending);
      }
    }
  }

 private:
  // A write is torn at the sectors of the file.
  static void AddSectors(const MemorySink::Event& write,
                         std::vector<MemorySink::Event>* pending) {
    for (uint64_t at = write.offset; at < write.offset + write.bytes.size();) {
      const uint64_t end =
          std::min(write.offset + write.bytes.size(),
                   (at / kSectorBytes + 1) * uint64_t{kSectorBytes});
      const auto begin = write.bytes.begin();
      pending->push_back(
          {false, at,
           Bytes(begin + static_cast<int64_t>(at - write.offset),
                 begin + static_cast<int64_t>(end - write.offset))});
      at = end;
    }
  }

  const Bytes& before_;
  const std::vector<MemorySink::Event>& events_;
  std::mt19937_64 random_{1};
};

// The disk held an older, complete COW file of the same layout, which is the
// worst there can be: every stale op, footer and header is a plausible one.
TEST(WriterTest, APowerCutLeavesNoHalfFileThatPasses) {
  for (const Layout& layout : Layouts()) {
    for (const uint32_t labels : {0u, 1u, kGroups}) {
      // Version 3 without our record has nothing that says it is complete.
      if (layout.version == 3 && !layout.extension && labels > 0) continue;
      SCOPED_TRACE(testing::Message()
                   << "version " << layout.version << " clusters "
                   << layout.cluster_ops << " sequence " << layout.sequence
                   << " extension " << layout.extension << " labels "
                   << labels);
      MemorySink sink;
      WriteGroups(&sink, layout, labels);
      // The same shape with other data: nothing of it may show.
      Bytes stale = sink.file;
      for (size_t i = 0; i < stale.size(); ++i) {
        if (stale[i] == 7 || stale[i] == 9) stale[i] = 8;
      }
      const auto whole = test::LoadBytes(sink.file);
      ASSERT_TRUE(whole.ok()) << whole.status();
      int complete = 0;
      Cuts cuts(stale, sink.events);
      cuts.ForEach([&](const Bytes& disk) {
        const auto image = test::LoadBytes(disk);
        if (!image.ok()) return;
        const bool is_new =
            std::equal(sink.file.begin(), sink.file.end(), disk.begin());
        const bool is_old = disk == stale;
        // A footer torn behind its counts ends a file that is whole, but has
        // lost its way to what we add.
        const auto data_end = static_cast<int64_t>((*whole)->data_end);
        const bool is_bare =
            layout.version == 2 && !(*image)->has_extension &&
            std::equal(sink.file.begin(), sink.file.begin() + data_end + 20,
                       disk.begin());
        EXPECT_TRUE(is_new || is_old || is_bare);
        complete += is_new;
      });
      EXPECT_GT(complete, 0);
    }
  }
}

}  // namespace
}  // namespace dmu::cow
