// SPDX-License-Identifier: Apache-2.0
//
// index.h - target block -> op, and the merge order, in 8 bytes per op.
//
// The op table stays in the file; what is resident is one sorted entry per op:
// first block, and op number, type and span packed into 32 bits. Immutable once
// built (index_builder.h). Files with sequence data keep 8 bytes more per op
// (order_, position_).
#ifndef DAEMON_COW_INDEX_H_
#define DAEMON_COW_INDEX_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "daemon/cow/format.h"

namespace dmu::cow {

class Index {
 public:
  struct Found {
    uint32_t op = 0;         // number in the op table
    uint32_t new_block = 0;  // first block the op covers
    OpType type = OpType::kZero;
    uint8_t span_log2 = 0;
  };

  static constexpr uint32_t kNoBlock = UINT32_MAX;

  // The op that covers `block`; the first of duplicates. O(log ops), no I/O.
  std::optional<Found> Find(uint32_t block) const;

  // The smallest first block of an op that is > block; kNoBlock if none. Tells
  // how far a run of unchanged blocks reaches.
  uint32_t NextStart(uint32_t block) const;

  // Entries of the op table.
  uint32_t op_count() const { return op_count_; }
  // Ops that give a block which an earlier op of the table gives already; they
  // have an entry in M, but that entry stands for the earlier op.
  uint32_t duplicate_count() const { return op_count_ - unique_count_; }

  // The merge list M has op_count() entries (duplicates count). The op at a
  // position of M, and the position of an op (of its first entry). O(1), but
  // O(log duplicates) in a file that has some. Arguments below op_count().
  uint32_t OpAt(uint32_t merge_position) const;
  uint32_t PositionOf(uint32_t op) const;

  // Bytes held.
  uint64_t resident_bytes() const;

 private:
  friend class IndexBuilder;

  // First of `op`'s duplicates; `op` itself when it has none.
  uint32_t FirstOf(uint32_t op) const;
  // Number of entries whose first block is <= block.
  uint32_t CountUpTo(uint32_t block) const;

  uint32_t op_count_ = 0;
  uint32_t unique_count_ = 0;
  // [0, unique_count_): packed entries (index_builder.h), ascending by block.
  // [unique_count_, op_count_): op << 32 | first op, ascending, one for each
  // duplicate.
  std::unique_ptr<uint64_t[]> entries_;
  // Only with sequence data: position -> op and op -> position.
  std::unique_ptr<uint32_t[]> order_;
  std::unique_ptr<uint32_t[]> position_;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_INDEX_H_
