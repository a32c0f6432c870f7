// SPDX-License-Identifier: Apache-2.0
//
// explorer.cc - see explorer.h.
#include "test/sim/explorer.h"

#include <memory>
#include <utility>

#include "daemon/cow/loader.h"
#include "test/sim/undo_machine.h"

namespace dmu::sim {
namespace {

constexpr uint32_t kSubsetGroups = 6;
constexpr uint32_t kStepsMax = 8'000;

// Zeros, large enough for groups of one block each, twice.
std::vector<uint8_t> UndoDisk(const Scenario& scenario) {
  return std::vector<uint8_t>(
      size_t{kBlockBytes} *
      (4 + 4 * (scenario.changes.size() + scenario.blocks())));
}

std::vector<bool> Select(const std::vector<uint32_t>& groups, uint64_t mask) {
  std::vector<bool> kept;
  for (const uint32_t group : groups) kept.push_back(mask >> group % 64 & 1);
  return kept;
}

}  // namespace

Explorer::Explorer(uint64_t seed, const ExplorerOptions& options)
    : seed_(seed),
      options_(options),
      scenario_(MakeScenario(seed, {})),
      base_(&store_, scenario_.base),
      cow_(&store_, scenario_.cow),
      undo_(&store_, UndoDisk(scenario_)) {}

uint64_t Explorer::Hash(const State& state) {
  uint64_t hash = 0;
  for (const auto& [sector, id] : state.base) {
    hash += Mix((uint64_t{sector} << 32 | id) + 1);
  }
  for (const auto& [sector, id] : state.cow) {
    hash += Mix(~(uint64_t{sector} << 32 | id));
  }
  for (const auto& [sector, id] : state.undo) {
    hash += Mix((uint64_t{sector} << 32 | id) ^ 0x5555555555555555);
  }
  return hash;
}

std::string Explorer::Run(Totals* totals) {
  totals_ = totals;
  Add({});
  for (size_t explored = 0; !queue_.empty() && explored < options_.states_max;
       ++explored) {
    const State state = std::move(queue_.front());
    queue_.pop_front();
    const std::string error = Explore(state);
    if (!error.empty()) {
      return "seed " + std::to_string(seed_) + ": " + error + "\n  " +
             scenario_.Describe();
    }
  }
  return "";
}

MachineOptions Explorer::OptionsFor(uint64_t seed) const {
  Rng rng(seed);
  MachineOptions options;
  // At least the largest unit, 2 blocks.
  options.staging_blocks = 2 + rng.Below(rng.OneIn(4) ? 8 : 3);
  options.window_ops = options.staging_blocks + rng.Below(8);
  options.direct_ops_min = rng.OneIn(2) ? 32 : 1 + rng.Below(3);
  options.faults.lost_flush = options_.lost_flush;
  return options;
}

Disks Explorer::DisksOf(const State& state) const {
  Disks disks = {SimDisk(base_, state.base), SimDisk(cow_, state.cow), {}};
  if (options_.undo) disks.undo = SimDisk(undo_, state.undo);
  return disks;
}

// A file that says "not begun" has an untouched base.
std::string Explorer::CheckUntouched(const State& state) const {
  const SimDisk cow(cow_, state.cow);
  cow::Loader loader(cow.size_bytes());
  std::string error = Load(cow, &loader);
  if (!error.empty()) return error;
  const std::unique_ptr<cow::Image> image = loader.Take();
  if (image->header.has_scratch() && image->progress.untouched &&
      SimDisk(base_, state.base).Contents() != scenario_.base) {
    return "the base is changed, and the COW file does not say so";
  }
  return "";
}

std::string Explorer::Explore(const State& state) {
  ++totals_->states;
  const std::string error = CheckUntouched(state);
  if (!error.empty()) return error;
  const uint64_t seed = Mix(seed_) ^ Hash(state);
  if (options_.undo && seed % 3 == 0) return ExploreUndo(state, seed);
  return ExploreMerge(state, seed);
}

std::string Explorer::ExploreMerge(const State& state, uint64_t seed) {
  Rng rng(seed);
  auto machine = std::make_unique<MergeMachine>(scenario_, DisksOf(state),
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
    if (machine->wrote()) CutPower(machine->disks(), seed + steps);
    if (++steps > kStepsMax) return "the merge does not end";
    if (steps < kill_at) continue;
    // Longer and longer, or a merge of many steps would never end.
    kill_at = steps + rng.Below(40 + steps / 2);
    ++totals_->kills;
    Disks disks = machine->disks();
    disks.base.CompleteAll();
    disks.cow.CompleteAll();
    if (disks.undo.has_value()) disks.undo->CompleteAll();
    machine = std::make_unique<MergeMachine>(
        scenario_, std::move(disks), OptionsFor(rng.Next()), rng.Next());
    if (!machine->Load() || !machine->CheckAllBlocks()) {
      return "after a restart: " + machine->error();
    }
  }
  if (!machine->finished()) return machine->error();
  CutPower(machine->disks(), seed + steps);
  totals_->lease_waits += machine->lease_waits();
  if (machine->runner().work().scratch_windows > 0) ++totals_->scratch_merges;
  return "";
}

std::string Explorer::ExploreUndo(const State& state, uint64_t seed) {
  {
    MergeMachine reader(scenario_, DisksOf(state), OptionsFor(seed), seed);
    if (!reader.Load() || !reader.CheckAllBlocks()) {
      return "after a power cut: " + reader.error();
    }
  }
  FaultOptions faults;
  faults.lost_flush = options_.lost_flush;
  UndoMachine machine(scenario_, DisksOf(state), faults, seed);
  if (!machine.Load()) return machine.error();
  if (machine.empty()) return ExploreMerge(state, seed);
  ++totals_->undos;
  uint32_t steps = 0;
  while (machine.Step()) {
    if (machine.wrote()) CutPower(machine.disks(), seed + steps);
    if (++steps > kStepsMax) return "the undo does not end";
  }
  if (!machine.finished()) return machine.error();
  CutPower(machine.disks(), seed + steps);
  return "";
}

// Every combination of kept and lost, or some of them.
void Explorer::CutPower(const Disks& disks, uint64_t seed) {
  std::vector<std::vector<uint32_t>> groups = {disks.base.PendingGroups(),
                                               disks.cow.PendingGroups()};
  if (disks.undo.has_value()) groups.push_back(disks.undo->PendingGroups());
  uint32_t count = 0;
  std::vector<uint32_t> first;  // of each disk, among all
  for (const std::vector<uint32_t>& of_disk : groups) {
    first.push_back(count);
    if (!of_disk.empty()) count += of_disk.back() + 1;
  }
  Rng rng(seed);
  std::vector<std::vector<bool>> kept(groups.size());
  if (count <= kSubsetGroups) {
    for (uint32_t mask = 0; mask < 1u << count; ++mask) {
      for (size_t i = 0; i < groups.size(); ++i) {
        kept[i] = Select(groups[i], mask >> first[i]);
      }
      AddCut(disks, kept);
    }
  } else {
    for (int cut = 0; cut < 6; ++cut) {
      for (size_t i = 0; i < groups.size(); ++i) {
        kept[i] = Select(groups[i], rng.Next());
      }
      AddCut(disks, kept);
    }
  }
  // Torn inside a block too.
  for (size_t i = 0; i < groups.size(); ++i) {
    kept[i].clear();
    for (size_t at = 0; at < groups[i].size(); ++at) {
      kept[i].push_back(rng.OneIn(2));
    }
  }
  AddCut(disks, kept);
}

void Explorer::AddCut(const Disks& disks,
                      const std::vector<std::vector<bool>>& kept) {
  ++totals_->cuts;
  State state = {
      disks.base.AfterCrash(kept[0]), disks.cow.AfterCrash(kept[1]), {}};
  if (disks.undo.has_value()) state.undo = disks.undo->AfterCrash(kept[2]);
  Add(std::move(state));
}

void Explorer::Add(State state) {
  const uint64_t hash = Hash(state);
  if (!seen_.insert(hash).second) return;
  if (queue_.size() < options_.states_max) {
    queue_.push_back(std::move(state));
  } else if (hash % 2 == 0) {
    // Chance decides which states are looked at, so that late stages of a
    // long merge get their share.
    queue_[hash / 2 % queue_.size()] = std::move(state);
  }
}

}  // namespace dmu::sim
