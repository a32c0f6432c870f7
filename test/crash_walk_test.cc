// SPDX-License-Identifier: Apache-2.0
//
// crash_walk_test.cc - long merges and undos, cut off at random points, of
// large images and of files that Android's merge left half-way; and what a
// merge costs.
//
// More of it: DMU_WALK_SEEDS=N DMU_WALK_FIRST=S crash_walk_test. A failing seed
// prints the line that repeats it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/walk.h"

namespace dmu::sim {
namespace {

namespace fs = std::filesystem;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

void Print(const WalkTotals& totals) {
  std::printf("%llu power cuts, %llu lives, %llu of them undos, %llu ends\n",
              static_cast<unsigned long long>(totals.cuts),
              static_cast<unsigned long long>(totals.lives),
              static_cast<unsigned long long>(totals.undos),
              static_cast<unsigned long long>(totals.ended));
}

// One to three devices, images of 1 to 900 blocks, units of 1 to 64, windows of
// 1 to 1500 ops, with and without undo logs and failing disks.
TEST(WalkTest, LongMergesAreCutAtRandomPoints) {
  const uint64_t first = FromEnvironment("DMU_WALK_FIRST", 1);
  const uint64_t seeds = FromEnvironment("DMU_WALK_SEEDS", 60);
  WalkTotals totals;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    Rng rng(seed);
    std::vector<Scenario> scenarios;
    const uint32_t devices = 1 + rng.Below(3);
    for (uint32_t i = 0; i < devices; ++i) {
      ScenarioOptions options;
      options.blocks_max = rng.OneIn(3) ? 900 : 150;
      options.span_log2_max = static_cast<uint8_t>(rng.Below(7));
      scenarios.push_back(MakeScenario(rng.Next(), options));
    }
    WalkOptions options;
    options.cuts = 30;
    options.undo = rng.OneIn(2);
    options.fail_one_in = rng.OneIn(3) ? 20 + rng.Below(100) : 0;
    std::vector<const Scenario*> pointers;
    for (const Scenario& scenario : scenarios) pointers.push_back(&scenario);
    ASSERT_EQ(Walk(seed, pointers, options).Run(&totals), "")
        << "repeat: DMU_WALK_SEEDS=1 DMU_WALK_FIRST=" << seed
        << " crash_walk_test --gtest_filter=WalkTest.*";
  }
  Print(totals);
}

std::vector<uint8_t> ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

// Every file of Android's writers that can be merged, from the state its merge
// was left in.
TEST(WalkTest, WhatAndroidLeftHalfWayIsEnded) {
  const fs::path into = fs::path(testing::TempDir()) / "fixtures";
  fs::remove_all(into);
  fs::create_directories(into);
  const std::string command =
      "zstd -dcq --long=27 <test/fixtures/cow-fixtures.tar.zst | tar x -C '" +
      into.string() + "'";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const uint64_t first = FromEnvironment("DMU_WALK_FIRST", 1);
  WalkTotals totals;
  uint32_t files = 0;
  for (const auto& entry : fs::directory_iterator(into / "cow-fixtures")) {
    const std::string name = entry.path().filename();
    if (!entry.is_directory() || name.rfind("bad-", 0) == 0 ||
        name.find("unfinished") != std::string::npos) {
      continue;
    }
    Scenario scenario;
    scenario.base = ReadFile(entry.path() / "base.img");
    scenario.target = ReadFile(entry.path() / "target.img");
    scenario.cow = ReadFile(entry.path() / "file.cow");
    scenario.unit_blocks_max = 64;
    scenario.base.resize(
        std::max(scenario.base.size(), scenario.target.size()));
    for (uint64_t seed = first; seed < first + 3; ++seed) {
      ASSERT_EQ(Walk(seed, {&scenario}, {.cuts = 15}).Run(&totals), "")
          << name << "\nrepeat: DMU_WALK_FIRST=" << seed
          << " crash_walk_test --gtest_filter=WalkTest.*";
    }
    ++files;
  }
  EXPECT_GE(files, 25u);
  Print(totals);
}

// What a merge writes and flushes, with the daemon's memory.
struct Cost {
  Work work;
  uint64_t changed_bytes = 0;

  double amplification() const {
    return static_cast<double>(work.base_bytes + work.scratch_bytes +
                               work.header_bytes) /
           static_cast<double>(changed_bytes);
  }
};

Cost CostOf(const char* what, std::vector<Change> changes, uint32_t blocks) {
  Rng rng(1);
  LayoutOptions layout;
  layout.scratch = true;
  const Scenario scenario =
      Build(NumberedBlocks(blocks, 1), std::move(changes), layout, &rng);
  SectorStore store;
  MachineOptions options;
  options.staging_blocks = merge::kStagingBlocksDefault;
  options.window_ops = merge::kWindowOpsDefault;
  options.check_every_step = false;
  MergeMachine machine(
      scenario,
      {SimDisk(&store, scenario.base), SimDisk(&store, scenario.cow), {}},
      options, 1);
  EXPECT_TRUE(machine.Load()) << machine.error();
  Cost cost;
  cost.changed_bytes = machine.image().merge_bytes;
  while (machine.Step()) {
  }
  EXPECT_TRUE(machine.finished()) << machine.error();
  cost.work = machine.runner().work();
  const double windows = static_cast<double>(cost.work.commits);
  std::printf(
      "%-28s %6.1f MiB: %.3f bytes written per byte changed, %3.0f windows, "
      "%3llu through scratch, %.2f flushes each\n",
      what, static_cast<double>(cost.changed_bytes) / (1 << 20),
      cost.amplification(), windows,
      static_cast<unsigned long long>(cost.work.scratch_windows),
      static_cast<double>(cost.work.flushes) / windows);
  return cost;
}

std::vector<Change> Copies(uint32_t count, int64_t distance) {
  std::vector<Change> changes;
  for (uint32_t i = 0; i < count; ++i) {
    Change change;
    change.type = cow::OpType::kCopy;
    // In the order in which nothing is read after it was overwritten.
    change.new_block =
        distance > 0 ? i : count - 1 - i + static_cast<uint32_t>(-distance);
    change.source_bytes = (change.new_block + distance) * kBlockBytes;
    changes.push_back(change);
  }
  return changes;
}

// Conflict-free windows are written once, with two flushes; the others twice,
// with four. Once for each merge: the header is flushed, and state 1 written.
void ExpectFlushes(const Work& work) {
  EXPECT_EQ(work.flushes, 2 + 2 * work.commits + 2 * work.scratch_windows);
}

TEST(CostTest, WritesAndFlushesOfAMerge) {
  constexpr uint32_t kOps = 8000;
  std::vector<Change> zeros(kOps);
  std::vector<Change> replaces(kOps);
  for (uint32_t i = 0; i < kOps; ++i) {
    zeros[i].new_block = replaces[i].new_block = i;
    replaces[i].type = cow::OpType::kReplace;
    replaces[i].data.assign(kBlockBytes, static_cast<uint8_t>(i));
  }
  const Cost direct[] = {
      CostOf("zeros", zeros, kOps),
      CostOf("replaces", replaces, kOps),
      CostOf("copies from elsewhere", Copies(kOps, kOps), 2 * kOps),
      CostOf("shifted by 600 blocks down", Copies(kOps, 600), kOps + 600),
      CostOf("shifted by 600 blocks up", Copies(kOps, -600), kOps + 600),
  };
  for (const Cost& cost : direct) {
    EXPECT_LT(cost.amplification(), 1.001);
    EXPECT_EQ(cost.work.scratch_windows, 0u);
    EXPECT_LE(cost.work.commits, 8000u / 600 + 1);
    ExpectFlushes(cost.work);
  }
  const Cost scratch[] = {
      CostOf("shifted by one block down", Copies(kOps, 1), kOps + 1),
      CostOf("shifted by one block up", Copies(kOps, -1), kOps + 1),
  };
  for (const Cost& cost : scratch) {
    // 7.6 KiB of metadata for 510 blocks.
    EXPECT_LT(cost.amplification(), 2.005);
    EXPECT_EQ(cost.work.scratch_windows, cost.work.commits);
    EXPECT_EQ(cost.work.commits, 8000u / 510 + 1);
    ExpectFlushes(cost.work);
  }
}

}  // namespace
}  // namespace dmu::sim
