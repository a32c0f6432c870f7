// SPDX-License-Identifier: Apache-2.0
//
// loader.h - reads and judges a COW file, piece by piece, without doing I/O.
//
// The caller asks want(), brings those bytes from wherever the file is, and
// feeds them: while (!done()). So the daemon's loop never waits for a large
// file, and tools drive the same code with pread. Every bound is checked before
// memory is taken; a bad file gives one sentence and nothing else. Memory while
// reading is what the Image keeps.
//
// Status codes: kDataLoss - not a COW, corrupt, truncated or incomplete;
// kUnimplemented - a version or size that is not served here;
// kResourceExhausted - no memory for the index;
// kInvalidArgument - no such label.
#ifndef DAEMON_COW_LOADER_H_
#define DAEMON_COW_LOADER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/cow/extension.h"
#include "daemon/cow/format.h"
#include "daemon/cow/image.h"
#include "daemon/cow/index.h"
#include "daemon/cow/index_builder.h"
#include "daemon/cow/progress.h"
#include "daemon/cow/slot_walk.h"

namespace dmu::cow {

class Loader {
 public:
  struct Want {
    uint64_t offset = 0;
    // <= kChunkBytes; 0 for an empty file, when done, and when there is work
    // to do that needs no bytes: Feed then does a part of it.
    uint32_t bytes = 0;
  };
  static constexpr uint32_t kChunkBytes = 64 * 1024;

  // file_bytes: size of the file or device that holds the COW. label: read the
  // file as it was when this label was written. Such an Image gives the target
  // as far as it was known then; it has no merge order.
  explicit Loader(uint64_t file_bytes,
                  std::optional<uint64_t> label = std::nullopt);
  ~Loader();

  Want want() const;
  // Takes exactly the bytes wanted. After an error the loader is dead.
  absl::Status Feed(ConstByteSpan bytes);
  bool done() const;

  // Hands over the result; done() must hold.
  std::unique_ptr<Image> Take();

 private:
  // What the bytes wanted next are. Each step checks what it can with what the
  // steps before it found; steps without anything to read are passed over.
  enum class Step : uint8_t {
    kHeader,
    kScratch,    // only in state 2
    kResume,     // version 3: the resume points
    kExtension,  // version 3: the record, if there is one
    kOps,        // every op by itself; the data's place; fills the index
    kFooter,     // version 2
    kTrailer,    // version 2: the record, if the footer speaks of one
    kSort,       // reads nothing
    kSequence,   // needs the index
    kListed,     // the op table again: version 2's order without a sequence
    kFinish,     // reads nothing
    kOrder,      // and again: whether the merge order can be kept
    kDone,
    kFailed,
  };

  absl::Status FeedStep(ConstByteSpan bytes);
  absl::Status TakeHeader(ConstByteSpan bytes);
  absl::Status TakeScratch(ConstByteSpan bytes);
  absl::Status TakeRecord(ConstByteSpan bytes);
  absl::Status TakeResumePoints(ConstByteSpan bytes);
  absl::Status TakeOpsV3(ConstByteSpan bytes);
  absl::Status TakeSlotsV2(ConstByteSpan bytes);
  absl::Status TakeSlotV2(const Op& op);
  absl::Status TakeFooter(ConstByteSpan bytes);
  absl::Status TakeSequence(ConstByteSpan bytes);
  absl::Status TakeListed(ConstByteSpan bytes);
  absl::Status TakeOrder(ConstByteSpan bytes);

  // One data op, of any version (loader_ops.cc).
  absl::Status TakeOp(const Op& op);
  absl::Status CheckData(const Op& op) const;
  absl::Status CheckUnit(const Op& op) const;
  absl::Status CheckSource(const Op& op);
  void CheckOrder(const Op& op, uint32_t number);

  // Goes to `step`, or to the next one that has bytes.
  absl::Status Enter(Step step);
  // Whether the step has bytes; it sets the range then.
  absl::StatusOr<bool> Begin(Step step);
  absl::StatusOr<bool> BeginOps();
  void BeginSort();
  bool BeginSequence();
  bool BeginPages();
  bool NextPage();
  // Versions 1 and 2: the range of the next slots.
  absl::Status WantSlots();
  // What ends the ops: bounds that need all of them.
  absl::Status CheckTotals() const;
  absl::Status SortStep();
  absl::Status FinishStep();
  // From here on the index is complete.
  absl::Status TakeIndex();
  void SetRange(uint64_t offset, uint64_t bytes);

  uint32_t ops_taken() const { return builder_.added(); }

  const uint64_t file_bytes_;
  const std::optional<uint64_t> label_;
  Step step_ = Step::kHeader;
  bool working_ = false;      // a step that reads nothing is not through
  uint64_t next_offset_ = 0;  // of the current step
  uint64_t end_offset_ = 0;
  std::unique_ptr<Image> image_;
  IndexBuilder builder_;
  OpsHasher hasher_;
  ScratchState scratch_state_ = ScratchState::kNotStarted;
  std::vector<ScratchEntry> scratch_;
  uint64_t ops_wanted_ = 0;     // version 3: up to the label or the end
  uint64_t data_next_ = 0;      // where the next op's data is
  bool has_ordered_ = false;    // copies or xors
  bool lists_ordered_ = false;  // kListed is needed for them

  // Versions 1 and 2.
  std::optional<SlotWalk> walk_;
  uint64_t slots_ = 0;  // all that were walked over
  uint64_t footer_at_ = 0;
  uint64_t record_at_ = 0;  // what the footer says; 0: nothing
  bool slots_ended_ = false;

  uint32_t page_ = 0;          // kListed, kOrder
  size_t sequence_chunk_ = 0;  // kSequence
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_LOADER_H_
