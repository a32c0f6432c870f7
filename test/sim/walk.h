// SPDX-License-Identifier: Apache-2.0
//
// walk.h - long merges of several devices at once, cut off at random points.
//
// Where the explorer (explorer.h) looks at every state of small images, a walk
// goes one way through large ones: a life of random length, a power cut that
// hits all devices and keeps a random part of what was not flushed, the next
// life. After each cut every block of every device must read as the target.
// Now and then a life takes a merge back, where there is an undo log; at the
// end every merge is done, and then taken back whole.
#ifndef TEST_SIM_WALK_H_
#define TEST_SIM_WALK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "test/sim/merge_machine.h"
#include "test/sim/rng.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"
#include "test/sim/undo_machine.h"

namespace dmu::sim {

struct WalkOptions {
  uint32_t cuts = 20;
  // Steps of a life, at most; a step is a command handed out or ended.
  uint32_t life_steps_max = 400;
  bool undo = false;
  // See FaultOptions; 0: disks do not fail.
  uint32_t fail_one_in = 0;
};

struct WalkTotals {
  uint64_t cuts = 0;
  uint64_t lives = 0;
  uint64_t undos = 0;
  uint64_t ended = 0;  // merges that came to their end before the last cut
};

class Walk {
 public:
  // The scenarios must outlive it.
  Walk(uint64_t seed, std::vector<const Scenario*> scenarios,
       const WalkOptions& options);

  // "" or what went wrong.
  std::string Run(WalkTotals* totals);

 private:
  struct Device {
    const Scenario* scenario = nullptr;
    Disks disks;  // between two lives
    std::unique_ptr<MergeMachine> merge;
    std::unique_ptr<UndoMachine> undo;
    bool over = false;  // this life has nothing left to do
  };

  MachineOptions RandomOptions(const Scenario& scenario);
  std::string Begin(Device* device, bool undo);
  // One step; sets `over` at the end of the merge or undo.
  std::string Step(Device* device);
  void CutPower(Device* device);
  std::string ToTheEnd(Device* device, bool undo);

  const uint64_t seed_;
  const WalkOptions options_;
  Rng rng_;
  SectorStore store_;
  std::vector<Device> devices_;
  WalkTotals* totals_ = nullptr;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_WALK_H_
