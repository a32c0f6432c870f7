// SPDX-License-Identifier: Apache-2.0
//
// crash_test.cc - cuts the power everywhere.
//
// Goal: in every state the disks can be in after any number of power cuts, each
// block reads as the target and the merge goes on to the end.
// Method: for small images made by chance, the set of durable states that a
// merge can leave is explored whole: from every state a merge is run, the power
// is cut after each write with every combination of what was not yet flushed,
// and the states that are new are explored in turn. So a second, third, ...
// cut during recovery needs no case of its own. Where more than kSubsetGroups
// pieces are not flushed, or a state is one of too many, chance chooses.
// More of it: DMU_CRASH_SEEDS=N DMU_CRASH_FIRST=S crash_test. A failing seed
// prints the line that repeats it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>

#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {
namespace {

constexpr uint32_t kSubsetGroups = 6;
// Durable states explored per image. Most have fewer; a lost flush lets them
// grow without bound.
constexpr size_t kStatesMax = 400;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct State {
  Overlay base;
  Overlay cow;
};

uint64_t Hash(const State& state) {
  uint64_t hash = 0;
  for (const auto& [sector, id] : state.base) {
    hash += Mix((uint64_t{sector} << 32 | id) + 1);
  }
  for (const auto& [sector, id] : state.cow) {
    hash += Mix(~(uint64_t{sector} << 32 | id));
  }
  return hash;
}

struct Totals {
  uint64_t states = 0;
  uint64_t cuts = 0;
  uint64_t kills = 0;
  uint64_t replays = 0;
  uint64_t staged_windows = 0;
  uint64_t lease_waits = 0;
};

class Explorer {
 public:
  Explorer(uint64_t seed, LostFlush lost_flush)
      : seed_(seed),
        lost_flush_(lost_flush),
        scenario_(MakeScenario(seed, {})),
        base_(&store_, scenario_.base),
        cow_(&store_, scenario_.cow) {}

  // "" or what went wrong.
  std::string Run(Totals* totals) {
    totals_ = totals;
    Add({});
    for (size_t explored = 0; !queue_.empty() && explored < kStatesMax;
         ++explored) {
      const State state = std::move(queue_.front());
      queue_.pop_front();
      const std::string error = Explore(state);
      if (!error.empty()) {
        return error + "\n  " + scenario_.Describe() +
               "\n  repeat: DMU_CRASH_SEEDS=1 DMU_CRASH_FIRST=" +
               std::to_string(seed_);
      }
    }
    return "";
  }

 private:
  MachineOptions OptionsFor(uint64_t seed) const {
    Rng rng(seed);
    MachineOptions options;
    // At least the largest unit, 2 blocks.
    options.staging_blocks = 2 + rng.Below(rng.OneIn(4) ? 8 : 3);
    options.direct_ops_min = rng.OneIn(2) ? 32 : 1 + rng.Below(3);
    options.lost_flush = lost_flush_;
    return options;
  }

  std::string Explore(const State& state) {
    ++totals_->states;
    const uint64_t seed = Mix(seed_) ^ Hash(state);
    Rng rng(seed);
    auto machine = std::make_unique<MergeMachine>(
        scenario_, SimDisk(base_, state.base), SimDisk(cow_, state.cow),
        OptionsFor(seed), seed);
    if (!machine->Load() || !machine->CheckAllBlocks()) {
      return "after a power cut: " + machine->error();
    }
    if (machine->image().progress.verdict == cow::Progress::Verdict::kReplay) {
      ++totals_->replays;
    }
    // Now and then the daemon is killed and started again first: what it had
    // written is there to be read, but not durable.
    uint32_t kill_at = rng.OneIn(2) ? rng.Below(40) : UINT32_MAX;
    uint32_t steps = 0;
    while (machine->Step()) {
      if (machine->wrote()) CutPower(*machine, seed + steps);
      if (++steps > 5'000) return "the merge does not end";
      if (steps < kill_at) continue;
      // Longer and longer, or a merge of many steps would never end.
      kill_at = steps + rng.Below(40 + steps / 2);
      ++totals_->kills;
      machine = Restart(*machine, rng.Next());
      if (!machine->Load() || !machine->CheckAllBlocks()) {
        return "after a restart: " + machine->error();
      }
    }
    if (!machine->finished()) return machine->error();
    CutPower(*machine, seed + steps);
    totals_->lease_waits += machine->lease_waits();
    if (machine->transcript().find("write-state") != std::string::npos) {
      ++totals_->staged_windows;
    }
    return "";
  }

  std::unique_ptr<MergeMachine> Restart(const MergeMachine& machine,
                                        uint64_t seed) const {
    SimDisk base = machine.base();
    SimDisk cow = machine.cow();
    base.CompleteAll();
    cow.CompleteAll();
    return std::make_unique<MergeMachine>(
        scenario_, std::move(base), std::move(cow), OptionsFor(seed), seed);
  }

  // Every combination of kept and lost, or some of them.
  void CutPower(const MergeMachine& machine, uint64_t seed) {
    const std::vector<uint32_t> base_groups = machine.base().PendingGroups();
    const std::vector<uint32_t> cow_groups = machine.cow().PendingGroups();
    const uint32_t base_count =
        base_groups.empty() ? 0 : base_groups.back() + 1;
    const uint32_t cow_count = cow_groups.empty() ? 0 : cow_groups.back() + 1;
    Rng rng(seed);
    if (base_count + cow_count <= kSubsetGroups) {
      for (uint32_t mask = 0; mask < 1u << (base_count + cow_count); ++mask) {
        AddCut(machine, Select(base_groups, mask),
               Select(cow_groups, mask >> base_count));
      }
    } else {
      for (int i = 0; i < 6; ++i) {
        AddCut(machine, Select(base_groups, rng.Next()),
               Select(cow_groups, rng.Next()));
      }
    }
    // Torn inside a block too.
    std::vector<bool> base_kept(base_groups.size());
    std::vector<bool> cow_kept(cow_groups.size());
    for (size_t i = 0; i < base_kept.size(); ++i) base_kept[i] = rng.OneIn(2);
    for (size_t i = 0; i < cow_kept.size(); ++i) cow_kept[i] = rng.OneIn(2);
    AddCut(machine, base_kept, cow_kept);
  }

  static std::vector<bool> Select(const std::vector<uint32_t>& groups,
                                  uint64_t mask) {
    std::vector<bool> kept;
    for (uint32_t group : groups) kept.push_back(mask >> group % 64 & 1);
    return kept;
  }

  void AddCut(const MergeMachine& machine, const std::vector<bool>& base_kept,
              const std::vector<bool>& cow_kept) {
    ++totals_->cuts;
    Add({machine.base().AfterCrash(base_kept),
         machine.cow().AfterCrash(cow_kept)});
  }

  void Add(State state) {
    const uint64_t hash = Hash(state);
    if (!seen_.insert(hash).second) return;
    if (queue_.size() < kStatesMax) {
      queue_.push_back(std::move(state));
    } else if (hash % 2 == 0) {
      // Chance decides which states are looked at, so that late stages of a
      // long merge get their share.
      queue_[hash / 2 % queue_.size()] = std::move(state);
    }
  }

  const uint64_t seed_;
  const LostFlush lost_flush_;
  SectorStore store_;
  const Scenario scenario_;
  const SimDisk base_;
  const SimDisk cow_;
  std::deque<State> queue_;
  std::unordered_set<uint64_t> seen_;
  Totals* totals_ = nullptr;
};

TEST(CrashTest, EveryDurableStateReadsAsTheTargetAndFinishes) {
  const uint64_t first = FromEnvironment("DMU_CRASH_FIRST", 1);
  const uint64_t seeds = FromEnvironment("DMU_CRASH_SEEDS", 150);
  Totals totals;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    Explorer explorer(seed, LostFlush::kNone);
    ASSERT_EQ(explorer.Run(&totals), "") << "seed " << seed;
  }
  std::printf(
      "%llu images, %llu power cuts, %llu states explored; %llu kills, %llu "
      "replays, %llu merges through scratch, %llu waits for a lease\n",
      static_cast<unsigned long long>(seeds),
      static_cast<unsigned long long>(totals.cuts),
      static_cast<unsigned long long>(totals.states),
      static_cast<unsigned long long>(totals.kills),
      static_cast<unsigned long long>(totals.replays),
      static_cast<unsigned long long>(totals.staged_windows),
      static_cast<unsigned long long>(totals.lease_waits));
  if (seeds < 100) return;
  // The rare ways were gone.
  EXPECT_GT(totals.replays, 0u);
  EXPECT_GT(totals.staged_windows, 0u);
  EXPECT_GT(totals.lease_waits, 0u);
}

// A flush whose loss goes unnoticed is superfluous, or this test is blind.
class TeethTest : public testing::TestWithParam<LostFlush> {};

TEST_P(TeethTest, ADiskThatIgnoresAFlushIsCaught) {
  Totals totals;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Explorer explorer(seed, GetParam());
    if (!explorer.Run(&totals).empty()) return;
  }
  FAIL() << "no seed noticed the lost flush";
}

INSTANTIATE_TEST_SUITE_P(EveryFlush, TeethTest,
                         testing::Values(LostFlush::kStart, LostFlush::kBase,
                                         LostFlush::kScratch, LostFlush::kState,
                                         LostFlush::kCommit),
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
                             default:
                               return "Commit";
                           }
                         });

std::string RunToEnd(MergeMachine* machine) {
  if (!machine->Load() || !machine->CheckAllBlocks()) return machine->error();
  while (machine->Step()) {
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
      options.fail_command = n;
      MergeMachine machine(scenario, base, cow, options, seed);
      ASSERT_EQ(RunToEnd(&machine), "")
          << "seed " << seed << ", command " << n << "\n"
          << scenario.Describe() << "\n"
          << machine.transcript();
      if (machine.commands() < n) break;
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
    options.fail_one_in = 4 + seed % 16;
    MergeMachine machine(scenario, SimDisk(&store, scenario.base),
                         SimDisk(&store, scenario.cow), options, seed);
    ASSERT_EQ(RunToEnd(&machine), "") << "seed " << seed << "\n"
                                      << scenario.Describe();
  }
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
    MergeMachine machine(scenario, SimDisk(&store, scenario.base),
                         SimDisk(&store, scenario.cow), options, seed);
    ASSERT_EQ(RunToEnd(&machine), "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace dmu::sim
