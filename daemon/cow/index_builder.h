// SPDX-License-Identifier: Apache-2.0
//
// index_builder.h - makes an Index from the op table, then the sequence data.
//
// Steps, in this order: Reserve, Add for every op, Sort, AddToSequence for
// every sequence entry, Finish. Memory is taken in Reserve and is what the
// Index keeps; nothing is copied. Status codes are the loader's.
#ifndef DAEMON_COW_INDEX_BUILDER_H_
#define DAEMON_COW_INDEX_BUILDER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/cow/format.h"
#include "daemon/cow/index.h"

namespace dmu::cow {

// An entry in 64 bits: first block in 32..63, op number in 5..31, type in 3..4,
// span_log2 in 0..2. Ascending numbers are ascending blocks, and among equal
// blocks ascending ops, so that the first duplicate comes first.
uint64_t PackIndexEntry(const Op& op, uint32_t op_number);
Index::Found UnpackIndexEntry(uint64_t entry);

class IndexBuilder {
 public:
  // op_count <= kOpsMax, sequence_count <= op_count. kResourceExhausted without
  // memory. Pages are not touched before their entry is added.
  absl::Status Reserve(uint32_t op_count, uint32_t sequence_count);

  // The next op of the table.
  void Add(const Op& op);

  // After the last Add. kDataLoss when a multi-block op overlaps another op.
  absl::Status Sort();

  // The next entry of the sequence. kDataLoss when no op, or more than one,
  // gives that block, or when it was named before.
  absl::Status AddToSequence(uint32_t new_block);

  // After the last AddToSequence.
  Index Finish();

 private:
  void FillOrderWithRest();
  void MoveDuplicatesBehind();

  Index index_;
  uint32_t added_ = 0;
  uint32_t sequence_added_ = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_INDEX_BUILDER_H_
