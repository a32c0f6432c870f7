// SPDX-License-Identifier: Apache-2.0
//
// crash_test.cc - cuts the power everywhere.
//
// Goal: in every state the disks can be in after any number of power cuts, each
// block reads as the target and the merge goes on to the end.
// Method: for small images made by chance, the set of durable states that a
// merge can leave is explored whole (sim/explorer.h).
// More of it: DMU_CRASH_SEEDS=N DMU_CRASH_FIRST=S crash_test. A failing seed
// prints the line that repeats it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>

#include "test/sim/explorer.h"
#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Seeds from DMU_CRASH_FIRST on, DMU_CRASH_SEEDS of them.
Totals ExploreAll(const ExplorerOptions& options, uint64_t seeds) {
  const uint64_t first = FromEnvironment("DMU_CRASH_FIRST", 1);
  seeds = FromEnvironment("DMU_CRASH_SEEDS", seeds);
  Totals totals;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    Explorer explorer(seed, options);
    const std::string error = explorer.Run(&totals);
    if (!error.empty()) {
      ADD_FAILURE() << error
                    << "\n  repeat: DMU_CRASH_SEEDS=1 DMU_CRASH_FIRST=" << seed
                    << " crash_test --gtest_filter="
                    << testing::UnitTest::GetInstance()
                           ->current_test_info()
                           ->test_suite_name()
                    << ".*";
      break;
    }
  }
  std::printf(
      "%llu images, %llu power cuts, %llu states explored; %llu kills, %llu "
      "replays, %llu merges through scratch, %llu waits for a lease, %llu "
      "undos\n",
      static_cast<unsigned long long>(seeds),
      static_cast<unsigned long long>(totals.cuts),
      static_cast<unsigned long long>(totals.states),
      static_cast<unsigned long long>(totals.kills),
      static_cast<unsigned long long>(totals.replays),
      static_cast<unsigned long long>(totals.scratch_merges),
      static_cast<unsigned long long>(totals.lease_waits),
      static_cast<unsigned long long>(totals.undos));
  return totals;
}

TEST(CrashTest, EveryDurableStateReadsAsTheTargetAndFinishes) {
  const Totals totals = ExploreAll({}, 150);
  if (totals.states < 10'000) return;
  // The rare ways were gone.
  EXPECT_GT(totals.replays, 0u);
  EXPECT_GT(totals.scratch_merges, 0u);
  EXPECT_GT(totals.lease_waits, 0u);
}

TEST(UndoCrashTest, EveryDurableStateLeadsForwardsAndBack) {
  const Totals totals = ExploreAll({.undo = true}, 60);
  if (totals.states < 10'000) return;
  EXPECT_GT(totals.replays, 0u);
  EXPECT_GT(totals.scratch_merges, 0u);
  EXPECT_GT(totals.undos, 1000u);
}

// A flush whose loss goes unnoticed is superfluous, or this test is blind.
class TeethTest : public testing::TestWithParam<LostFlush> {};

TEST_P(TeethTest, ADiskThatIgnoresAFlushIsCaught) {
  Totals totals;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    ExplorerOptions options;
    options.lost_flush = GetParam();
    options.undo = GetParam() == LostFlush::kUndo;
    Explorer explorer(seed, options);
    if (!explorer.Run(&totals).empty()) return;
  }
  FAIL() << "no seed noticed the lost flush";
}

INSTANTIATE_TEST_SUITE_P(EveryFlush, TeethTest,
                         testing::Values(LostFlush::kStart, LostFlush::kBase,
                                         LostFlush::kScratch, LostFlush::kState,
                                         LostFlush::kCommit, LostFlush::kUndo),
                         [](const auto& info) {
                           switch (info.param) {
                             case LostFlush::kStart:
                               return "Start";
                             case LostFlush::kBase:
                               return "Base";
                             case LostFlush::kScratch:
                               return "Scratch";
                             case LostFlush::kState:
                               return "State";
                             case LostFlush::kUndo:
                               return "Undo";
                             default:
                               return "Commit";
                           }
                         });

std::string RunToEnd(MergeMachine* machine) {
  if (!machine->Load() || !machine->CheckAllBlocks()) return machine->error();
  while (machine->Step() || machine->stopped()) {
  }
  return machine->finished() ? "" : machine->error();
}

// The n-th command fails, for every n there is: all blocks stay readable, the
// merge is started again and ends well.
TEST(ErrorTest, EveryCommandMayFailOnce) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    const Scenario scenario = MakeScenario(seed, {});
    SectorStore store;
    const SimDisk base(&store, scenario.base);
    const SimDisk cow(&store, scenario.cow);
    for (uint32_t n = 1;; ++n) {
      MachineOptions options;
      options.staging_blocks = 3;
      options.direct_ops_min = 2;
      options.faults.fail_command = n;
      MergeMachine machine(scenario, {base, cow, {}}, options, seed);
      ASSERT_EQ(RunToEnd(&machine), "")
          << "seed " << seed << ", command " << n << "\n"
          << scenario.Describe() << "\n"
          << machine.runner().transcript();
      if (machine.runner().ended() < n) break;
    }
  }
}

// A disk that fails every few commands, for as long as the merge lasts.
TEST(ErrorTest, ManyCommandsMayFail) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const Scenario scenario = MakeScenario(seed, {});
    SectorStore store;
    MachineOptions options;
    options.staging_blocks = 2 + seed % 7;
    options.direct_ops_min = 1 + seed % 4;
    options.faults.fail_one_in = 4 + seed % 16;
    MergeMachine machine(
        scenario,
        {SimDisk(&store, scenario.base), SimDisk(&store, scenario.cow), {}},
        options, seed);
    ASSERT_EQ(RunToEnd(&machine), "") << "seed " << seed << "\n"
                                      << scenario.Describe();
  }
}

// Sectors that cannot be read, of base or COW file: reads fail or are right,
// the merge stops, and when the disk is mended it goes on.
TEST(ErrorTest, BadSectorsStopTheMergeAndLoseNothing) {
  uint32_t stops = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    const Scenario scenario = MakeScenario(seed, {});
    SectorStore store;
    Rng rng(seed);
    Disks disks = {
        SimDisk(&store, scenario.base), SimDisk(&store, scenario.cow), {}};
    MachineOptions options;
    options.staging_blocks = 2 + seed % 7;
    options.reads_may_fail = true;
    MergeMachine machine(scenario, disks, options, seed);
    ASSERT_TRUE(machine.Load()) << machine.error();
    SimDisk* const disk = rng.OneIn(2) ? &machine.runner().disks().base
                                       : &machine.runner().disks().cow;
    const auto sectors = static_cast<uint32_t>(
        (disk->size_bytes() + kSectorBytes - 1) / kSectorBytes);
    for (int i = 0; i < 3; ++i) disk->SetBad(rng.Below(sectors));
    while (machine.Step() || machine.stopped()) {
      if (!machine.stopped()) continue;
      ++stops;
      ASSERT_TRUE(machine.CheckAllBlocks()) << machine.error();
      disk->MendAll();
    }
    ASSERT_TRUE(machine.finished())
        << "seed " << seed << ": " << machine.error() << "\n"
        << scenario.Describe();
  }
  EXPECT_GT(stops, 50u);
}

// Larger images, full-size windows of 64, 65, 510 and 512 blocks.
TEST(WindowTest, LongMergesEndWell) {
  const uint32_t stagings[] = {64, 65, 100, 510, 512};
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    ScenarioOptions scenario_options;
    scenario_options.blocks_min = 200;
    scenario_options.blocks_max = 900;
    scenario_options.span_log2_max = 6;
    const Scenario scenario = MakeScenario(seed, scenario_options);
    SectorStore store;
    MachineOptions options;
    options.staging_blocks = stagings[seed % 5];
    options.check_every_step = false;
    MergeMachine machine(
        scenario,
        {SimDisk(&store, scenario.base), SimDisk(&store, scenario.cow), {}},
        options, seed);
    ASSERT_EQ(RunToEnd(&machine), "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace dmu::sim
