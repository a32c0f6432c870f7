// SPDX-License-Identifier: Apache-2.0
//
// undo_engine.h - takes a merge back, window by window, with its undo log.
//
// A merge run backwards: at every durable state the COW file and the base
// together are those of some merge under way, so the target image can be read,
// and whoever does not know of the log, Android's daemon too, may merge
// forwards again from there. At the end the base is the old image and the
// COW file says that no merge has begun.
//
// A pure state machine like Engine, with the same commands; offline, so there
// are no reads to wait for.
//
// One step takes back W = M[n, counter), one or more groups of the log:
//   W writes nothing that it reads       counter n, state 1; flush
//                                        old content to the base; flush
//   otherwise                            W's new content to the scratch region;
//                                        flush; counter n, state 2; flush
//                                        old content to the base; flush
//                                        state 1; flush
// The first kind may lower the counter first: W's ops become pending, and what
// they read is no block of W. Sources that later windows overwrote have been
// brought back before.
//
// Whatever is there when it begins - a merge or an undo that was cut off
// anywhere - old content of all positions from the counter on goes to the base
// first. That is idempotent, and harmless: no pending op's block is read from
// the base other than as a source.
#ifndef DAEMON_MERGE_UNDO_ENGINE_H_
#define DAEMON_MERGE_UNDO_ENGINE_H_

#include <cstdint>
#include <vector>

#include "daemon/base/types.h"
#include "daemon/cow/image.h"
#include "daemon/merge/command.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/undo_format.h"
#include "daemon/merge/undo_loader.h"

namespace dmu::merge {

class UndoEngine {
 public:
  using State = Engine::State;
  using Turn = Engine::Turn;  // never kWaitLease

  // `image` and `log` must outlive the engine; the log was loaded for kUndo.
  // The base holds as many blocks as the larger of both images.
  UndoEngine(const cow::Image& image, uint64_t cow_bytes,
             const UndoLoader& log);
  UndoEngine(const UndoEngine&) = delete;
  UndoEngine& operator=(const UndoEngine&) = delete;

  // Begins, or goes on with the first command that failed; after a failed flush
  // with the first write that it was for.
  void Start();
  // Stops between two steps.
  void Pause() { pause_ = state_ == State::kRunning; }

  Turn Next(Command* command);
  void Done(uint32_t id, IoStatus status);

  State state() const { return state_; }
  const char* error() const { return error_; }
  // The durable counter: ops still to be taken back.
  uint64_t merged_ops() const { return counter_; }
  uint64_t restored_blocks() const { return restored_blocks_; }
  uint64_t steps() const { return steps_; }

 private:
  enum class Stage : uint8_t {
    kReadSector,
    kNoteDurable,   // the log: how far it is whole
    kRestoreRead,   // group_ of the log
    kRestoreWrite,  // its blocks of [from_, until_) to the base
    kSettle,        // state 1 with the counter
    kScratchGroup,  // header of group_
    kScratchBase,   // what the base has of its blocks, which is new content
    kScratchWrite,  // to the scratch region
    kScratchNames,  // the region's metadata
    kLower,         // counter n, state 1 or 2
    kForget,        // counter 0, state 0
  };
  enum class Emit : uint8_t { kCommand, kNothing };

  void Enter(Stage stage);
  Emit EmitStage(Command* command);
  Emit EmitSector(Command* command, Command::Kind kind);
  Emit EmitGroupRead(Command* command);
  Emit EmitRun(Command* command, Command::Kind kind);
  bool EmitFlush(Command* command);
  void LeaveStage();
  void NextStep();
  void BeginRestore(uint32_t first, uint32_t end, uint64_t from,
                    uint64_t until);
  void NextGroup();
  bool TakeGroup(bool with_data);
  void Fail(const Command& command, IoStatus status);
  void FailStage(const char* sentence, uint64_t offset);
  void EnterFailed();
  uint8_t* data() { return buffer_.data() + kBlockBytes; }
  bool IsOf(const UndoEntry& entry) const {
    return entry.position >= from_ && entry.position < until_;
  }
  uint32_t metadata_begin() const {
    return static_cast<uint32_t>(image_.header.ScratchStateOffset()) + 1;
  }

  const cow::Image& image_;
  const UndoLoader& log_;
  const uint32_t sector_bytes_;

  State state_ = State::kIdle;
  Stage stage_ = Stage::kReadSector;
  bool pause_ = false;
  uint64_t counter_ = 0;
  uint64_t lower_to_ = 0;
  bool through_scratch_ = false;

  // Groups at work, and what of them.
  uint32_t first_group_ = 0;
  uint32_t end_group_ = 0;
  uint32_t group_index_ = 0;
  uint64_t from_ = 0;
  uint64_t until_ = 0;
  UndoGroup group_;

  uint32_t cursor_ = 0;
  bool flush_sent_ = false;
  uint32_t under_way_ = 0;
  bool failing_ = false;
  bool repeat_stage_ = false;  // what failed was more than one command
  uint32_t retry_cursor_ = UINT32_MAX;
  struct UnderWay {
    bool used = false;
    uint32_t cursor = 0;  // where the stage was when it asked for this
    Command command;
  };
  UnderWay commands_[kCommandsMax];

  uint64_t restored_blocks_ = 0;
  uint64_t steps_ = 0;
  std::vector<uint8_t> buffer_;    // header block and data of a group
  std::vector<uint8_t> metadata_;  // of the scratch region
  std::vector<uint32_t> new_blocks_;
  uint8_t sector_[kSectorBytes];
  uint8_t super_[kSectorBytes];
  char error_[256] = "";
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_UNDO_ENGINE_H_
