// SPDX-License-Identifier: Apache-2.0
//
// block_map.h - block number -> small number, for the blocks of one window.
//
// Sized once, open addressing, never more than half full.
#ifndef DAEMON_MERGE_BLOCK_MAP_H_
#define DAEMON_MERGE_BLOCK_MAP_H_

#include <bit>
#include <cstdint>
#include <memory>
#include <new>

#include "daemon/base/check.h"

namespace dmu::merge {

class BlockMap {
 public:
  static constexpr uint16_t kNone = UINT16_MAX;

  // capacity >= 1. valid() is false without memory.
  explicit BlockMap(uint32_t capacity)
      : capacity_(capacity),
        slots_log2_(static_cast<uint32_t>(std::bit_width(capacity)) + 1),
        slots_(new (std::nothrow) Slot[size_t{1} << slots_log2_]) {}
  bool valid() const { return slots_ != nullptr; }

  void Clear() {
    for (size_t i = 0; i < size_t{1} << slots_log2_; ++i) {
      slots_[i].value = kNone;
    }
    count_ = 0;
  }

  // False, and no change, when the block is there already. value != kNone.
  bool Insert(uint32_t block, uint16_t value) {
    DMU_CHECK(value != kNone);
    Slot* slot = SlotOf(block);
    if (slot->value != kNone) return false;
    DMU_CHECK(count_ < capacity_);
    ++count_;
    slot->block = block;
    slot->value = value;
    return true;
  }

  // kNone when the block is not there.
  uint16_t Find(uint32_t block) const { return SlotOf(block)->value; }
  bool Contains(uint32_t block) const { return Find(block) != kNone; }
  uint32_t count() const { return count_; }

 private:
  struct Slot {
    uint32_t block = 0;
    uint16_t value = kNone;
  };

  // Where the block is or would be. Knuth's multiplicative hash spreads the
  // runs that blocks come in.
  Slot* SlotOf(uint32_t block) const {
    const uint32_t mask = (uint32_t{1} << slots_log2_) - 1;
    uint32_t i = block * 2654435761u >> (32 - slots_log2_);
    while (slots_[i].value != kNone && slots_[i].block != block) {
      i = (i + 1) & mask;
    }
    return &slots_[i];
  }

  uint32_t capacity_;
  uint32_t slots_log2_;
  std::unique_ptr<Slot[]> slots_;
  uint32_t count_ = 0;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_BLOCK_MAP_H_
