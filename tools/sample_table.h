// SPDX-License-Identifier: Apache-2.0
//
// sample_table.h - where in the old image a piece of contents stands. Internal
// to the diff library.
//
// Positions are sampled by contents, so that the same bytes are sampled in both
// images wherever they stand; a sample is known by the 32 bytes at it. A slot
// keeps the least of the samples that fall to it: what the table holds does not
// depend on the order in which threads fill it.
#ifndef TOOLS_SAMPLE_TABLE_H_
#define TOOLS_SAMPLE_TABLE_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "daemon/base/types.h"

namespace dmu::tools {

class SampleTable {
 public:
  static constexpr uint32_t kWindowBytes = 32;
  static constexpr uint64_t kNone = UINT64_MAX;

  // For so many bytes of contents; 8 bytes of memory per slot.
  SampleTable(uint64_t content_bytes, uint64_t budget_bytes) {
    const uint64_t slots_max =
        std::bit_floor(std::max<uint64_t>(budget_bytes / 8, 2));
    while (content_bytes >> sample_bits_ > slots_max / 2) ++sample_bits_;
    const uint64_t slots = std::clamp<uint64_t>(
        std::bit_ceil((content_bytes >> sample_bits_) * 2 + 2), 2, slots_max);
    slot_shift_ = 64 - std::countr_zero(slots);
    slots_ = std::vector<std::atomic<uint64_t>>(slots);
  }

  uint64_t memory_bytes() const { return slots_.size() * sizeof(slots_[0]); }

  // Calls sample(i) for each sampled position among the first `positions`
  // bytes; kWindowBytes - 1 more must be readable.
  template <class Callback>
  void ForEachSample(const uint8_t* bytes, size_t positions,
                     const Callback& sample) const {
    const uint64_t mask = ~uint64_t{0} << (64 - sample_bits_);
    // Not 0: zeros must not be sampled.
    const uint64_t chosen = uint64_t{1} << (64 - sample_bits_);
    for (size_t i = 0; i < positions; ++i) {
      if ((Load(bytes + i) * kSampleFactor & mask) == chosen) sample(i);
    }
  }

  // Known by this, the window at `bytes`.
  static uint64_t HashWindow(const uint8_t* bytes) {
    uint64_t hash = 0;
    for (uint32_t i = 0; i < kWindowBytes; i += 8) {
      hash = (hash ^ Load(bytes + i)) * kHashFactor;
      hash ^= hash >> 32;
    }
    return hash * kHashFactor;
  }

  // The slot of the hash will be wanted soon. Slots are mostly not in a cache,
  // and an Add or Find by itself would wait for each.
  void Prefetch(uint64_t hash) const {
    __builtin_prefetch(&slots_[hash >> slot_shift_]);
  }

  // A window of this hash stands at `position` (< 2^44).
  void Add(uint64_t hash, uint64_t position) {
    std::atomic<uint64_t>& slot = slots_[hash >> slot_shift_];
    const uint64_t entry = ~((hash << kPositionBits) | position);
    uint64_t held = slot.load(std::memory_order_relaxed);
    while (entry > held && !slot.compare_exchange_weak(
                               held, entry, std::memory_order_relaxed)) {
    }
  }

  // The position of an equal window, very likely; or kNone.
  uint64_t Find(uint64_t hash) const {
    const uint64_t held =
        slots_[hash >> slot_shift_].load(std::memory_order_relaxed);
    const uint64_t found = ~held ^ (hash << kPositionBits);
    if (held == 0 || found >> kPositionBits != 0) return kNone;
    return found;
  }

 private:
  static constexpr int kPositionBits = 44;  // of 16 TiB; 20 are for the hash
  // Odd numbers with bits well mixed: 2^64 over the golden ratio, and others.
  static constexpr uint64_t kSampleFactor = 0x9e3779b97f4a7c15;
  static constexpr uint64_t kHashFactor = 0xd6e8feb86659fd93;

  static uint64_t Load(const uint8_t* bytes) {
    uint64_t value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }

  int sample_bits_ = 7;  // one position of 2^this is sampled
  int slot_shift_ = 0;
  // The complement of 20 bits of the hash above 44 of the position, so that 0,
  // what memory is at first, is a slot without a sample.
  std::vector<std::atomic<uint64_t>> slots_;
};

}  // namespace dmu::tools

#endif  // TOOLS_SAMPLE_TABLE_H_
