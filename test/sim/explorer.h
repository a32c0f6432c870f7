// SPDX-License-Identifier: Apache-2.0
//
// explorer.h - explores every durable state that a merge, or a merge and its
// undo, can leave.
//
// From every state a life is run - a merge or, where there is an undo log,
// now and then an undo - and the power is cut after each write with every
// combination of what was not flushed yet; the states that are new are explored
// in turn. So a second, third, ... cut during recovery needs no case of its
// own. Where more than kSubsetGroups pieces are not flushed, or a state is one
// of too many, chance chooses. Every state must load, read as the target, and
// lead to the end.
#ifndef TEST_SIM_EXPLORER_H_
#define TEST_SIM_EXPLORER_H_

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_set>
#include <vector>

#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {

struct ExplorerOptions {
  LostFlush lost_flush = LostFlush::kNone;
  // The merge keeps an undo log, and lives may be undos.
  bool undo = false;
  // Durable states explored. Most images have fewer; a lost flush lets them
  // grow without bound.
  size_t states_max = 400;
};

struct Totals {
  uint64_t states = 0;
  uint64_t cuts = 0;
  uint64_t kills = 0;
  uint64_t replays = 0;
  uint64_t scratch_merges = 0;  // lives with a window through scratch
  uint64_t lease_waits = 0;
  uint64_t undos = 0;  // lives that took the merge back
};

class Explorer {
 public:
  Explorer(uint64_t seed, const ExplorerOptions& options);

  // "" or what went wrong, with the image.
  std::string Run(Totals* totals);

 private:
  struct State {
    Overlay base;
    Overlay cow;
    Overlay undo;
  };
  static uint64_t Hash(const State& state);

  MachineOptions OptionsFor(uint64_t seed) const;
  Disks DisksOf(const State& state) const;
  std::string CheckUntouched(const State& state) const;
  std::string Explore(const State& state);
  std::string ExploreMerge(const State& state, uint64_t seed);
  std::string ExploreUndo(const State& state, uint64_t seed);
  void CutPower(const Disks& disks, uint64_t seed);
  void AddCut(const Disks& disks, const std::vector<std::vector<bool>>& kept);
  void Add(State state);

  const uint64_t seed_;
  const ExplorerOptions options_;
  SectorStore store_;
  const Scenario scenario_;
  const SimDisk base_;
  const SimDisk cow_;
  const SimDisk undo_;
  std::deque<State> queue_;
  std::unordered_set<uint64_t> seen_;
  Totals* totals_ = nullptr;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_EXPLORER_H_
