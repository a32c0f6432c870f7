// SPDX-License-Identifier: Apache-2.0
//
// plan.h - cuts the merge order into windows.
//
// A window is a run of entries of M that becomes durable as one. The entries
// are offered one by one; the plan says where the window ends and how it must
// be written:
//   direct          replace and zero ops, which read nothing the merge changes;
//                   or ordered ops (copy, xor) of which none writes a block
//                   that any of them reads. After a crash such a window is
//                   simply repeated.
//   through scratch ordered ops that overwrite what they or each other read:
//                   their new contents are made durable in the scratch region
//                   before the first of them reaches the base.
// Ordered ops without a conflict are written once instead of twice, so a direct
// window is taken when it is long enough to pay for its flushes, when it ends
// the run of ordered ops, or when there is no scratch region.
//
// A direct window may be longer than the staging memory: it is written in
// fills, one after the other, and flushed and committed once. That is safe for
// the same reason that repeating it is: no fill changes what an op of the
// window reads. A window through scratch is one fill.
#ifndef DAEMON_MERGE_PLAN_H_
#define DAEMON_MERGE_PLAN_H_

#include <cstdint>
#include <memory>
#include <new>

#include "daemon/cow/format.h"
#include "daemon/merge/block_map.h"

namespace dmu::merge {

// Entries of a window, and blocks with data in it, that a workspace may be made
// for.
inline constexpr uint32_t kWindowOpsLimit = 16 * 1024;
// Enough that flushes and commits are a small part of the merge.
inline constexpr uint32_t kWindowOpsDefault = 2048;
// Staging memory for windows through scratch as long as Android's.
inline constexpr uint32_t kStagingBlocksDefault = 512;
static_assert(kStagingBlocksDefault >= cow::kScratchEntriesMax);
static_assert(kWindowOpsLimit < BlockMap::kNone);

// One entry of M within a window.
struct WindowEntry {
  static constexpr uint16_t kNoSlot = UINT16_MAX;

  cow::Op op;
  uint32_t check = 0;  // of the op's data, when the file has checks
  // First staging block of its data; kNoSlot: nothing to stage (a zero).
  uint16_t slot = kNoSlot;
  // The staging memory was full: another fill begins here.
  bool begins_fill = false;
  // A later entry for a block that an earlier one gives: counts, does nothing.
  bool duplicate = false;
  // The engine's: an xor whose data is in its staging block.
  bool xored = false;
};

struct Window {
  explicit Window(uint32_t capacity)
      : capacity(capacity),
        entries(new (std::nothrow) WindowEntry[capacity]),
        staged(capacity) {}
  bool valid() const { return entries != nullptr && staged.valid(); }

  const uint32_t capacity;  // of entries, and blocks with data
  const std::unique_ptr<WindowEntry[]> entries;
  uint32_t ops = 0;     // entries of M
  uint32_t blocks = 0;  // with data
  uint64_t bytes = 0;   // of the base that it writes
  bool through_scratch = false;
  bool ordered = false;  // of copies and xors
  bool has_xor = false;
  BlockMap staged;  // the engine's: target block -> staging block, of a fill
};

class Plan {
 public:
  // For windows of this capacity.
  explicit Plan(uint32_t capacity)
      : sources_(2 * capacity), written_(capacity) {}
  bool valid() const { return sources_.valid() && written_.valid(); }

  struct Limits {
    uint32_t staging_blocks = 0;  // at most the window's capacity
    bool has_scratch = false;
    // Shortest direct window that ends at a conflict and is still preferred to
    // a window through scratch.
    uint32_t direct_ops_min = 1;
  };

  enum class Verdict : uint8_t {
    kTaken,
    kEnd,           // the window ends before this entry
    kTooLarge,      // not even alone does it fit into staging
    kNotMergeable,  // no order of writes makes this op safe here
  };

  // Empties `window`; it must outlive the plan's use.
  void Begin(Window* window, const Limits& limits);
  // M's next entry. Nothing may be offered after anything but kTaken. check: of
  // its data, or 0.
  Verdict Offer(const cow::Op& op, uint32_t check, bool duplicate);
  // Decides how the window is written. It must have at least one entry.
  void End();

 private:
  enum class Run : uint8_t { kNone, kUnordered, kOrdered };

  Verdict OfferUnordered(const cow::Op& op, uint32_t check, bool duplicate);
  Verdict OfferOrdered(const cow::Op& op, uint32_t check);
  void Take(const cow::Op& op, uint32_t check, bool duplicate, bool staged);

  Window* window_ = nullptr;
  Limits limits_;
  Run run_ = Run::kNone;
  bool conflict_ = false;     // some op writes what another of the window reads
  uint32_t fill_blocks_ = 0;  // staging blocks in use by the last fill
  BlockMap sources_;          // blocks that ordered ops of the window read
  BlockMap written_;          // and write
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_PLAN_H_
