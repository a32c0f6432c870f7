// SPDX-License-Identifier: Apache-2.0
//
// Goal: files made by Android's writers read as their target image, block by
// block, unaligned and whole; every one that Android's merge left half way is
// finished to the same image; of every damaged one nothing wrong is ever said
// to be right.
// Method: the archive is unpacked into the test's folder and the copies are
// worked on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/file_io.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

fs::path Root() {
  static const fs::path* root = [] {
    const fs::path into = fs::path(testing::TempDir()) / "fixtures";
    fs::remove_all(into);
    fs::create_directories(into);
    const std::string command =
        "zstd -dcq --long=27 <test/fixtures/cow-fixtures.tar.zst | tar x -C '" +
        into.string() + "' && chmod -R u+w '" + into.string() + "'";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return new fs::path(into / "cow-fixtures");
  }();
  return *root;
}

std::vector<std::string> Names(bool damaged) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(Root())) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && (name.rfind("bad-", 0) == 0) == damaged) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Bytes ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

// A COW file, its base, and what reads them.
struct Opened {
  static absl::StatusOr<std::unique_ptr<Opened>> Open(
      const fs::path& folder, std::optional<uint64_t> label) {
    auto cow = OpenCowFile(folder / "file.cow", label);
    if (!cow.ok()) return cow.status();
    auto base = File::OpenForRead(folder / "base.img");
    if (!base.ok()) return base.status();
    auto opened = std::unique_ptr<Opened>(
        new Opened{*std::move(cow), *std::move(base), std::nullopt});
    auto reader = TargetReader::Create(opened->cow, opened->base);
    if (!reader.ok()) return reader.status();
    opened->reader.emplace(*std::move(reader));
    return opened;
  }

  CowFile cow;
  File base;
  std::optional<TargetReader> reader;
};

void ExpectTarget(const fs::path& folder, std::optional<uint64_t> label,
                  const Bytes& target) {
  auto opened = Opened::Open(folder, label);
  ASSERT_TRUE(opened.ok()) << opened.status();
  TargetReader& reader = *(*opened)->reader;
  ASSERT_GE(reader.target_bytes(), target.size());
  Bytes out(target.size());
  absl::Status status = reader.ReadAt(0, out);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(out == target) << "in one piece";
  Bytes block(kBlockBytes);
  for (size_t at = 0; at + kBlockBytes <= target.size(); at += kBlockBytes) {
    status = reader.ReadAt(at, block);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(std::memcmp(block.data(), target.data() + at, kBlockBytes), 0)
        << "block " << at / kBlockBytes;
  }
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const size_t at = random() % target.size() / kSectorBytes * kSectorBytes;
    const size_t length =
        std::min<size_t>(target.size() - at, 1 + random() % 70000);
    Bytes piece(length);
    status = reader.ReadAt(at, piece);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(std::memcmp(piece.data(), target.data() + at, length), 0)
        << length << " bytes at " << at;
  }
}

TEST(FixturesTest, EveryValidFileReadsAsItsTarget) {
  const std::vector<std::string> names = Names(false);
  EXPECT_EQ(names.size(), 32u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const fs::path folder = Root() / name;
    const bool unfinished = name.find("unfinished") != std::string::npos;
    ExpectTarget(folder, unfinished ? std::optional<uint64_t>(2) : std::nullopt,
                 ReadFile(folder / "target.img"));
    if (!unfinished) continue;
    ExpectTarget(folder, 1, ReadFile(folder / "target.label1.img"));
    if (name.rfind("v2", 0) == 0) {
      EXPECT_TRUE(absl::IsDataLoss(Opened::Open(folder, {}).status()))
          << "version 2 without a footer is not complete";
    }
  }
}

// The merge, in windows of several sizes, and stopped on the way.
TEST(FixturesTest, EveryMergeIsFinished) {
  for (const std::string& name : Names(false)) {
    if (name.find("unfinished") != std::string::npos) continue;
    for (const uint32_t window_blocks : {64u, 510u, 2048u}) {
      SCOPED_TRACE(testing::Message() << name << ' ' << window_blocks);
      const fs::path folder = Root() / "work";
      fs::remove_all(folder);
      fs::copy(Root() / name, folder);
      const Bytes target = ReadFile(folder / "target.img");
      MergeOptions options;
      options.cow_path = folder / "file.cow";
      options.base_path = folder / "base.img";
      options.window_blocks = window_blocks;
      options.dry_run = true;
      const Bytes base_before = ReadFile(options.base_path);
      const Bytes cow_before = ReadFile(options.cow_path);
      absl::StatusOr<MergeSummary> trial = MergeOffline(options);
      ASSERT_TRUE(trial.ok()) << trial.status();
      EXPECT_TRUE(ReadFile(options.base_path) == base_before);
      EXPECT_TRUE(ReadFile(options.cow_path) == cow_before);
      // Stopped at every window edge: each run does one window.
      options.dry_run = false;
      options.windows_max = 1;
      uint64_t merged_ops = 0;
      for (int run = 0;; ++run) {
        const absl::StatusOr<MergeSummary> summary = MergeOffline(options);
        ASSERT_TRUE(summary.ok()) << summary.status();
        if (summary->finished) break;
        ASSERT_EQ(summary->windows, 1u);
        ASSERT_GT(summary->merged_ops, merged_ops);
        merged_ops = summary->merged_ops;
        if (run % 5 == 0) {
          auto opened = Opened::Open(folder, {});
          ASSERT_TRUE(opened.ok()) << opened.status();
          Bytes out(target.size());
          ASSERT_TRUE((*opened)->reader->ReadAt(0, out).ok());
          ASSERT_TRUE(out == target) << "after window " << run;
        }
      }
      Bytes base = ReadFile(options.base_path);
      ASSERT_GE(base.size(), target.size());
      base.resize(target.size());
      EXPECT_TRUE(base == target);
    }
  }
}

// What is done about a damaged file.
enum class Outcome {
  kRefused,   // by the loader
  kNotMade,   // its base does not fit what it says
  kReported,  // it loads, and reading what is damaged says so
  kHarmless,  // the damage changes nothing: it reads as the target
};

struct Verdict {
  const char* name;
  Outcome outcome;
};

constexpr Verdict kVerdicts[] = {
    {"bad-v2-buffersize2097151", Outcome::kRefused},
    {"bad-v2-clustersrc0", Outcome::kHarmless},  // it was 0
    {"bad-v2-copysrc4294967296", Outcome::kRefused},
    {"bad-v2-footer-half", Outcome::kRefused},
    {"bad-v2-footersize0", Outcome::kRefused},
    {"bad-v2-headersize65535", Outcome::kRefused},
    {"bad-v2-major4", Outcome::kRefused},
    {"bad-v2-nummerge10000", Outcome::kRefused},
    {"bad-v2-oplen1", Outcome::kRefused},
    {"bad-v2-optype4", Outcome::kRefused},
    {"bad-v2-repsrc37", Outcome::kRefused},
    {"bad-v2-trunc10", Outcome::kRefused},
    {"bad-v2-xorsrc1044481", Outcome::kNotMade},
    {"bad-v3-blocksize0", Outcome::kRefused},
    {"bad-v3-buffersize2101248", Outcome::kRefused},
    {"bad-v3-compbits2", Outcome::kReported},
    {"bad-v3-data-brotli-flip", Outcome::kReported},
    {"bad-v3-headersize0", Outcome::kRefused},
    {"bad-v3-magic", Outcome::kRefused},
    {"bad-v3-maxcomp4096", Outcome::kRefused},
    {"bad-v3-nummerge18446744073709551615", Outcome::kRefused},
    {"bad-v3-opcountmax10", Outcome::kRefused},
    {"bad-v3-oplen4096", Outcome::kRefused},
    {"bad-v3-optype4", Outcome::kRefused},
    {"bad-v3-reserved511", Outcome::kRefused},
    // Reads right; the order it asks for cannot be merged, and is not.
    {"bad-v3-seq-replace", Outcome::kHarmless},
    {"bad-v3-trunc10", Outcome::kRefused},
    {"bad-v3-xorsrc1044481", Outcome::kNotMade},
};

TEST(FixturesTest, EveryDamagedFileGetsItsVerdict) {
  std::map<std::string, Outcome> expected;
  for (const Verdict& verdict : kVerdicts) {
    expected[verdict.name] = verdict.outcome;
  }
  const std::vector<std::string> names = Names(true);
  EXPECT_EQ(names.size(), expected.size());
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    ASSERT_EQ(expected.count(name), 1u);
    const fs::path folder = Root() / name;
    const Bytes target = ReadFile(folder / "target.img");
    auto cow = OpenCowFile(folder / "file.cow");
    EXPECT_EQ(cow.ok(), expected[name] != Outcome::kRefused) << cow.status();
    if (!cow.ok()) continue;
    auto opened = Opened::Open(folder, {});
    EXPECT_EQ(opened.ok(), expected[name] != Outcome::kNotMade)
        << opened.status();
    if (!opened.ok()) {
      EXPECT_TRUE(absl::IsFailedPrecondition(opened.status()));
      continue;
    }
    // Blocks that are read are right, the others say that they are not.
    size_t reported = 0;
    Bytes block(kBlockBytes);
    for (size_t at = 0; at < target.size(); at += kBlockBytes) {
      if ((*opened)->reader->ReadAt(at, block).ok()) {
        EXPECT_EQ(std::memcmp(block.data(), target.data() + at, kBlockBytes), 0)
            << "block " << at / kBlockBytes;
      } else {
        ++reported;
      }
    }
    EXPECT_EQ(reported > 0, expected[name] == Outcome::kReported);
  }
}

// A merge of a damaged file ends with the target or with an error, and then
// every block that could be read before can still be read, and is right.
TEST(FixturesTest, NoDamagedFileHarmsItsBase) {
  for (const std::string& name : Names(true)) {
    SCOPED_TRACE(name);
    const fs::path folder = Root() / "work";
    fs::remove_all(folder);
    fs::copy(Root() / name, folder);
    const Bytes target = ReadFile(folder / "target.img");
    const Bytes before = ReadFile(folder / "base.img");
    MergeOptions options;
    options.cow_path = folder / "file.cow";
    options.base_path = folder / "base.img";
    const absl::StatusOr<MergeSummary> summary = MergeOffline(options);
    if (summary.ok()) {
      EXPECT_TRUE(ReadFile(options.base_path) == target);
      continue;
    }
    auto opened = Opened::Open(folder, {});
    if (!opened.ok()) {
      EXPECT_TRUE(ReadFile(options.base_path) == before) << summary.status();
      continue;
    }
    Bytes block(kBlockBytes);
    for (size_t at = 0; at < target.size(); at += kBlockBytes) {
      if (!(*opened)->reader->ReadAt(at, block).ok()) continue;
      EXPECT_EQ(std::memcmp(block.data(), target.data() + at, kBlockBytes), 0)
          << "block " << at / kBlockBytes;
    }
  }
}

}  // namespace
}  // namespace dmu::tools
