// SPDX-License-Identifier: Apache-2.0
//
// loader.h - reads and judges a COW file, piece by piece, without doing I/O.
//
// The caller asks want(), brings those bytes from wherever the file is, and
// feeds them: while (!done()). So the daemon's loop never waits for a large
// file, and tools drive the same code with pread. Every bound is checked before
// memory is taken; a bad file gives one sentence and nothing else.
//
// Status codes: kDataLoss - not a COW, corrupt, truncated or incomplete;
// kUnimplemented - a version, op or compressor that is not served here;
// kResourceExhausted - no memory for the index;
// kFailedPrecondition (CheckBase) - it was made for a base of another size.
#ifndef DAEMON_COW_LOADER_H_
#define DAEMON_COW_LOADER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/cow/format.h"
#include "daemon/cow/index.h"
#include "daemon/cow/index_builder.h"
#include "daemon/cow/progress.h"

namespace dmu::cow {

// What a loaded file is.
struct Image {
  Header header;
  bool has_extension = false;
  Extension extension;  // valid when has_extension
  Index index;
  // Merge state found in the file, judged against the merge order.
  Progress progress;
  // Blocks the ops reach: target size is at least this many blocks. Equal to
  // extension.target_bytes / 4096 or less when there is an extension.
  uint64_t span_blocks = 0;
  // 1 + the highest source block a copy reads; 0 without copies.
  uint64_t source_blocks = 0;
  // Bytes the units take in the file.
  uint64_t data_bytes = 0;
  // Bytes of the base that a whole merge writes: 4096 * blocks of all ops.
  uint64_t merge_bytes = 0;
  // Empty when M may be merged: no op reads a block that an earlier op of M
  // overwrites. Otherwise a sentence; such a file is served but not merged.
  std::string order_error;
};

class Loader {
 public:
  struct Want {
    uint64_t offset = 0;
    uint32_t bytes = 0;  // <= kChunkBytes; 0 for an empty file, when done
  };
  static constexpr uint32_t kChunkBytes = 64 * 1024;

  // file_bytes: size of the file or device that holds the COW.
  explicit Loader(uint64_t file_bytes);
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
    kExtension,
    kScratch,   // only in state 2
    kOps,       // every op by itself; contiguity of the data; fills the index
    kSequence,  // needs the index
    kOrder,     // over the op table again, for the sources of copies
    kDone,
    kFailed,
  };

  absl::Status FeedStep(ConstByteSpan bytes);
  absl::Status TakeHeader(ConstByteSpan bytes);
  absl::Status TakeExtension(ConstByteSpan bytes);
  absl::Status TakeScratch(ConstByteSpan bytes);
  absl::Status TakeOps(ConstByteSpan bytes);
  absl::Status TakeOp(const Op& op, uint32_t number);
  absl::Status TakeReplace(const Op& op, uint32_t number);
  absl::Status TakeSequence(ConstByteSpan bytes);
  void TakeOrder(ConstByteSpan bytes);

  // What ends the kOps step: bounds that need every op.
  absl::Status CheckTotals() const;
  // From the sequence on the index is complete.
  void FinishIndex();
  void CheckOrder(const Op& op, uint32_t number);
  void CheckCopyOrder(const Op& op, uint32_t number);
  // Goes to the step that begins at `step` or the next one that has bytes.
  absl::Status Enter(Step step);
  // Begins reading [offset, offset + bytes) for the current step.
  void SetRange(uint64_t offset, uint64_t bytes);

  const uint64_t file_bytes_;
  Step step_ = Step::kHeader;
  uint64_t next_offset_ = 0;  // of the current step
  uint64_t end_offset_ = 0;
  std::unique_ptr<Image> image_;
  IndexBuilder builder_;
  ScratchState scratch_state_ = ScratchState::kNotStarted;
  std::vector<ScratchEntry> scratch_;
  uint32_t header_crc_ = 0;
  uint32_t ops_seen_ = 0;   // in this pass over the op table
  uint64_t data_next_ = 0;  // where the next op's data must begin
  bool has_copies_ = false;
};

// Whether a base of this size may be served (for_merge: written) with the
// image: kFailedPrecondition with a sentence otherwise. Without an extension
// the base must only hold every source block and, for a merge, every target
// block. With one its size must be base_bytes, or that of the larger of both
// images (a base grown beforehand for a target that is larger).
absl::Status CheckBase(const Image& image, uint64_t base_bytes, bool for_merge);

// Size of the target image in bytes: the extension's, else the base's (an
// Android file does not say), but never less than the ops reach.
uint64_t TargetBytes(const Image& image, uint64_t base_bytes);

}  // namespace dmu::cow

#endif  // DAEMON_COW_LOADER_H_
