// SPDX-License-Identifier: Apache-2.0
//
// index.cc - look-ups in the sorted, bit-packed entries.
#include "daemon/cow/index.h"

#include <cstring>

#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

using Bits = unsigned __int128;

constexpr uint8_t kKindBits = 4;
// Kinds 0 to kSpanLog2Max: a replace of 1 << kind blocks.
constexpr uint8_t kKindCopy = 8;
constexpr uint8_t kKindZero = 9;
constexpr uint8_t kKindXor = 10;

uint8_t KindOf(OpType type, uint8_t span_log2) {
  switch (type) {
    case OpType::kCopy:
      return kKindCopy;
    case OpType::kZero:
      return kKindZero;
    case OpType::kXor:
      return kKindXor;
    default:
      return span_log2;
  }
}

uint32_t Field(Bits bits, uint8_t shift, uint8_t width) {
  return static_cast<uint32_t>(bits >> shift) &
         static_cast<uint32_t>((uint64_t{1} << width) - 1);
}

}  // namespace

Bits Index::Pack(const Layout& layout, const Found& found) {
  Bits bits = found.new_block;
  bits = bits << layout.op_bits | found.op;
  if (layout.position_bits != 0) {
    const uint64_t mask = (uint64_t{1} << layout.position_bits) - 1;
    bits = bits << layout.position_bits | (found.position & mask);
  }
  return bits << kKindBits | KindOf(found.type, found.span_log2);
}

Index::Found Index::Unpack(Bits bits) const {
  Found found;
  const auto kind = static_cast<uint8_t>(static_cast<uint8_t>(bits) & 15);
  uint8_t shift = kKindBits;
  const uint32_t position = Field(bits, shift, layout_.position_bits);
  shift = static_cast<uint8_t>(shift + layout_.position_bits);
  found.op = Field(bits, shift, layout_.op_bits);
  shift = static_cast<uint8_t>(shift + layout_.op_bits);
  found.new_block = Field(bits, shift, layout_.block_bits);
  found.position = layout_.position_bits == 0 ? found.op : position;
  if (kind <= kSpanLog2Max) {
    found.type = OpType::kReplace;
    found.span_log2 = kind;
  } else {
    found.type = kind == kKindCopy   ? OpType::kCopy
                 : kind == kKindZero ? OpType::kZero
                                     : OpType::kXor;
  }
  return found;
}

// Entries follow each other bit by bit. A load of 16 bytes from the byte where
// one begins has all of it: 7 bits of others and at most 90 of its own.
Bits Index::Load(uint32_t rank) const {
  const uint64_t at = uint64_t{rank} * layout_.entry_bits;
  Bits bits;
  std::memcpy(&bits, entries_.get() + at / 8, sizeof(bits));
  return bits >> (at % 8) & ((Bits{1} << layout_.entry_bits) - 1);
}

void Index::Store(uint32_t rank, Bits bits) {
  const uint64_t at = uint64_t{rank} * layout_.entry_bits;
  const unsigned shift = at % 8;
  uint8_t* const to = entries_.get() + at / 8;
  Bits around;
  std::memcpy(&around, to, sizeof(around));
  around &= ~(((Bits{1} << layout_.entry_bits) - 1) << shift);
  around |= bits << shift;
  std::memcpy(to, &around, sizeof(around));
}

uint32_t Index::BlockAt(uint32_t rank) const {
  return Field(
      Load(rank),
      static_cast<uint8_t>(kKindBits + layout_.position_bits + layout_.op_bits),
      layout_.block_bits);
}

uint32_t Index::RankBelow(uint64_t block) const {
  uint32_t begin = 0;
  uint32_t count = op_count_;
  while (count > 0) {
    const uint32_t half = count / 2;
    if (BlockAt(begin + half) < block) {
      begin += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return begin;
}

std::optional<uint32_t> Index::RankOf(uint32_t block, uint32_t op) const {
  const auto shift = static_cast<uint8_t>(kKindBits + layout_.position_bits);
  const Bits key = Bits{block} << layout_.op_bits | op;
  uint32_t begin = 0;
  uint32_t count = op_count_;
  while (count > 0) {
    const uint32_t half = count / 2;
    if (Load(begin + half) >> shift < key) {
      begin += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  if (begin == op_count_ || Load(begin) >> shift != key) return std::nullopt;
  return begin;
}

Index::Found Index::AtRank(uint32_t rank) const {
  DMU_CHECK(rank < op_count_);
  return Unpack(Load(rank));
}

std::optional<Index::Found> Index::Find(uint32_t block) const {
  const uint32_t after = RankBelow(uint64_t{block} + 1);
  if (after == 0) return std::nullopt;
  Found found = Unpack(Load(after - 1));
  // Ops do not overlap, so only the nearest one can reach the block.
  if (block - found.new_block >= found.span_blocks()) return std::nullopt;
  if (duplicate_count_ != 0 && after >= 2 &&
      BlockAt(after - 2) == found.new_block) {
    found = Unpack(Load(RankBelow(found.new_block)));
  }
  return found;
}

uint32_t Index::NextStart(uint32_t block) const {
  const uint32_t after = RankBelow(uint64_t{block} + 1);
  return after == op_count_ ? kNoBlock : BlockAt(after);
}

uint32_t Index::NextRestRank(uint32_t rank) const {
  if (order_ == Order::kFile) return op_count_;
  while (rank < op_count_ && AtRank(rank).position < listed_count_) ++rank;
  return rank;
}

uint32_t Index::RankOfPosition(uint32_t position) const {
  for (uint32_t rank = 0; rank < op_count_; ++rank) {
    if (AtRank(rank).position == position) return rank;
  }
  return op_count_;
}

}  // namespace dmu::cow
