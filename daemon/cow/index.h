// SPDX-License-Identifier: Apache-2.0
//
// index.h - target block -> op, and an op's place in the merge order, in at
// most 8 bytes per op.
//
// The records stay in the file (op_table.h); what is resident is one sorted
// entry per op, bit-packed: first block, op number, kind, and the position in
// the merge order where that is not the op number. A field is as wide as this
// file needs it: an entry has 41 bits for 120,000 ops of a 4 GiB image, and 58
// with a merge sequence. (Only a sequence of millions of ops over terabytes
// needs more than 64.) Immutable once built (index_builder.h).
//
// The merge order M: first the entries that the file gives an order, which are
//   kFile      all ops, as they stand in the file (version 3, no sequence)
//   kOrdered   copies and xors, as they stand in the file (version 2, no
//              sequence)
//   kSequence  the blocks that the sequence names
// and then the other ops by ascending block ("the rest"; kFile has none). M has
// an entry for each op, also for one that gives a block which another gives;
// its block is then the earlier op's. Only where the sequence names such a
// block is there one entry for it.
#ifndef DAEMON_COW_INDEX_H_
#define DAEMON_COW_INDEX_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>

#include "daemon/cow/format.h"

namespace dmu::cow {

class Index {
 public:
  enum class Order : uint8_t { kFile, kOrdered, kSequence };

  struct Found {
    uint32_t op = 0;         // number, as OpTable counts
    uint32_t new_block = 0;  // first block the op covers
    uint32_t position = 0;   // in M, of its first entry
    OpType type = OpType::kZero;
    uint8_t span_log2 = 0;
    uint32_t span_blocks() const { return uint32_t{1} << span_log2; }
  };

  static constexpr uint32_t kNoBlock = UINT32_MAX;
  static constexpr uint32_t kNoPosition = UINT32_MAX;

  // The op that covers `block`; the first of duplicates. O(log ops), no I/O.
  std::optional<Found> Find(uint32_t block) const;

  // The smallest first block of an op that is > block; kNoBlock if none. Tells
  // how far a run of unchanged blocks reaches.
  uint32_t NextStart(uint32_t block) const;

  // Data ops of the file.
  uint32_t op_count() const { return op_count_; }
  // Ops that give a block which an earlier op gives already.
  uint32_t duplicate_count() const { return duplicate_count_; }

  Order order() const { return order_; }
  // Entries of M.
  uint32_t merge_count() const { return merge_count_; }
  // Of them, those before the rest.
  uint32_t listed_count() const { return listed_count_; }

  // Entries by ascending block, duplicates behind their first. For walks:
  // rank < op_count().
  Found AtRank(uint32_t rank) const;
  // The first rank >= `rank` that belongs to the rest; op_count() if none.
  uint32_t NextRestRank(uint32_t rank) const;
  // The rank whose entry has this position; op_count() if none. O(ops).
  uint32_t RankOfPosition(uint32_t position) const;

  // Bytes held.
  uint64_t resident_bytes() const { return entries_bytes_; }

 private:
  friend class IndexBuilder;
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };

  // Bits of an entry, from the lowest: kind (4: a type, or a span of replace),
  // position, op, block.
  struct Layout {
    uint8_t position_bits = 0;  // 0: the position is the op number
    uint8_t op_bits = 27;
    uint8_t block_bits = 32;
    uint8_t entry_bits = 64;  // the sum, but for building
  };

  static unsigned __int128 Pack(const Layout& layout, const Found& found);
  Found Unpack(unsigned __int128 bits) const;
  unsigned __int128 Load(uint32_t rank) const;
  void Store(uint32_t rank, unsigned __int128 bits);
  uint32_t BlockAt(uint32_t rank) const;
  // Number of entries whose first block is below `block`.
  uint32_t RankBelow(uint64_t block) const;
  // The rank of this very op.
  std::optional<uint32_t> RankOf(uint32_t block, uint32_t op) const;

  Order order_ = Order::kFile;
  Layout layout_;
  uint32_t op_count_ = 0;
  uint32_t merge_count_ = 0;
  uint32_t listed_count_ = 0;
  uint32_t duplicate_count_ = 0;
  // op_count_ entries, and kPadBytes behind so that the last one can be loaded
  // like the others.
  static constexpr uint32_t kPadBytes = 16;
  std::unique_ptr<uint8_t[], Free> entries_;
  uint64_t entries_bytes_ = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_INDEX_H_
