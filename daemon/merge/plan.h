// SPDX-License-Identifier: Apache-2.0
//
// plan.h - cuts the merge order into windows.
//
// A window is a run of entries of M that becomes durable as one. The entries
// are offered one by one; the plan says where the window ends and how it must
// be written:
//   direct          replace and zero ops, which read nothing the merge changes;
//                   or copies of which none writes a block that any of them
//                   reads. After a crash such a window is simply repeated.
//   through scratch copies that overwrite each other's sources: their new
//                   contents are made durable in the scratch region before the
//                   first of them reaches the base.
// Copies without a conflict are written once instead of twice, so a direct
// window is taken when it is long enough to pay for its flushes, when it ends
// the run of copies, or when there is no scratch region.
#ifndef DAEMON_MERGE_PLAN_H_
#define DAEMON_MERGE_PLAN_H_

#include <cstdint>

#include "daemon/cow/format.h"
#include "daemon/merge/block_map.h"

namespace dmu::merge {

// Most entries of a window, and most blocks it stages.
inline constexpr uint32_t kWindowOpsMax = BlockMap::kCapacity;
static_assert(kWindowOpsMax >= cow::kScratchEntriesMax);

// One entry of M within a window.
struct WindowEntry {
  static constexpr uint16_t kNoSlot = UINT16_MAX;

  cow::Op op;
  // First staging block of its data; kNoSlot: nothing to stage (a zero).
  uint16_t slot = kNoSlot;
  // A later entry for a block that an earlier one gives: counts, does nothing.
  bool duplicate = false;
};

struct Window {
  WindowEntry entries[kWindowOpsMax];
  uint32_t ops = 0;     // entries of M
  uint32_t blocks = 0;  // staging blocks in use
  uint64_t bytes = 0;   // of the base that it writes
  bool through_scratch = false;
  BlockMap staged;  // target block -> staging block
};

class Plan {
 public:
  struct Limits {
    uint32_t staging_blocks = 0;  // at most BlockMap::kCapacity
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
  // M's next entry. Nothing may be offered after anything but kTaken.
  Verdict Offer(const cow::Op& op, bool duplicate);
  // Decides how the window is written. It must have at least one entry.
  void End();

 private:
  enum class Run : uint8_t { kNone, kUnordered, kOrdered };

  Verdict OfferUnordered(const cow::Op& op, bool duplicate);
  Verdict OfferCopy(const cow::Op& op);
  void Take(const cow::Op& op, bool duplicate, bool staged);

  Window* window_ = nullptr;
  Limits limits_;
  Run run_ = Run::kNone;
  bool conflict_ = false;  // some op writes what another of the window reads
  BlockMap sources_;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_PLAN_H_
