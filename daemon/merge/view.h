// SPDX-License-Identifier: Apache-2.0
//
// view.h - where the target data of a block is at this moment of the merge.
//
// Answers are right when they are given and stay usable only until the engine
// moves on: ask, submit the I/O in the same turn, and hold a lease where the
// piece says so.
#ifndef DAEMON_MERGE_VIEW_H_
#define DAEMON_MERGE_VIEW_H_

#include <cstdint>

#include "daemon/cow/image.h"
#include "daemon/merge/engine.h"

namespace dmu::merge {

// A run of blocks that are found in the same way.
struct Piece {
  enum class Where : uint8_t {
    kZero,     // they are zeros
    kBase,     // in the base, from byte `offset` on
    kStaged,   // at `data`, until the engine is called again
    kScratch,  // in the COW file, from byte `offset` on; under a lease
    kCopy,     // in the source: block i of the run where the record of op + i
               // says; under a lease
    kXor,      // one block: in the source, where the record of `op` says, and
               // xored with that op's data; under a lease
    kUnit,     // in the unit of `op`, from its block `unit_block` on
  };
  Where where = Where::kBase;
  uint32_t blocks = 0;  // >= 1
  uint64_t offset = 0;
  const uint8_t* data = nullptr;
  uint32_t op = 0;
  uint32_t new_block = 0;  // kCopy, kXor, kUnit: first block that `op` gives
  uint32_t unit_block = 0;
  uint8_t span_log2 = 0;  // kUnit
  uint32_t position = 0;  // kScratch, kCopy, kXor: for Lease
};

class View {
 public:
  // Both must outlive the view.
  View(const cow::Image& image, const Engine& engine)
      : image_(image), engine_(engine) {}

  // The longest run from `block` on, at most blocks_max (>= 1).
  Piece Lookup(uint32_t block, uint32_t blocks_max) const;

 private:
  // The piece of one block, or of the rest of its unit; for blocks no op is
  // pending for, as far as the next op.
  Piece LookupOne(uint32_t block) const;
  // Whether `next` continues `piece`; joins it then.
  static bool Join(Piece* piece, const Piece& next);

  const cow::Image& image_;
  const Engine& engine_;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_VIEW_H_
