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
  const auto entry = static_cast<uint64_t>(Index::Pack(index_.layout_, found));
  is_sorted_ = is_sorted_ && entry >= last_entry_;
  last_entry_ = entry;
  index_.Store(index_.op_count_++, entry);
  blocks_ = std::max(blocks_, op.new_block + 1);
  return absl::OkStatus();
}

void IndexBuilder::BeginSort(Index::Order order) {
  DMU_CHECK(phase_ == Phase::kAdd);
  index_.order_ = order;
  phase_ = Phase::kSort;
  if (is_sorted_) return;
  // What an entry has from the lowest bit on: kind, op, block.
  const int bits = 4 + index_.layout_.op_bits + std::bit_width(blocks_);
  PushPart(0, index_.op_count_, bits);
}

absl::StatusOr<bool> IndexBuilder::SortStep() {
  uint32_t left = kStepEntries;
  if (phase_ == Phase::kSort) {
    while (part_count_ > 0 && left > 0) SortPart(&left);
    if (part_count_ > 0) return false;
    phase_ = Phase::kOverlaps;
    at_ = 1;
  }
  const uint32_t count = index_.op_count_;
  if (phase_ == Phase::kOverlaps) {
    const uint32_t end = at_ + std::min(left, count - std::min(count, at_));
    if (absl::Status status = CheckOverlaps(end); !status.ok()) return status;
    if (at_ < count) return false;
    if (absl::Status status = BeginRepack(); !status.ok()) return status;
    phase_ = Phase::kRepack;
    at_ = 0;
    return false;
  }
  if (phase_ == Phase::kRepack) {
    Repack(at_ + std::min(left, count - at_));
    if (at_ < count) return false;
    EndRepack();
    phase_ = Phase::kSorted;
    at_ = 0;
  }
  return true;
}

void IndexBuilder::PushPart(uint32_t begin, uint32_t end, int bits) {
  if (end - begin < 2 || bits == 0) return;
  DMU_CHECK(part_count_ < kPartsMax);
  parts_[part_count_++] = {begin, end, begin, end, static_cast<uint8_t>(bits)};
}

// Splits the last part by its highest bit, in place, as far as *left goes; what
// is small is sorted at once. However the entries are chosen, each is looked at
// once for every bit.
void IndexBuilder::SortPart(uint32_t* left) {
  constexpr uint32_t kSmall = 1024;
  // Entries are as large as what they were stored as: numbers of the host.
  auto* entries = reinterpret_cast<uint64_t*>(index_.entries_.get());
  Part& part = parts_[part_count_ - 1];
  const uint32_t size = part.end - part.begin;
  if (size <= kSmall) {
    std::sort(entries + part.begin, entries + part.end);
    --part_count_;
    // About as much work as so many looks.
    *left -= std::min(*left, 4 * size);
    return;
  }
  const uint64_t bit = uint64_t{1} << (part.bits - 1);
  while (part.low<part.high&& * left> 0) {
    --*left;
    if ((entries[part.low] & bit) == 0) {
      ++part.low;
    } else {
      std::swap(entries[part.low], entries[--part.high]);
    }
  }
  if (part.low < part.high) return;
  const Part split = part;
  --part_count_;
  PushPart(split.low, split.end, split.bits - 1);
  PushPart(split.begin, split.low, split.bits - 1);
}

absl::Status IndexBuilder::CheckOverlaps(uint32_t end) {
  for (; at_ < end; ++at_) {
    const Index::Found a = index_.AtRank(at_ - 1);
    const Index::Found b = index_.AtRank(at_);
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
  return absl::OkStatus();
}

// From here on entries are as narrow as this file allows.
absl::Status IndexBuilder::BeginRepack() {
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
  packed_ = Index();
  packed_.order_ = index_.order_;
  packed_.op_count_ = count;
  packed_.duplicate_count_ = index_.duplicate_count_;
  packed_.layout_ = layout;
  packed_.entries_bytes_ =
      (uint64_t{count} * layout.entry_bits + 7) / 8 + Index::kPadBytes;
  if (layout.entry_bits <= 8 * kBuildStride) return absl::OkStatus();
  // Wider than they are now: not in place.
  packed_.entries_.reset(
      static_cast<uint8_t*>(std::calloc(packed_.entries_bytes_, 1)));
  if (packed_.entries_ != nullptr) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "no memory for an index of %u ops; free some memory and try again",
      count));
}

void IndexBuilder::Repack(uint32_t end) {
  // In place, front to back; each of the two is owner between steps only.
  const bool in_place = packed_.entries_ == nullptr;
  if (in_place) packed_.entries_.reset(index_.entries_.get());
  for (; at_ < end; ++at_) {
    Index::Found found = index_.AtRank(at_);
    found.position = Index::kNoPosition;
    packed_.Store(at_, Index::Pack(packed_.layout_, found));
  }
  if (in_place) (void)packed_.entries_.release();
}

void IndexBuilder::EndRepack() {
  if (packed_.entries_ == nullptr) {
    packed_.entries_ = std::move(index_.entries_);
    void* memory = std::realloc(packed_.entries_.get(), packed_.entries_bytes_);
    if (memory != nullptr) {
      (void)packed_.entries_.release();
      packed_.entries_.reset(static_cast<uint8_t*>(memory));
    }
  }
  index_ = std::move(packed_);
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

bool IndexBuilder::FinishStep() {
  if (!finishing_) {
    finishing_ = true;
    index_.listed_count_ = listed_;
    index_.merge_count_ = index_.op_count_;
    next_position_ = listed_;
    at_ = 0;
    if (index_.order_ == Index::Order::kFile) {
      index_.listed_count_ = index_.op_count_;
      at_ = index_.op_count_;
      next_position_ = index_.op_count_;
    }
  }
  const uint32_t end = at_ + std::min(kStepEntries, index_.op_count_ - at_);
  for (; at_ < end; ++at_) {
    Index::Found found = index_.AtRank(at_);
    const bool duplicate = at_ > 0 && found.new_block == first_.new_block;
    if (found.position > index_.op_count_) {
      // The sequence names a block once, whoever gives it.
      const bool named = duplicate &&
                         index_.order_ == Index::Order::kSequence &&
                         first_.position < listed_;
      found.position = named ? first_.position : next_position_++;
      index_.Store(at_, Index::Pack(index_.layout_, found));
    }
    if (!duplicate) first_ = found;
  }
  if (at_ < index_.op_count_) return false;
  index_.merge_count_ = next_position_;
  return true;
}

Index IndexBuilder::Take() { return std::move(index_); }

}  // namespace dmu::cow
