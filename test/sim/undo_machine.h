// SPDX-License-Identifier: Apache-2.0
//
// undo_machine.h - one life of an undo between two power cuts: loaders and undo
// engine over simulated disks. What the disks can be after each write is the
// caller's to explore: there the target must be readable, merges must go on and
// undos must end with the old image.
#ifndef TEST_SIM_UNDO_MACHINE_H_
#define TEST_SIM_UNDO_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "daemon/cow/image.h"
#include "daemon/merge/undo_engine.h"
#include "daemon/merge/undo_loader.h"
#include "test/sim/command_runner.h"
#include "test/sim/scenario.h"

namespace dmu::sim {

class UndoMachine {
 public:
  UndoMachine(const Scenario& scenario, Disks disks, const FaultOptions& faults,
              uint64_t seed);

  // Loads COW file and log. False: error() says why.
  bool Load();
  // Nothing was ever overwritten under this log.
  bool empty() const { return empty_; }
  bool Step();
  // The base is the old image, and the COW file says that no merge has begun.
  bool finished() const { return finished_; }
  bool stopped() const { return stopped_; }
  const std::string& error() const { return error_; }
  bool wrote() { return runner_.TakeWrote(); }

  CommandRunner& runner() { return runner_; }
  const Disks& disks() const { return runner_.disks(); }
  merge::UndoEngine& engine() { return *engine_; }

 private:
  bool Error(const std::string& what);
  bool Finish();

  const Scenario& scenario_;
  const FaultOptions faults_;
  CommandRunner runner_;
  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<merge::UndoLoader> log_;
  std::unique_ptr<merge::UndoEngine> engine_;
  uint32_t restarts_ = 0;
  bool empty_ = false;
  bool finished_ = false;
  bool stopped_ = false;
  std::string error_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_UNDO_MACHINE_H_
