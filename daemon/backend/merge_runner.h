// SPDX-License-Identifier: Apache-2.0
//
// merge_runner.h - carries out what the merge engine asks for.
//
// Works from idle tasks of the loop, so requests go first, and moves at most
// merge::kCommandBytesMax per turn, when the governor of all merges lets it.
// Its memory exists only while the merge has its turn: who has to wait for
// others comes to a window edge first. What is safe to do when is the engine's
// to know.
#ifndef DAEMON_BACKEND_MERGE_RUNNER_H_
#define DAEMON_BACKEND_MERGE_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/backend/mapped_memory.h"
#include "daemon/backend/merge_governor.h"
#include "daemon/backend/undo_opener.h"
#include "daemon/block/backend.h"
#include "daemon/cow/codec.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/merge/engine.h"

namespace dmu {

class MergeRunner : public MergeControl {
 public:
  // Blocks of staging memory, 2 MiB: windows through scratch then have the 510
  // entries that Android's daemon counts on.
  static constexpr uint32_t kStagingBlocks = merge::kStagingBlocksDefault;

  // All must outlive the runner; `codec` may be nullptr when nothing is
  // compressed.
  struct Parts {
    Loop* loop = nullptr;
    merge::Engine* engine = nullptr;
    const cow::Image* image = nullptr;
    Disk* base = nullptr;
    Disk* source = nullptr;
    Disk* cow = nullptr;
    cow::Codec* codec = nullptr;
    MergeGovernor* governor = nullptr;
    Task* merged = nullptr;  // posted when the whole merge is durable
  };
  explicit MergeRunner(const Parts& parts);
  ~MergeRunner() override;
  MergeRunner(const MergeRunner&) = delete;
  MergeRunner& operator=(const MergeRunner&) = delete;

  void KeepUndoLog(std::unique_ptr<Disk> log,
                   std::function<void(absl::Status)> done) override;
  void Start() override;
  void Pause() override;
  void SetRate(uint64_t rate_bytes_per_s) override;
  MergeStatus status() const override;
  void SetListener(Task* changed) override;

  // A lease was released.
  void OnLeaseReleased();

  // Begins nothing more; `stopped` is posted when nothing is in flight. Called
  // once, last.
  void Stop(Task* stopped);

 private:
  // Commands carried out at a time.
  static constexpr uint32_t kSlots = 4;
  struct Slot {
    DiskOp op;
    merge::Command command;
    MergeRunner* runner = nullptr;
    bool busy = false;
  };

  static void OnStep(void* context);
  static void OnDone(void* context);

  // Whether the next command may be asked for; else step_ comes when it may.
  bool MayStep();
  bool Attach();
  void EndTurn();
  void ReleaseMemory();
  void Step();
  void Issue(Slot* slot);
  void Finish(Slot* slot);
  void Stopped();
  void DescribeFailure();
  void OnUndoLog(absl::Status status, uint64_t limit_bytes,
                 const std::function<void(absl::Status)>& done);
  void NotifyIfChanged();
  // Room of a slot for data as it is in the file, and for one block decoded
  // from it.
  size_t room_bytes() const {
    return kBlockBytes + parts_.image->stored_bytes_max;
  }
  uint8_t* StoredBytes(const Slot& slot) const;
  bool DecodesInPlace(const merge::Command& command) const;
  IoStatus Decode(const Slot& slot) const;

  const Parts parts_;
  Slot slots_[kSlots];
  uint32_t busy_ = 0;
  Task step_;
  Task* listener_ = nullptr;
  Task* stopped_ = nullptr;
  MergeGovernor::Member member_;
  bool waits_for_lease_ = false;
  bool no_memory_ = false;
  bool wanted_ = false;   // Start was called, and neither Pause nor an end came
  bool to_edge_ = false;  // goes on to the window's edge, and stops there
  // For the rate: since when it is wanted, and what was merged before.
  uint64_t wanted_since_us_ = 0;
  uint64_t wanted_from_bytes_ = 0;
  // kFailed: the engine's sentence, and which file and error it was.
  char error_[512] = "";
  IoCause cause_;  // of the first command that failed since Start
  // What the listener was told last.
  MergeStatus::State told_state_ = MergeStatus::State::kIdle;
  uint64_t told_ops_ = 0;

  std::unique_ptr<merge::Workspace> workspace_;
  MappedMemory staging_;
  MappedMemory stored_;  // room_bytes() for each slot
  MappedMemory undo_buffer_;
  std::unique_ptr<Disk> undo_;
  std::unique_ptr<UndoOpener> undo_opener_;  // while a log is being loaded
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_MERGE_RUNNER_H_
