// SPDX-License-Identifier: Apache-2.0
//
// index_builder.cc - sorts the entries, tells overlaps, packs them, gives them
// their places in the merge order.
#include "daemon/cow/index_builder.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_format.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

using Bits = unsigned __int128;

// While ops come, entries are 64-bit numbers that sort as they should: by
// block, and duplicates by op.
constexpr uint64_t kBuildStride = sizeof(uint64_t);
static_assert(kOpsMax <= uint64_t{1} << 27);

constexpr uint64_t kFirstCapacity = 1024;

}  // namespace

absl::Status IndexBuilder::Reserve(uint64_t op_count) {
  const uint64_t bytes = op_count * kBuildStride + Index::kPadBytes;
  // The C library moves pages instead of copying what is large.
  void* memory = std::realloc(index_.entries_.get(), bytes);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "no memory for an index of %u ops; free some memory and try again",
        op_count));
  }
  (void)index_.entries_.release();
  index_.entries_.reset(static_cast<uint8_t*>(memory));
  capacity_ = op_count;
  return absl::OkStatus();
}

absl::Status IndexBuilder::Begin(uint64_t op_count) {
  DMU_CHECK(op_count <= kOpsMax && capacity_ == 0);
  return Reserve(op_count);
}

absl::Status IndexBuilder::Add(const Op& op) {
  if (index_.op_count_ == kOpsMax) {
    return absl::UnimplementedError(absl::StrFormat(
        "the COW file has more than %u ops; no more can be served", kOpsMax));
  }
  if (index_.op_count_ == capacity_) {
    const uint64_t more = std::max(kFirstCapacity, capacity_ + capacity_ / 2);
    if (absl::Status status = Reserve(std::min(more, kOpsMax)); !status.ok()) {
      return status;
    }
  }
  Index::Found found;
  found.op = index_.op_count_;
  found.new_block = op.new_block;
  found.type = op.type;
  found.span_log2 = op.span_log2;
  index_.Store(index_.op_count_++, Index::Pack(index_.layout_, found));
  blocks_ = std::max(blocks_, op.new_block + 1);
  return absl::OkStatus();
}

absl::Status IndexBuilder::Sort(Index::Order order) {
  // Entries are as large as what they were stored as: numbers of the host.
  auto* begin = reinterpret_cast<uint64_t*>(index_.entries_.get());
  auto* end = begin + index_.op_count_;
  if (!std::is_sorted(begin, end)) std::sort(begin, end);
  index_.order_ = order;
  for (uint32_t i = 1; i < index_.op_count_; ++i) {
    const Index::Found a = index_.AtRank(i - 1);
    const Index::Found b = index_.AtRank(i);
    if (a.new_block == b.new_block && a.span_log2 == 0 && b.span_log2 == 0) {
      ++index_.duplicate_count_;
      continue;
    }
    if (b.new_block - a.new_block >= a.span_blocks()) continue;
    return absl::DataLossError(absl::StrFormat(
        "op %u (blocks %u to %u) overlaps op %u (from block %u); the file is "
        "corrupt",
        a.op, a.new_block, a.new_block + a.span_blocks() - 1, b.op,
        b.new_block));
  }
  return Repack();
}

// From here on entries are as narrow as this file allows.
absl::Status IndexBuilder::Repack() {
  const uint32_t count = index_.op_count_;
  Index::Layout layout;
  layout.op_bits = static_cast<uint8_t>(std::bit_width(count - (count != 0)));
  layout.block_bits = static_cast<uint8_t>(std::bit_width(blocks_ | 1u));
  if (index_.order_ != Index::Order::kFile) {
    // All ones stand for "none yet", and are above every position.
    layout.position_bits = static_cast<uint8_t>(std::bit_width(count + 1));
  }
  layout.entry_bits = static_cast<uint8_t>(4u + layout.position_bits +
                                           layout.op_bits + layout.block_bits);
  Index from = std::move(index_);
  index_ = Index();
  index_.order_ = from.order_;
  index_.op_count_ = count;
  index_.duplicate_count_ = from.duplicate_count_;
  index_.entries_bytes_ =
      (uint64_t{count} * layout.entry_bits + 7) / 8 + Index::kPadBytes;
  if (layout.entry_bits > 8 * kBuildStride) {
    index_.entries_.reset(
        static_cast<uint8_t*>(std::calloc(index_.entries_bytes_, 1)));
    if (index_.entries_ == nullptr) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "no memory for an index of %u ops; free some memory and try again",
          count));
    }
  } else {
    index_.entries_.reset(from.entries_.get());  // in place, front to back
  }
  index_.layout_ = layout;
  for (uint32_t rank = 0; rank < count; ++rank) {
    Index::Found found = from.AtRank(rank);
    found.position = Index::kNoPosition;
    index_.Store(rank, Index::Pack(layout, found));
  }
  if (layout.entry_bits > 8 * kBuildStride) return absl::OkStatus();
  (void)from.entries_.release();
  void* memory = std::realloc(index_.entries_.get(), index_.entries_bytes_);
  if (memory != nullptr) {
    (void)index_.entries_.release();
    index_.entries_.reset(static_cast<uint8_t*>(memory));
  }
  return absl::OkStatus();
}

absl::Status IndexBuilder::AddToSequence(uint32_t new_block) {
  const uint32_t rank = index_.RankBelow(new_block);
  if (rank == index_.op_count_ || index_.BlockAt(rank) != new_block) {
    return absl::DataLossError(absl::StrFormat(
        "sequence entry %u names block %u, which no op gives; the file is "
        "corrupt",
        listed_, new_block));
  }
  Index::Found found = index_.AtRank(rank);
  if (found.position <= index_.op_count_) {
    return absl::DataLossError(absl::StrFormat(
        "sequence entries %u and %u both name block %u; the file is corrupt",
        found.position, listed_, new_block));
  }
  found.position = listed_++;
  index_.Store(rank, Index::Pack(index_.layout_, found));
  return absl::OkStatus();
}

bool IndexBuilder::AddListed(uint32_t number, const Op& op) {
  // The op's own entry, which may be that of a duplicate.
  const std::optional<uint32_t> rank = index_.RankOf(op.new_block, number);
  if (!rank.has_value()) return false;
  Index::Found found = index_.AtRank(*rank);
  if (found.type != op.type || found.position <= index_.op_count_) return false;
  found.position = listed_++;
  index_.Store(*rank, Index::Pack(index_.layout_, found));
  return true;
}

Index IndexBuilder::Finish() {
  index_.listed_count_ = listed_;
  index_.merge_count_ = index_.op_count_;
  if (index_.order_ == Index::Order::kFile) {
    index_.listed_count_ = index_.op_count_;
    return std::move(index_);
  }
  uint32_t next = listed_;
  Index::Found first;  // the entry that stands for its block
  for (uint32_t rank = 0; rank < index_.op_count_; ++rank) {
    Index::Found found = index_.AtRank(rank);
    const bool duplicate = rank > 0 && found.new_block == first.new_block;
    if (found.position > index_.op_count_) {
      // The sequence names a block once, whoever gives it.
      const bool named = duplicate &&
                         index_.order_ == Index::Order::kSequence &&
                         first.position < listed_;
      found.position = named ? first.position : next++;
      index_.Store(rank, Index::Pack(index_.layout_, found));
    }
    if (!duplicate) first = found;
  }
  index_.merge_count_ = next;
  return std::move(index_);
}

}  // namespace dmu::cow
