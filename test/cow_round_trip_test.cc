// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever two images are, and whatever a COW file of them is made like,
// it is verified, extracted, converted and merged to the new image; and what
// damages it is found.
// Method: random pairs of small images (moved, shifted by bytes, edited, grown,
// shrunk), random versions, compressors, units and clusters, through the
// libraries of dmuserctl on real files; seeds are the test's cases.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "daemon/base/types.h"
#include "test/cow_test_util.h"
#include "tools/cow_convert.h"
#include "tools/cow_create.h"
#include "tools/cow_extract.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/cow_undo.h"
#include "tools/cow_verify.h"
#include "tools/file_io.h"
#include "tools/mapped_file.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

using test::Bytes;

std::string Path(const std::string& name) {
  return testing::TempDir() + "/" + name;
}

void WriteFile(const std::string& name, const Bytes& bytes) {
  std::ofstream file(Path(name), std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

Bytes ReadFile(const std::string& name) {
  std::ifstream file(Path(name), std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

// The old image changed the way images change.
Bytes Changed(const Bytes& old_image, std::mt19937* random) {
  Bytes image = old_image;
  const auto below = [random](size_t n) { return (*random)() % n; };
  for (uint32_t n = 1 + (*random)() % 6; n > 0; --n) {
    const size_t length = std::min<size_t>(image.size(), 1 + below(40'000));
    const size_t at = below(image.size() - length + 1);
    const auto begin = image.begin() + static_cast<int64_t>(at);
    switch (below(6)) {
      case 0:  // moved by whole blocks or by bytes
      case 1: {
        const size_t from = below(old_image.size() - length + 1) /
                            (below(2) == 0 ? 4096 : 1) * 1;
        std::copy_n(old_image.begin() + static_cast<int64_t>(from), length,
                    begin);
        break;
      }
      case 2:
        std::fill_n(begin, length, uint8_t{0});
        break;
      case 3:
        for (size_t i = 0; i < length; i += 1 + below(300)) {
          image[at + i] = static_cast<uint8_t>((*random)());
        }
        break;
      case 4:
        std::generate_n(begin, length,
                        [random] { return static_cast<uint8_t>((*random)()); });
        break;
      default: {
        // A piece put in: all behind it moves.
        const Bytes piece(1 + below(9000), static_cast<uint8_t>('p'));
        const size_t size = image.size();
        image.insert(begin, piece.begin(), piece.end());
        image.resize(size);
      }
    }
  }
  if (below(3) == 0) {
    const Bytes more =
        test::RandomImage(random, static_cast<uint32_t>(1 + below(30)));
    image.insert(image.end(), more.begin(), more.end());
  } else if (below(3) == 0) {
    image.resize(std::max<size_t>(1, image.size() / 4096 * 3 / 4) * 4096);
  }
  return image;
}

WriteFormat RandomFormat(std::mt19937* random) {
  static constexpr uint32_t kClusters[] = {0, 2, 3, 50, 1024};
  WriteFormat format;
  format.version = (*random)() % 2 == 0 ? 2 : 3;
  format.compression.compression =
      static_cast<cow::Compression>((*random)() % 5);
  format.compression.level = 1;
  format.max_unit_bytes = kBlockBytes << ((*random)() % 7);
  format.cluster_ops = kClusters[(*random)() % std::size(kClusters)];
  format.extension = (*random)() % 4 != 0;
  format.threads = 1 + (*random)() % 3;
  return format;
}

void ExpectTarget(const std::string& cow, const std::string& base,
                  const Bytes& target) {
  ExtractOptions options;
  options.cow_path = Path(cow);
  options.base_path = Path(base);
  options.output_path = Path("out.img");
  options.force = true;
  const auto bytes = ExtractTarget(options);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  Bytes out = ReadFile("out.img");
  // Without the extension a file does not say that its image is smaller.
  ASSERT_GE(out.size(), target.size());
  out.resize(target.size());
  EXPECT_TRUE(out == target);
}

VerifyReport Verify(const std::string& cow, const std::string& base) {
  auto file = File::OpenForRead(Path(cow));
  auto base_file = File::OpenForRead(Path(base));
  EXPECT_TRUE(file.ok() && base_file.ok());
  VerifyOptions options;
  options.base = &*base_file;
  options.threads = 2;
  auto report = VerifyCow(*file, options);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *report : VerifyReport();
}

class RoundTripTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    random_.seed(static_cast<uint32_t>(GetParam()));
    old_ = test::RandomImage(&random_, 20 + random_() % 150);
    new_ = Changed(old_, &random_);
    WriteFile("old.img", old_);
    WriteFile("new.img", new_);
    static_cast<WriteFormat&>(options_) = RandomFormat(&random_);
    options_.old_path = Path("old.img");
    options_.new_path = Path("new.img");
    options_.output_path = Path("file.cow");
    options_.force = true;
    const auto summary = CreateCow(options_);
    ASSERT_TRUE(summary.ok()) << summary.status();
  }

  std::mt19937 random_;
  Bytes old_;
  Bytes new_;
  CreateOptions options_;
};

TEST_P(RoundTripTest, GivesTheNewImage) {
  ExpectTarget("file.cow", "old.img", new_);
  const VerifyReport report = Verify("file.cow", "old.img");
  EXPECT_EQ(report.verdict, Verdict::kGood)
      << (report.findings.empty() ? "" : report.findings[0].message);
  EXPECT_EQ(report.has_checks, options_.extension);

  ConvertOptions convert;
  static_cast<WriteFormat&>(convert) = RandomFormat(&random_);
  convert.input_path = Path("file.cow");
  convert.output_path = Path("other.cow");
  convert.force = true;
  const auto converted = ConvertCow(convert);
  ASSERT_TRUE(converted.ok()) << converted.status();
  ExpectTarget("other.cow", "old.img", new_);
  EXPECT_EQ(Verify("other.cow", "old.img").verdict, Verdict::kGood);

  for (const char* cow : {"file.cow", "other.cow"}) {
    WriteFile("base.img", old_);
    // Without the extension nobody knows that the base must grow.
    if (new_.size() > old_.size()) {
      Bytes grown = old_;
      grown.resize(new_.size());
      WriteFile("base.img", grown);
    }
    MergeOptions merge;
    merge.cow_path = Path(cow);
    merge.base_path = Path("base.img");
    merge.window_blocks = 64 << random_() % 4;
    // One window, looked at; two, and so on, then all.
    uint64_t merged_ops = 0;
    for (merge.windows_max = 1;; ++merge.windows_max) {
      if (merge.windows_max == 5) merge.windows_max = UINT64_MAX;
      const auto summary = MergeOffline(merge);
      ASSERT_TRUE(summary.ok()) << summary.status();
      if (summary->finished) break;
      ASSERT_EQ(summary->windows, merge.windows_max);
      ASSERT_GT(summary->merged_ops, merged_ops);
      ASSERT_LT(summary->merged_ops, summary->total_ops);
      merged_ops = summary->merged_ops;
      ExpectTarget(cow, "base.img", new_);
    }
    Bytes base = ReadFile("base.img");
    ASSERT_GE(base.size(), new_.size());
    base.resize(new_.size());
    EXPECT_TRUE(base == new_) << cow;
    ExpectTarget(cow, "base.img", new_);
    EXPECT_EQ(Verify(cow, "base.img").verdict, Verdict::kGood);
  }
}

// Forwards and back again by chance, in windows and steps; at every stop the
// file reads as the new image, and what is taken back whole is the old one.
TEST_P(RoundTripTest, AMergeWithAnUndoLogIsTakenBack) {
  Bytes begin = old_;
  // Without the extension nobody knows that the base must grow.
  if (!options_.extension && new_.size() > old_.size()) {
    begin.resize(new_.size());
  }
  WriteFile("base.img", begin);
  std::filesystem::remove(Path("undo.log"));
  MergeOptions merge;
  merge.cow_path = Path("file.cow");
  merge.base_path = Path("base.img");
  merge.undo_log_path = Path("undo.log");
  merge.window_blocks = 64 << random_() % 3;
  UndoOptions undo;
  undo.cow_path = merge.cow_path;
  undo.base_path = merge.base_path;
  undo.log_path = merge.undo_log_path;
  for (int run = 0; run < 12; ++run) {
    const bool whole = random_() % 3 == 0;
    if (run == 0 || random_() % 2 == 0) {
      merge.windows_max = whole ? UINT64_MAX : 1 + random_() % 3;
      const auto summary = MergeOffline(merge);
      ASSERT_TRUE(summary.ok()) << summary.status();
      ExpectTarget("file.cow", "base.img", new_);
      continue;
    }
    undo.steps_max = whole ? UINT64_MAX : 1 + random_() % 3;
    const auto summary = UndoOffline(undo);
    ASSERT_TRUE(summary.ok()) << summary.status();
    if (summary->finished) {
      ASSERT_TRUE(ReadFile("base.img") == begin);
    }
    ExpectTarget("file.cow", "base.img", new_);
  }
  merge.windows_max = undo.steps_max = UINT64_MAX;
  auto merged = MergeOffline(merge);
  ASSERT_TRUE(merged.ok() && merged->finished) << merged.status();
  undo.dry_run = true;
  const Bytes cow_before = ReadFile("file.cow");
  const Bytes base_before = ReadFile("base.img");
  auto undone = UndoOffline(undo);
  ASSERT_TRUE(undone.ok()) << undone.status();
  EXPECT_TRUE(ReadFile("file.cow") == cow_before);
  EXPECT_TRUE(ReadFile("base.img") == base_before);
  undo.dry_run = false;
  // A log that is damaged anywhere is found out before anything is changed.
  const Bytes log = ReadFile("undo.log");
  Bytes bad = log;
  // Behind its end is room that was taken for it.
  const size_t at = random_() % undone->log_bytes;
  bad[at] ^= 0x10;
  WriteFile("undo.log", bad);
  undone = UndoOffline(undo);
  if (undone.ok()) {
    // Padding of the superblock, and what no merge wrote.
    EXPECT_TRUE(at >= kSectorBytes && at < kBlockBytes) << at;
    merged = MergeOffline(merge);
    ASSERT_TRUE(merged.ok()) << merged.status();
  } else {
    EXPECT_TRUE(ReadFile("file.cow") == cow_before);
    EXPECT_TRUE(ReadFile("base.img") == base_before);
  }
  WriteFile("undo.log", log);
  undone = UndoOffline(undo);
  ASSERT_TRUE(undone.ok() && undone->finished) << undone.status();
  EXPECT_TRUE(ReadFile("base.img") == begin);
  EXPECT_EQ(Verify("file.cow", "base.img").verdict, Verdict::kGood);
}

// One bit anywhere in a file with checks, scratch region and padding aside.
TEST_P(RoundTripTest, DamageIsFound) {
  if (!options_.extension) return;
  const Bytes good = ReadFile("file.cow");
  const auto loaded = OpenCowFile(Path("file.cow"));
  ASSERT_TRUE(loaded.ok());
  const cow::Image& image = *loaded->image;
  for (int i = 0; i < 25; ++i) {
    // Header, ops and data; what is behind the valid ops is ours or unused.
    const size_t ops_end =
        image.header.is_v3()
            ? image.header.OpsOffset() + cow::kOpBytesV3 * image.header.op_count
            : good.size();
    const bool in_data = image.header.is_v3() &&
                         image.data_end > image.header.DataOffset() &&
                         random_() % 2 == 0;
    const size_t begin =
        in_data ? image.header.DataOffset() : image.header.SequenceOffset();
    const size_t end = in_data ? image.data_end : ops_end;
    if (begin >= end) continue;
    const size_t at = begin + random_() % (end - begin);
    // The resume area of version 3 is empty, unused slots of version 2 too.
    if (image.header.is_v3() && !in_data && at < image.header.OpsOffset()) {
      continue;
    }
    if (!image.header.is_v3() && good[at] == 0) continue;
    Bytes bad = good;
    bad[at] ^= static_cast<uint8_t>(1 << random_() % 8);
    WriteFile("file.cow", bad);
    EXPECT_NE(Verify("file.cow", "old.img").verdict, Verdict::kGood)
        << "byte " << at;
  }
}

TEST_P(RoundTripTest, AWrongBaseIsFound) {
  Bytes wrong = old_;
  const size_t at = random_() % wrong.size();
  wrong[at] ^= 1;
  WriteFile("wrong.img", wrong);
  const VerifyReport report = Verify("file.cow", "wrong.img");
  if (!options_.extension) return;
  // A block that the new image does not need says nothing.
  ExtractOptions options;
  options.cow_path = Path("file.cow");
  options.base_path = Path("wrong.img");
  options.output_path = Path("out.img");
  options.force = true;
  if (ExtractTarget(options).ok() && ReadFile("out.img") == new_) return;
  EXPECT_EQ(report.verdict, Verdict::kWrongBase);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RoundTripTest, testing::Range(1, 61));

TEST(MappedFileTest, ACutFileIsAnError) {
  const Bytes bytes(64 * kBlockBytes, 7);
  WriteFile("mapped.img", bytes);
  auto file = File::OpenForRead(Path("mapped.img"));
  ASSERT_TRUE(file.ok());
  const auto mapped = MappedFile::Map(*file);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  Bytes block(kBlockBytes);
  EXPECT_TRUE(mapped->ReadAt(60 * kBlockBytes, block).ok());
  EXPECT_EQ(block[0], 7);
  EXPECT_FALSE(mapped->ReadAt(64 * kBlockBytes - 1, block).ok());
  std::filesystem::resize_file(Path("mapped.img"), kBlockBytes);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(mapped->ReadAt(60 * kBlockBytes, block).ok());
    EXPECT_TRUE(mapped->ReadAt(0, block).ok());
  }
}

// The view reads the same through mappings.
TEST(MappedFileTest, TheViewIsTheSame) {
  std::mt19937 random(5);
  const Bytes old_image = test::RandomImage(&random, 80);
  const Bytes new_image = Changed(old_image, &random);
  WriteFile("old.img", old_image);
  WriteFile("new.img", new_image);
  CreateOptions options;
  options.old_path = Path("old.img");
  options.new_path = Path("new.img");
  options.output_path = Path("mapped.cow");
  options.force = true;
  ASSERT_TRUE(CreateCow(options).ok());
  const auto cow = OpenCowFile(options.output_path);
  const auto base = File::OpenForRead(options.old_path);
  ASSERT_TRUE(cow.ok() && base.ok());
  auto reader = TargetReader::Create(*cow, *base);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(reader->UseMappings().ok());
  Bytes out(new_image.size());
  ASSERT_TRUE(reader->ReadAt(0, out).ok());
  EXPECT_TRUE(out == new_image);
}

}  // namespace
}  // namespace dmu::tools
