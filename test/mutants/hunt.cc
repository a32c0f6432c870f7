// SPDX-License-Identifier: Apache-2.0
//
// Goal: the simulator notices every mistake that has a name in mutate.py, and
// nothing in the engine as it is.
// Method: the same images, states and faults for all, until something is found.
//
// usage: hunt caught|clean
#include <cstdio>
#include <cstring>
#include <string>

#include "test/sim/explorer.h"
#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {
namespace {

// The rarest mistake is found by seed 60 or so.
constexpr uint64_t kSeeds = 150;

// A merge on disks that fail every few commands.
std::string FaultyMerge(uint64_t seed) {
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
  if (!machine.Load() || !machine.CheckAllBlocks()) return machine.error();
  while (machine.Step() || machine.stopped()) {
  }
  return machine.finished() ? "" : "with failing disks: " + machine.error();
}

std::string Hunt() {
  Totals totals;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    for (const bool undo : {false, true}) {
      ExplorerOptions options;
      options.undo = undo;
      options.states_max = 150;
      std::string error = Explorer(seed, options).Run(&totals);
      if (!error.empty()) return error;
    }
    const std::string error = FaultyMerge(seed);
    if (!error.empty()) return "seed " + std::to_string(seed) + ": " + error;
  }
  return "";
}

}  // namespace
}  // namespace dmu::sim

int main(int argc, char** argv) {
  if (argc != 2 || (std::strcmp(argv[1], "caught") != 0 &&
                    std::strcmp(argv[1], "clean") != 0)) {
    std::fprintf(stderr, "usage: hunt caught|clean\n");
    return 2;
  }
  const std::string found = dmu::sim::Hunt();
  std::printf("%s\n", found.empty() ? "nothing found" : found.c_str());
  return found.empty() == (std::strcmp(argv[1], "clean") == 0) ? 0 : 1;
}
