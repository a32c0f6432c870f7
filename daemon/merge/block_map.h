// SPDX-License-Identifier: Apache-2.0
//
// block_map.h - block number -> small number, for the blocks of one window.
//
// Fixed size, open addressing, never more than half full.
#ifndef DAEMON_MERGE_BLOCK_MAP_H_
#define DAEMON_MERGE_BLOCK_MAP_H_

#include <cstdint>

#include "daemon/base/check.h"

namespace dmu::merge {

class BlockMap {
 public:
  static constexpr uint32_t kCapacity = 512;
  static constexpr uint16_t kNone = UINT16_MAX;

  BlockMap() { Clear(); }

  void Clear() {
    for (Slot& slot : slots_) slot.value = kNone;
    count_ = 0;
  }

  // False, and no change, when the block is there already. value != kNone.
  bool Insert(uint32_t block, uint16_t value) {
    DMU_CHECK(value != kNone);
    Slot* slot = SlotOf(block);
    if (slot->value != kNone) return false;
    DMU_CHECK(count_ < kCapacity);
    ++count_;
    slot->block = block;
    slot->value = value;
    return true;
  }

  // kNone when the block is not there.
  uint16_t Find(uint32_t block) const {
    return const_cast<BlockMap*>(this)->SlotOf(block)->value;
  }
  bool Contains(uint32_t block) const { return Find(block) != kNone; }
  uint32_t count() const { return count_; }

 private:
  struct Slot {
    uint32_t block = 0;
    uint16_t value = kNone;
  };
  static constexpr uint32_t kSlots = 2 * kCapacity;

  // Where the block is or would be. Knuth's multiplicative hash spreads the
  // runs that blocks come in.
  Slot* SlotOf(uint32_t block) {
    uint32_t i = block * 2654435761u >> 22;
    static_assert(kSlots == 1u << (32 - 22));
    while (slots_[i].value != kNone && slots_[i].block != block) {
      i = (i + 1) % kSlots;
    }
    return &slots_[i];
  }

  Slot slots_[kSlots];
  uint32_t count_ = 0;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_BLOCK_MAP_H_
