// SPDX-License-Identifier: Apache-2.0
//
// undo_loader.h - reads an undo log and judges it against the merge it is of.
//
// A push parser like cow::Loader: want() says what to read, Feed() takes it; no
// I/O. It follows the chain of groups. Data is checked where it may be that a
// power cut came before it was durable, or everywhere.
#ifndef DAEMON_MERGE_UNDO_LOADER_H_
#define DAEMON_MERGE_UNDO_LOADER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "daemon/cow/image.h"
#include "daemon/merge/undo_format.h"

namespace dmu::merge {

// Where a group stands, and what makes it findable again.
struct UndoPlace {
  uint64_t offset = 0;
  uint64_t previous = 0;
  uint64_t begin_position = 0;
  uint64_t end_position = 0;
  uint64_t window_position = 0;
  UndoKind kind = UndoKind::kUnordered;
  uint32_t count = 0;
};

class UndoLoader {
 public:
  // No want() is longer.
  static constexpr uint32_t kChunkBytes = kUndoGroupBlocksMax * kBlockBytes;

  enum class Purpose : uint8_t {
    kAppend,  // the merge goes on; places are not kept
    kUndo,    // all data is checked
  };

  // `image` must outlive the loader; log_bytes: size of the file or device.
  UndoLoader(const cow::Image& image, uint64_t log_bytes, Purpose purpose);

  bool done() const { return done_; }
  struct Want {
    uint64_t offset = 0;
    uint32_t bytes = 0;  // 0: Feed must be called with nothing
  };
  Want want() const { return want_; }
  // Takes what want() asked for. kInvalidArgument: this is no undo log;
  // kFailedPrecondition: of another COW file, or it does not hold all that the
  // merge has overwritten; kDataLoss: it did, but is corrupt.
  absl::Status Feed(ConstByteSpan bytes);

  // When done: nothing is in it yet, and the merge has not begun. Whoever wants
  // to write makes MakeSuperblock's durable at offset 0 first.
  bool fresh() const { return fresh_; }
  const UndoTail& tail() const { return tail_; }
  const UndoSuperblock& super() const { return super_; }
  const std::vector<UndoPlace>& places() const { return places_; }
  uint64_t blocks() const { return blocks_; }  // in all groups

  // Of a new log for this merge.
  static UndoSuperblock MakeSuperblock(const cow::Image& image,
                                       uint64_t base_bytes);

 private:
  absl::Status TakeSuperblock(ConstByteSpan bytes);
  absl::Status TakeGroup(ConstByteSpan bytes);
  bool FitsMerge() const;
  absl::Status TakeData(ConstByteSpan bytes);
  void Accept();
  void WantGroup();
  // The chain ends here.
  absl::Status End();

  const cow::Image& image_;
  const uint64_t log_bytes_;
  const Purpose purpose_;
  enum class Part : uint8_t { kSuperblock, kGroup, kData, kEnd };
  Part part_ = Part::kSuperblock;
  Want want_;
  bool done_ = false;
  bool fresh_ = false;
  UndoSuperblock super_;
  // M up to here was durable in the log at some time: what is missing or wrong
  // before it is damage, behind it a power cut.
  uint64_t durable_position_ = 0;
  UndoTail tail_;
  UndoGroup group_;
  uint64_t group_check_ = 0;
  uint64_t blocks_ = 0;
  uint64_t tail_blocks_ = 0;
  std::vector<UndoPlace> places_;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_UNDO_LOADER_H_
