// SPDX-License-Identifier: Apache-2.0
//
// engine.h - folds a COW file into its base, window by window.
//
// A pure state machine: Next() says what is to be read or written, Done() takes
// the results in any order. No file, no clock, no allocation after
// construction; so the daemon, an offline tool and the simulator drive the same
// code. Where a block's truth is at any moment is in view.h.
//
// Durable invariants. "Counter" and "state" are the two merge fields of the COW
// file, M the merge order, W = M[counter, counter + k) the window at work.
//  [1] No block of the base is written while a read is in flight that depends
//      on the source of an op that W overwrites: of one before W and, when W
//      overwrites sources of its own, of W (lease.h).
//  [2] If an op of W writes a block that an op of W reads, no block of W is
//      written before the scratch region holds all of W and state 2 is durable.
//      Otherwise W can be repeated: what its ops read stays as it was.
//  [3] The counter grows only after the flush of the base that follows the last
//      write of W, and the next write to base or scratch follows the flush of
//      that commit.
//  [4] Counter and state change together, in one write of the first sector.
//  [5] State 2 with counter n names exactly W: the scratch data and all entries
//      outside the first sector are durable before the state, and the entries
//      inside the first sector are written with it.
//  [6] Nothing else of the COW file ever changes.
//  [7] The counter and state that were found when the file was loaded are made
//      durable before the first write: a merge that was killed, without a power
//      cut, may have left them in a cache only. So with an undo log.
//  [8] State 1 is durable before the first write to the base, where there is a
//      state: a file that says "not begun" has an untouched base.
//  [9] Every unit of a fill of W has decoded before the first block of that
//      fill is written.
// [10] In every reachable state of the disks each block reads as the target.
// [11] With an undo log: what a block of W held is durable in the log before
//      the first block of W is written, and has been since the merge began.
//
// A failed command stops the engine where it is (state kFailed). A window that
// is in staging stays there and goes on being read from there. Start goes on
// with the first command that failed; after a failed flush with the stage's
// first write, because any of them may have been dropped. Progress is
// exchangeable with Android's snapuserd, with one caveat: it groups what is
// pending by 510 entries and, taking over in state 2, counts on the group being
// staged whole. So give 510 blocks of staging or more where such a hand-over
// may happen; shorter windows through scratch are legal but must be finished
// first.
#ifndef DAEMON_MERGE_ENGINE_H_
#define DAEMON_MERGE_ENGINE_H_

#include <cstdint>
#include <vector>

#include "daemon/base/types.h"
#include "daemon/cow/image.h"
#include "daemon/merge/command.h"
#include "daemon/merge/lease.h"
#include "daemon/merge/plan.h"
#include "daemon/merge/undo_format.h"

namespace dmu::merge {

// Tables the engine needs while it merges, about 120 bytes for each op of a
// window and 40 KiB; an engine that only answers where things are has none.
// Contents are the engine's.
struct Workspace {
  static constexpr uint32_t kPageOps = cow::OpTable::kPageOps;

  // For windows of at most so many ops and blocks of data, from 1 to
  // kWindowOpsLimit.
  // valid() is false without memory.
  explicit Workspace(uint32_t window_ops)
      : window(window_ops), plan(window_ops) {}
  bool valid() const { return window.valid() && plan.valid(); }

  Window window;
  Plan plan;
  uint8_t sector[kSectorBytes];
  uint8_t op_page[cow::OpTable::kPageBytesMax];
  cow::Op ops[kPageOps];  // of the page, decoded
  uint8_t checks[4 * kPageOps];
  uint8_t sequence[4 * kPageOps];
  uint8_t scratch_metadata[cow::kScratchMetadataBytes - 1];
  uint32_t new_blocks[cow::kScratchEntriesMax];
  UndoGroup undo_group;
};

class Engine {
 public:
  enum class State : uint8_t {
    kIdle,     // at a window edge; nothing is asked for
    kRunning,  // Next has something to say, or will have
    kDone,     // counter equals |M|: the base is the target image
    kFailed,   // error() says why; Start tries again
  };
  enum class Turn : uint8_t {
    kCommand,    // *command was filled
    kWaitDone,   // nothing before the next Done
    kWaitLease,  // nothing before a lease is released
    kStop,       // not running, and no command is under way
  };

  struct Options {
    // See plan.h. 32 blocks: what the second write and the two flushes of a
    // window through scratch cost is then about repaid.
    uint32_t direct_ops_min = 32;
    // Bytes of the ops before the counter (merged_bytes.h).
    uint64_t merged_bytes = 0;
    // What else forbids the merge: a sentence that outlives the engine.
    const char* refusal = "";
  };

  // `image` must outlive the engine. base_bytes, cow_bytes: sizes of the base
  // and of the file or device that holds the COW.
  Engine(const cow::Image& image, uint64_t base_bytes, uint64_t cow_bytes,
         const Options& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Why this image cannot be merged into this base, a sentence; "" if it can.
  // Asked once, at construction.
  const char* refusal() const { return refusal_; }

  // Has the merge keep an undo log, which ends at `tail` and may grow to
  // limit_bytes. All that the merge may have overwritten so far is in it:
  // undo_begin_min() <= tail.position. Before Attach.
  void KeepUndoLog(const UndoTail& tail, uint64_t limit_bytes);
  bool keeps_undo_log() const { return keeps_undo_; }
  uint64_t undo_begin_min() const { return merged_ops_ + scratch_.size(); }
  // The log as far as it is durable.
  const UndoTail& undo_tail() const { return undo_durable_; }

  // Lends memory until Detach. `staging`: whole blocks, of which at most the
  // workspace's window size counts; at least one unit of the file
  // (header.unit_bytes_max()). With an undo log `undo_buffer` is
  // kUndoBufferBytes long, else empty.
  static constexpr uint32_t kUndoBufferBytes =
      (1 + kUndoGroupBlocksMax) * kBlockBytes;
  void Attach(Workspace* workspace, ByteSpan staging,
              ByteSpan undo_buffer = ByteSpan());
  // Takes the memory back; only with no command under way and no window in
  // staging.
  void Detach();
  bool attached() const { return workspace_ != nullptr; }

  // Told of each commit once it is durable, before anything else begins; what
  // it calls of the engine must be const. window: what was committed, with all
  // of its entries; nullptr for one that was found in the scratch region.
  using OnCommit = void (*)(void* context, const Window* window);
  void SetOnCommit(OnCommit on_commit, void* context) {
    on_commit_ = on_commit;
    on_commit_context_ = context;
  }

  // Begins, goes on or tries again; needs memory unless there is a refusal(),
  // which makes it kFailed. No effect while running or when done.
  void Start();
  // Stops at the next window edge.
  void Pause();

  Turn Next(Command* command);
  // Ends a command; `id` as Next gave it.
  void Done(uint32_t id, IoStatus status);

  State state() const { return state_; }
  const char* error() const { return error_; }
  uint64_t merged_ops() const { return merged_ops_; }
  uint64_t total_ops() const { return image_.index.merge_count(); }
  uint64_t merged_bytes() const { return merged_bytes_; }
  uint32_t commands_under_way() const { return under_way_; }

  // The block's target data in staging, or nullptr. Staging is one piece:
  // blocks with adjacent data may be read as one. Valid until the next call
  // that is not const.
  const uint8_t* Staged(uint32_t block) const;
  // Whether the block's target data is in the scratch region of the COW file,
  // left there by a crash; *offset: file offset of its 4096 bytes.
  bool InScratch(uint32_t block, uint64_t* offset) const;
  // The first block above `block` that is InScratch; UINT32_MAX if none.
  uint32_t NextInScratch(uint32_t block) const;

  LeaseSet* leases() { return &leases_; }

  // Aborts when what must hold between calls does not.
  void CheckInvariants() const;

 private:
  enum class Stage : uint8_t {
    kEdge,         // no window
    kReadSector,   // the first sector is read and flushed, once per Attach
    kFlushLog,     // [7] for the undo log
    kMark,         // state 1, when nothing has been merged yet
    kPlan,         // records of M's next entries are read and offered
    kSaveRead,     // old contents of W's blocks, a group of the undo log
    kSaveWrite,    // go there
    kGather,       // W's new contents go to staging; of xors what they read
    kGatherXor,    // and what makes it new
    kLoadScratch,  // replay: as much of W as fits goes to staging
    kStageData,    // staging goes to the scratch region
    kStageState,   // state 2
    kApply,        // staging goes to the base
    kCommit,       // counter and state 1
  };
  enum class Emit : uint8_t { kCommand, kWait, kNothing };
  struct UnderWay {
    bool used = false;
    Command::Kind kind = Command::Kind::kReadSector;
    uint64_t offset = 0;
    uint32_t length_bytes = 0;
    uint32_t op_block = 0;  // units: first block it gives
    uint32_t cursor = 0;    // where the stage was when it asked for this
  };

  // Next, step by step.
  bool MustWaitForLeases() const;
  Emit EmitStage(Command* command);
  Emit EmitSector(Command* command, Command::Kind kind);
  Emit EmitPlan(Command* command);
  Emit EmitSaveRead(Command* command);
  Emit EmitSaveWrite(Command* command);
  Emit EmitGather(Command* command);
  Emit EmitGatherXor(Command* command);
  Emit EmitLoadScratch(Command* command);
  Emit EmitStageData(Command* command);
  Emit EmitApply(Command* command);
  bool EmitFlush(Command* command);
  Turn Register(Command* command);
  // The stage is complete.
  void LeaveStage();
  void LeaveEdge();
  void Enter(Stage stage);
  void EnterLoadScratch();
  // The entries from `first` on that fit into staging together.
  void EnterFill(uint32_t first);
  // kSave*: entries of W that the log does not have, group by group.
  void EnterSave();
  void SealGroup();
  void Commit();

  // kPlan: the walk through M (engine_walk.cc).
  void Seek(uint64_t position);
  void Advance();
  // Reads what must be there to know the op at walk_position_. kNothing: it is
  // there, or the walk failed.
  Emit EmitWalk(Command* command);
  Emit ReadPage(Command* command, uint32_t op_number);
  Emit ReadChecks(Command* command);
  Emit ReadSequence(Command* command, uint32_t position);
  bool SequenceInPage(uint32_t position) const;
  void TakePage();
  void FailChanged(uint32_t op_number);
  bool IsAsLoaded(const cow::Op& op, const cow::Index::Found& found) const;
  // Takes the op of the walk into the window; false when the window is complete
  // or on an error.
  bool Offer();
  void CheckSector();

  void Fail(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void FailCommand(const UnderWay& command, IoStatus status);
  void EnterFailed();

  uint8_t* StagingAt(uint32_t slot) const {
    return staging_.data() + size_t{slot} * kBlockBytes;
  }
  uint32_t staging_blocks() const {
    return static_cast<uint32_t>(staging_.size() / kBlockBytes);
  }
  bool has_scratch() const { return image_.header.has_scratch(); }
  bool has_checks() const { return image_.unit_checks_offset != 0; }
  // Of the scratch metadata, what lies in the first sector and what behind.
  uint32_t metadata_begin() const {
    return static_cast<uint32_t>(image_.header.ScratchStateOffset()) + 1;
  }
  uint32_t metadata_in_sector() const {
    return kSectorBytes - metadata_begin();
  }
  uint64_t window_end() const { return merged_ops_ + window_ops_; }
  bool is_last_fill() const {
    return replay_ || fill_end_ == workspace_->window.ops;
  }
  // [1]: leases on positions below this forbid a write to the base.
  uint64_t lease_end() const {
    return workspace_->window.through_scratch ? window_end() : merged_ops_;
  }

  const cow::Image& image_;
  const Options options_;
  // What is rewritten of the first sector; less than a sector only when the
  // file ends before.
  const uint32_t sector_bytes_;
  const char* refusal_ = "";
  // What a crash left in the scratch region, ascending by block.
  std::vector<cow::ScratchEntry> scratch_;
  bool replay_ = false;  // scratch_ is W and has not been committed

  Workspace* workspace_ = nullptr;
  ByteSpan staging_;

  State state_ = State::kIdle;
  Stage stage_ = Stage::kEdge;
  bool pause_ = false;
  bool failing_ = false;     // kFailed as soon as nothing is under way
  uint64_t merged_ops_ = 0;  // the durable counter
  uint64_t merged_bytes_ = 0;
  OnCommit on_commit_ = nullptr;
  void* on_commit_context_ = nullptr;

  // W.
  uint32_t window_ops_ = 0;     // entries of M it commits; 0: none
  bool planned_ = false;        // kPlan: the window takes no more entries
  bool staged_ = false;         // workspace_->window.staged tells the truth
  bool state_durable_ = false;  // state 2 with the counter, for this W
  bool base_flushed_ = false;   // all of W is durable in the base
  uint32_t fill_first_ = 0;     // entries of W that are or go to staging now:
  uint32_t fill_end_ = 0;       // [fill_first_, fill_end_)
  uint32_t replay_next_ = 0;    // scratch_ entries in the base so far

  // Progress within the stage.
  uint32_t cursor_ = 0;
  uint32_t stage_cursor_ = 0;  // before the command that is being emitted
  uint32_t retry_cursor_ = UINT32_MAX;  // the first of its commands that failed
  bool flush_sent_ = false;

  bool sector_valid_ = false;
  bool marked_ = false;  // [8] holds

  // The undo log.
  bool keeps_undo_ = false;
  uint64_t undo_limit_bytes_ = 0;
  UndoTail undo_durable_;
  UndoTail undo_;             // with what is written and not flushed
  uint32_t group_entry_ = 0;  // behind the entries of W in the group at work
  ByteSpan undo_buffer_;      // its header block, then its data

  // The walk. Which of op and rank leads depends on the order and on whether
  // the position is in the rest of M.
  uint64_t walk_position_ = UINT64_MAX;  // UINT64_MAX: nowhere
  uint32_t walk_op_ = 0;
  uint32_t walk_rank_ = 0;
  cow::OpTable::Page page_;  // in the workspace; ops 0: none
  bool page_decoded_ = false;
  bool checks_valid_ = false;  // the workspace's checks are the page's
  uint32_t sequence_first_ = 0;
  uint32_t sequence_count_ = 0;

  UnderWay commands_[kCommandsMax];
  uint32_t under_way_ = 0;
  LeaseSet leases_;
  char error_[256] = "";
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_ENGINE_H_
