// SPDX-License-Identifier: Apache-2.0
//
// index_builder.h - makes an Index from the ops, then what orders them.
//
// Steps, in this order: Begin, Add for every data op in the order of the file,
// Sort, then the merge order:
//   kSequence  AddToSequence for every entry of the sequence
//   kOrdered   AddListed for every copy and xor, in the order of the file
//   kFile      nothing
// and Finish. Memory: 8 bytes per op, in place, and given back as far as the
// packed entries are smaller. Status codes are the loader's.
#ifndef DAEMON_COW_INDEX_BUILDER_H_
#define DAEMON_COW_INDEX_BUILDER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/cow/format.h"
#include "daemon/cow/index.h"

namespace dmu::cow {

class IndexBuilder {
 public:
  // op_count: how many ops there will be, <= kOpsMax; 0: not known, memory
  // grows with them. kResourceExhausted without memory. Pages are not touched
  // before their entry is added, so that a file which claims many ops costs
  // address space only, until they turn out to be there.
  absl::Status Begin(uint64_t op_count);

  // The next op. kResourceExhausted without memory, kUnimplemented for more
  // than kOpsMax.
  absl::Status Add(const Op& op);
  uint32_t added() const { return index_.op_count_; }

  // After the last Add. kDataLoss when a multi-block op overlaps another op.
  absl::Status Sort(Index::Order order);

  // The next entry of the sequence. kDataLoss when no op gives that block, or
  // when it was named before.
  absl::Status AddToSequence(uint32_t new_block);

  // The next copy or xor of the file, and its number. False when that op was
  // not added as such.
  bool AddListed(uint32_t number, const Op& op);

  // Orders the rest.
  Index Finish();

 private:
  absl::Status Reserve(uint64_t op_count);
  absl::Status Repack();

  Index index_;
  uint64_t capacity_ = 0;
  uint32_t blocks_ = 0;  // highest first block of an op, and 1
  uint32_t listed_ = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_INDEX_BUILDER_H_
