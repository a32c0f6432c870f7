// SPDX-License-Identifier: Apache-2.0
//
// index_builder.cc - sorts the entries, tells overlaps, lays out the order M.
#include "daemon/cow/index_builder.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

constexpr uint32_t kNoPosition = UINT32_MAX;
constexpr int kOpShift = 5;
constexpr int kTypeShift = 3;
static_assert(kOpsMax <= uint64_t{1} << (32 - kOpShift));

// Index is the two bits that stand for the type in an entry.
constexpr OpType kTypes[4] = {OpType::kCopy, OpType::kReplace, OpType::kZero,
                              OpType::kXor};

uint64_t TypeBits(OpType type) {
  switch (type) {
    case OpType::kCopy:
      return 0;
    case OpType::kReplace:
      return 1;
    case OpType::kZero:
      return 2;
    case OpType::kXor:
      return 3;
  }
  return 0;
}

}  // namespace

uint64_t PackIndexEntry(const Op& op, uint32_t op_number) {
  DMU_CHECK(op_number < kOpsMax);
  return uint64_t{op.new_block} << 32 | uint64_t{op_number} << kOpShift |
         TypeBits(op.type) << kTypeShift | op.span_log2;
}

Index::Found UnpackIndexEntry(uint64_t entry) {
  Index::Found found;
  found.new_block = static_cast<uint32_t>(entry >> 32);
  found.op = static_cast<uint32_t>(entry) >> kOpShift;
  found.type = kTypes[(entry >> kTypeShift) & 3];
  found.span_log2 = static_cast<uint8_t>(entry & 7);
  return found;
}

absl::Status IndexBuilder::Reserve(uint32_t op_count, uint32_t sequence_count) {
  DMU_CHECK(op_count <= kOpsMax && sequence_count <= op_count);
  // Not value-initialised: a file that claims many ops costs address space
  // only, until they turn out to be there.
  index_.entries_.reset(new (std::nothrow) uint64_t[op_count]);
  bool ok = index_.entries_ != nullptr;
  if (ok && sequence_count != 0) {
    index_.order_.reset(new (std::nothrow) uint32_t[op_count]);
    index_.position_.reset(new (std::nothrow) uint32_t[op_count]);
    ok = index_.order_ != nullptr && index_.position_ != nullptr;
  }
  if (!ok) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "no memory for an index of %u ops; free some memory and try again",
        op_count));
  }
  index_.op_count_ = op_count;
  // Look-ups see all entries until Finish has told the duplicates apart.
  index_.unique_count_ = op_count;
  return absl::OkStatus();
}

void IndexBuilder::Add(const Op& op) {
  DMU_CHECK(added_ < index_.op_count_);
  index_.entries_[added_] = PackIndexEntry(op, added_);
  if (index_.position_ != nullptr) index_.position_[added_] = kNoPosition;
  ++added_;
}

absl::Status IndexBuilder::Sort() {
  DMU_CHECK(added_ == index_.op_count_);
  uint64_t* begin = index_.entries_.get();
  uint64_t* end = begin + added_;
  if (!std::is_sorted(begin, end)) std::sort(begin, end);
  for (uint32_t i = 1; i < added_; ++i) {
    const Index::Found a = UnpackIndexEntry(begin[i - 1]);
    const Index::Found b = UnpackIndexEntry(begin[i]);
    const uint32_t a_blocks = uint32_t{1} << a.span_log2;
    const bool same = a.new_block == b.new_block;
    if (same ? (a.span_log2 == 0 && b.span_log2 == 0)
             : b.new_block - a.new_block >= a_blocks) {
      continue;
    }
    return absl::DataLossError(absl::StrFormat(
        "op %u (blocks %u to %u) overlaps op %u (from block %u); the file is "
        "corrupt",
        a.op, a.new_block, a.new_block + a_blocks - 1, b.op, b.new_block));
  }
  return absl::OkStatus();
}

absl::Status IndexBuilder::AddToSequence(uint32_t new_block) {
  const uint64_t* begin = index_.entries_.get();
  const uint64_t* end = begin + index_.op_count_;
  const uint64_t* it = std::lower_bound(begin, end, uint64_t{new_block} << 32);
  if (it == end || *it >> 32 != new_block) {
    return absl::DataLossError(absl::StrFormat(
        "sequence entry %u names block %u, which no op gives; the file is "
        "corrupt",
        sequence_added_, new_block));
  }
  // M would have fewer entries than the table has ops.
  if (it + 1 != end && *(it + 1) >> 32 == new_block) {
    return absl::DataLossError(absl::StrFormat(
        "sequence entry %u names block %u, which more than one op gives; the "
        "merge order is not defined",
        sequence_added_, new_block));
  }
  const uint32_t op = UnpackIndexEntry(*it).op;
  if (index_.position_[op] != kNoPosition) {
    return absl::DataLossError(absl::StrFormat(
        "sequence entries %u and %u both name block %u; the file is corrupt",
        index_.position_[op], sequence_added_, new_block));
  }
  index_.position_[op] = sequence_added_;
  index_.order_[sequence_added_++] = op;
  return absl::OkStatus();
}

void IndexBuilder::FillOrderWithRest() {
  // What the sequence does not name follows by ascending block. A duplicate's
  // entry stands for the first op of its block.
  uint32_t next = sequence_added_;
  uint32_t first = 0;
  for (uint32_t i = 0; i < index_.op_count_; ++i) {
    const uint64_t entry = index_.entries_[i];
    const uint32_t op = UnpackIndexEntry(entry).op;
    const bool duplicate = i > 0 && index_.entries_[i - 1] >> 32 == entry >> 32;
    if (!duplicate) first = op;
    if (index_.position_[op] != kNoPosition) continue;
    index_.position_[op] = duplicate ? index_.position_[first] : next;
    index_.order_[next++] = first;
  }
  DMU_CHECK(next == index_.op_count_);
}

void IndexBuilder::MoveDuplicatesBehind() {
  uint64_t* entries = index_.entries_.get();
  std::vector<uint64_t> duplicates;  // op << 32 | first op of the block
  uint32_t kept = 0;
  Index::Found first;
  for (uint32_t i = 0; i < index_.op_count_; ++i) {
    const Index::Found entry = UnpackIndexEntry(entries[i]);
    if (kept != 0 && entry.new_block == first.new_block) {
      duplicates.push_back(uint64_t{entry.op} << 32 | first.op);
    } else {
      first = entry;
      entries[kept++] = entries[i];
    }
  }
  std::sort(duplicates.begin(), duplicates.end());
  std::copy(duplicates.begin(), duplicates.end(), entries + kept);
  index_.unique_count_ = kept;
}

Index IndexBuilder::Finish() {
  if (index_.order_ != nullptr) FillOrderWithRest();
  MoveDuplicatesBehind();
  return std::move(index_);
}

}  // namespace dmu::cow
