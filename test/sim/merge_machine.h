// SPDX-License-Identifier: Apache-2.0
//
// merge_machine.h - one life of a merging daemon between two power cuts:
// loader, engine, view and reads, over two simulated disks.
//
// Commands are carried out in a random order among those under way, reads as
// late as possible, and reads of the device go on all the time: every block is
// compared with the target after every step, and some reads are left in flight
// under their lease across steps. A mistake is a sentence, not an abort, so
// that tests can also show that a broken disk is noticed.
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
#include "test/sim/rng.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {

// Which flush a broken disk does not do.
enum class LostFlush : uint8_t {
  kNone,
  kStart,    // before the first write of a life
  kBase,     // after the window was applied
  kScratch,  // after the scratch data
  kState,    // after state 2
  kCommit,   // after the counter
};

struct MachineOptions {
  uint32_t staging_blocks = 4;
  uint32_t window_ops = 512;
  uint32_t direct_ops_min = 32;
  LostFlush lost_flush = LostFlush::kNone;
  // The n-th command (from 1) fails once; 0: none.
  uint32_t fail_command = 0;
  // Every command fails with a chance of one in this; 0: none.
  uint32_t fail_one_in = 0;
  bool check_every_step = true;
};

class MergeMachine {
 public:
  MergeMachine(const Scenario& scenario, SimDisk base, SimDisk cow,
               const MachineOptions& options, uint64_t seed);
  ~MergeMachine();

  // Loads the COW file. False: error() says why.
  bool Load();
  // Every block reads as the target. False: error() names the block.
  bool CheckAllBlocks();
  // Starts the merge and does one thing: hands out a command or completes one.
  // False at the end (finished() or an error).
  bool Step();
  // The merge is done and the base is the target.
  bool finished() const { return finished_; }
  const std::string& error() const { return error_; }
  // Whether the last step submitted a write: the states a power cut can leave
  // have changed.
  bool wrote() const { return wrote_; }
  uint32_t commands() const { return commands_done_; }
  uint32_t lease_waits() const { return lease_waits_; }
  // Commands in the order they were handed out, one per line.
  const std::string& transcript() const { return transcript_; }

  const SimDisk& base() const { return base_; }
  const SimDisk& cow() const { return cow_; }
  const cow::Image& image() const { return *image_; }
  merge::Engine& engine() { return *engine_; }

 private:
  struct Running {
    merge::Command command;
    bool is_write = false;
    uint32_t ticket = 0;
  };
  // A read of one block of the device, its bytes still to be fetched.
  struct Read {
    uint32_t block = 0;
    merge::Piece piece;
    uint64_t source_offset = 0;  // kCopy, kXor
    merge::Lease lease;
  };

  void HandOut(const merge::Command& command);
  bool Finish(Running running);
  bool Execute(const Running& running);
  bool LoadUnit(const cow::Op& op, const uint32_t* check, ByteSpan out) const;
  bool FlushIsLost(const merge::Command& command) const;
  bool FinishMerge();

  bool ReadBlock(uint32_t block, std::vector<uint8_t>* out);
  bool ReadRecord(uint32_t op_number, cow::Op* op) const;
  void BeginRead(uint32_t block);
  bool EndRead(Read* read);
  bool EndAllReads();
  bool Compare(uint32_t block, ConstByteSpan bytes, const char* how);
  bool Error(const std::string& what);

  const Scenario& scenario_;
  SimDisk base_;
  SimDisk cow_;
  const MachineOptions options_;
  Rng rng_;
  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<cow::Codec> codec_;
  std::unique_ptr<merge::Engine> engine_;
  std::unique_ptr<merge::View> view_;
  std::unique_ptr<merge::Workspace> workspace_;
  std::vector<uint8_t> staging_;
  std::deque<Running> running_;
  std::deque<std::unique_ptr<Read>> reads_;
  merge::Command::Kind last_write_cow_ = merge::Command::Kind::kReadSector;
  uint32_t commands_done_ = 0;
  uint32_t restarts_ = 0;
  uint32_t lease_waits_ = 0;
  bool wrote_ = false;
  bool finished_ = false;
  std::string error_;
  std::string transcript_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_MERGE_MACHINE_H_
