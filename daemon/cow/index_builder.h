// SPDX-License-Identifier: Apache-2.0
//
// index_builder.h - makes an Index from the ops, then what orders them.
//
// Steps, in this order: Begin, Add for every data op in the order of the file,
// Sort, then the merge order:
//   kSequence  AddToSequence for every entry of the sequence
//   kOrdered   AddListed for every copy and xor, in the order of the file
//   kFile      nothing
// and Finish. Sort and Finish take long for many ops; they are done in steps.
// Memory: 8 bytes per op, in place, and given back as far as the
// packed entries are smaller. Status codes are the loader's.
#ifndef DAEMON_COW_INDEX_BUILDER_H_
#define DAEMON_COW_INDEX_BUILDER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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

  // Entries looked at in a step, about a millisecond.
  static constexpr uint32_t kStepEntries = 32768;

  // After the last Add: once, then SortStep until it gives true. kDataLoss when
  // a multi-block op overlaps another op.
  void BeginSort(Index::Order order);
  absl::StatusOr<bool> SortStep();

  // The next entry of the sequence. kDataLoss when no op gives that block, or
  // when it was named before.
  absl::Status AddToSequence(uint32_t new_block);

  // The next copy or xor of the file, and its number. False when that op was
  // not added as such.
  bool AddListed(uint32_t number, const Op& op);

  // Orders the rest: until it gives true, then Take.
  bool FinishStep();
  Index Take();

 private:
  enum class Phase : uint8_t { kAdd, kSort, kOverlaps, kRepack, kSorted };

  // A part of the entries that differs in the lowest `bits` at the most, and
  // how far it is split by the highest of them: those before `low` do not have
  // it, those from `high` on do.
  struct Part {
    uint32_t begin = 0;
    uint32_t end = 0;
    uint32_t low = 0;
    uint32_t high = 0;
    uint8_t bits = 0;
  };
  static constexpr int kPartsMax = 66;

  absl::Status Reserve(uint64_t op_count);
  void PushPart(uint32_t begin, uint32_t end, int bits);
  void SortPart(uint32_t* left);
  absl::Status CheckOverlaps(uint32_t end);
  absl::Status BeginRepack();
  void Repack(uint32_t end);
  void EndRepack();

  Index index_;
  Index packed_;  // while it is made of index_, in the same memory mostly
  Phase phase_ = Phase::kAdd;
  uint32_t at_ = 0;  // of the phase, or of Finish
  Part parts_[kPartsMax];
  int part_count_ = 0;
  uint64_t last_entry_ = 0;
  bool is_sorted_ = true;
  uint64_t capacity_ = 0;
  uint32_t blocks_ = 0;  // highest first block of an op, and 1
  uint32_t listed_ = 0;
  bool finishing_ = false;
  uint32_t next_position_ = 0;
  Index::Found first_;  // Finish: the entry that stands for its block
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_INDEX_BUILDER_H_
