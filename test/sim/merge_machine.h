// SPDX-License-Identifier: Apache-2.0
//
// merge_machine.h - one life of a merging daemon between two power cuts:
// loader, engine, view and reads, over simulated disks.
//
// Commands are carried out in a random order among those under way, reads as
// late as possible, and reads of the device go on all the time: every block is
// compared with the target after every step, and some reads are left in flight
// under their lease across steps. A mistake is a sentence, not an abort, so
// that tests can also show that a broken disk or engine is noticed.
#ifndef TEST_SIM_MERGE_MACHINE_H_
#define TEST_SIM_MERGE_MACHINE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/loader.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/view.h"
#include "test/sim/command_runner.h"
#include "test/sim/rng.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {

struct MachineOptions {
  uint32_t staging_blocks = 4;
  uint32_t window_ops = 512;
  uint32_t direct_ops_min = 32;
  FaultOptions faults;
  bool check_every_step = true;
  // There are bad sectors: a read may fail, but not lie.
  bool reads_may_fail = false;
};

class MergeMachine {
 public:
  // With disks.undo the merge keeps an undo log there; Load makes an empty one
  // a log.
  MergeMachine(const Scenario& scenario, Disks disks,
               const MachineOptions& options, uint64_t seed);
  ~MergeMachine();

  // Loads the COW file. False: error() says why.
  bool Load();
  // Every block reads as the target. False: error() names the block.
  bool CheckAllBlocks();
  // Starts the merge and does one thing: hands out a command or completes one.
  // False at the end (finished(), stopped() or an error).
  bool Step();
  // The merge is done and the base is the target.
  bool finished() const { return finished_; }
  // A command failed, and the merge may be started again by Step.
  bool stopped() const { return stopped_; }
  const std::string& error() const { return error_; }
  // Whether the last step submitted a write.
  bool wrote() { return runner_.TakeWrote(); }
  uint32_t lease_waits() const { return lease_waits_; }

  CommandRunner& runner() { return runner_; }
  const Disks& disks() const { return runner_.disks(); }
  const cow::Image& image() const { return *image_; }
  merge::Engine& engine() { return *engine_; }

 private:
  // A read of one block of the device, its bytes still to be fetched.
  struct Read {
    uint32_t block = 0;
    merge::Piece piece;
    uint64_t source_offset = 0;  // kCopy, kXor
    merge::Lease lease;
  };

  bool LoadUndoLog();
  bool FinishMerge();

  IoStatus ReadRecord(uint32_t op_number, cow::Op* op) const;
  void BeginRead(uint32_t block);
  bool EndRead(Read* read);
  IoStatus Fetch(const Read& read, std::vector<uint8_t>* bytes,
                 const char** how) const;
  bool EndAllReads();
  bool CheckRuns();
  bool Compare(uint32_t block, ConstByteSpan bytes, const char* how);
  bool Error(const std::string& what);

  const Scenario& scenario_;
  const MachineOptions options_;
  CommandRunner runner_;
  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<cow::Codec> codec_;
  std::unique_ptr<merge::Engine> engine_;
  std::unique_ptr<merge::View> view_;
  std::unique_ptr<merge::Workspace> workspace_;
  std::vector<uint8_t> staging_;
  std::vector<uint8_t> undo_buffer_;
  std::deque<std::unique_ptr<Read>> reads_;
  uint32_t restarts_ = 0;
  uint32_t lease_waits_ = 0;
  bool finished_ = false;
  bool stopped_ = false;
  std::string error_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_MERGE_MACHINE_H_
