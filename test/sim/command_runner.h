// SPDX-License-Identifier: Apache-2.0
//
// command_runner.h - carries out an engine's commands on simulated disks, in
// any order among those under way, and does them all the harm that disks do.
//
// Owns the disks. Writes are submitted when a command is handed out, so that a
// power cut may keep or lose any part of them from then on, and completed or
// failed later.
#ifndef TEST_SIM_COMMAND_RUNNER_H_
#define TEST_SIM_COMMAND_RUNNER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/image.h"
#include "daemon/merge/command.h"
#include "test/sim/rng.h"
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
  kUndo,     // after the old content of a window
};

struct FaultOptions {
  LostFlush lost_flush = LostFlush::kNone;
  // The n-th command (from 1) fails once; 0: none.
  uint32_t fail_command = 0;
  // Every command fails with a chance of one in this; 0: none. A write that
  // fails was done in part (a short write, a full disk), a read that fails
  // leaves garbage, a flush that fails may have dropped what it was for.
  uint32_t fail_one_in = 0;

  bool any() const { return fail_command != 0 || fail_one_in != 0; }
};

// The disks of a merge. `undo`: where the merge keeps an undo log.
struct Disks {
  SimDisk base;
  SimDisk cow;
  std::optional<SimDisk> undo;
};

// What was done, in bytes and calls.
struct Work {
  uint64_t base_bytes = 0;     // written
  uint64_t scratch_bytes = 0;  // to the scratch region
  uint64_t header_bytes = 0;   // to the first sector of the COW file
  uint64_t undo_bytes = 0;
  uint64_t flushes = 0;
  uint64_t commits = 0;
  uint64_t scratch_windows = 0;

  Work& operator+=(const Work& other);
};

class CommandRunner {
 public:
  CommandRunner(Disks disks, const FaultOptions& faults, uint64_t seed);

  // Before the first command with a unit.
  void SetCodec(cow::Codec* codec) { codec_ = codec; }

  bool empty() const { return running_.empty(); }
  // False: it reaches beyond the end of its disk.
  bool HandOut(const merge::Command& command);
  struct Ended {
    bool good = true;  // false: it reached beyond the end of its disk
    uint32_t id = 0;
    IoStatus status = IoStatus::kOk;
  };
  // Ends one of those under way.
  Ended FinishOne();

  // Since the last call: whether a write was submitted, so that the states a
  // power cut can leave have changed.
  bool TakeWrote();

  Disks& disks() { return disks_; }
  const Disks& disks() const { return disks_; }
  Rng* rng() { return &rng_; }
  uint32_t ended() const { return ended_; }
  const Work& work() const { return work_; }
  // Commands in the order they were handed out, one per line.
  const std::string& transcript() const { return transcript_; }

  // Reads and decodes a unit; also for readers.
  IoStatus LoadUnit(const cow::Op& op, const uint32_t* check,
                    ByteSpan out) const;

 private:
  struct Running {
    merge::Command command;
    uint32_t ticket = 0;
  };

  SimDisk& DiskOf(merge::Command::Kind kind);
  void Count(const merge::Command& command);
  bool FlushIsLost(merge::Command::Kind kind) const;
  IoStatus Execute(const Running& running);
  void Break(const Running& running);

  Disks disks_;
  const FaultOptions faults_;
  Rng rng_;
  cow::Codec* codec_ = nullptr;
  std::deque<Running> running_;
  merge::Command::Kind last_cow_write_ = merge::Command::Kind::kReadSector;
  uint32_t ended_ = 0;
  bool wrote_ = false;
  Work work_;
  std::string transcript_;
};

// Reads `disk` as `loader` (cow::Loader, merge::UndoLoader) wants; "" or what
// went wrong.
template <class Loader>
std::string Load(const SimDisk& disk, Loader* loader) {
  std::vector<uint8_t> bytes;
  while (!loader->done()) {
    bytes.resize(loader->want().bytes);
    if (disk.Read(loader->want().offset, bytes) != IoStatus::kOk) {
      return "the loader reads what cannot be read";
    }
    const auto status = loader->Feed(bytes);
    if (!status.ok()) return "load: " + std::string(status.message());
  }
  return "";
}

}  // namespace dmu::sim

#endif  // TEST_SIM_COMMAND_RUNNER_H_
