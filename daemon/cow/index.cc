// SPDX-License-Identifier: Apache-2.0
//
// index.cc - look-ups in the sorted entries and in the merge order.
#include "daemon/cow/index.h"

#include <algorithm>

#include "daemon/base/check.h"
#include "daemon/cow/index_builder.h"

namespace dmu::cow {

uint32_t Index::CountUpTo(uint32_t block) const {
  // Everything below the first entry that the next block could have.
  const uint64_t* begin = entries_.get();
  const uint64_t* end = begin + unique_count_;
  const uint64_t key = uint64_t{block} << 32 | UINT32_MAX;
  return static_cast<uint32_t>(std::upper_bound(begin, end, key) - begin);
}

std::optional<Index::Found> Index::Find(uint32_t block) const {
  const uint32_t count = CountUpTo(block);
  if (count == 0) return std::nullopt;
  const Found found = UnpackIndexEntry(entries_[count - 1]);
  // Ops do not overlap, so only the nearest one can reach the block.
  if (block - found.new_block >= uint32_t{1} << found.span_log2) {
    return std::nullopt;
  }
  return found;
}

uint32_t Index::NextStart(uint32_t block) const {
  const uint32_t count = CountUpTo(block);
  if (count == unique_count_) return kNoBlock;
  return static_cast<uint32_t>(entries_[count] >> 32);
}

uint32_t Index::FirstOf(uint32_t op) const {
  if (unique_count_ == op_count_) return op;
  const uint64_t* begin = entries_.get() + unique_count_;
  const uint64_t* end = entries_.get() + op_count_;
  const uint64_t* it = std::lower_bound(begin, end, uint64_t{op} << 32);
  if (it == end || *it >> 32 != op) return op;
  return static_cast<uint32_t>(*it);
}

uint32_t Index::OpAt(uint32_t merge_position) const {
  DMU_CHECK(merge_position < op_count_);
  if (order_ != nullptr) return order_[merge_position];
  return FirstOf(merge_position);
}

uint32_t Index::PositionOf(uint32_t op) const {
  DMU_CHECK(op < op_count_);
  if (position_ != nullptr) return position_[op];
  return FirstOf(op);
}

uint64_t Index::resident_bytes() const {
  const uint64_t per_op = sizeof(uint64_t) + (order_ != nullptr ? 8 : 0);
  return per_op * op_count_;
}

}  // namespace dmu::cow
