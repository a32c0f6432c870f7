// SPDX-License-Identifier: Apache-2.0
//
// slot_walk.h - the way through the op slots of a version 1 or 2 file, and to
// the data of each.
//
// Where a slot stands, and the data of its op, follows from all ops before it.
// Reader and writer both take it from here.
#ifndef DAEMON_COW_SLOT_WALK_H_
#define DAEMON_COW_SLOT_WALK_H_

#include <cstdint>

#include "daemon/cow/format.h"

namespace dmu::cow {

class SlotWalk {
 public:
  explicit SlotWalk(const Header& header)
      : cluster_ops_(header.cluster_ops),
        cluster_bytes_(header.ClusterBytes()),
        slot_offset_(header.FirstOpOffset()),
        data_offset_(slot_offset_ + DataGap()) {}

  // Of the next slot.
  uint64_t slot_offset() const { return slot_offset_; }
  // Where the data of the op in it is, if it has any.
  uint64_t data_offset() const { return data_offset_; }
  // Slots that follow each other from here on; >= 1.
  uint32_t slots_in_reach() const {
    return cluster_ops_ > slots_used_ ? cluster_ops_ - slots_used_ : 1;
  }
  // Slots of this cluster that are used.
  uint32_t slots_used() const { return slots_used_; }
  // Data bytes of this cluster so far.
  uint64_t cluster_data_bytes() const { return cluster_data_bytes_; }
  // Whether the next slot is this cluster's last one and so must hold a cluster
  // op.
  bool cluster_is_full() const {
    return cluster_ops_ != 0 && slots_used_ + 2 > cluster_ops_;
  }
  // What a cluster op in the next slot has to say.
  uint64_t ClusterSource() const {
    return data_offset_ - (slot_offset_ + kOpBytesV2);
  }

  // The next slot holds this op. False for a cluster op that does not lead to
  // where the data before it ends, which is where the next cluster must be, and
  // for ops that cannot be walked over: cluster and sequence ops in a file
  // without clusters (Android's own reader loses its way behind the latter).
  bool Step(const Op& op) {
    slot_offset_ += kOpBytesV2;
    const uint64_t data_length = HasData(op.type) ? op.data_length : 0;
    if (cluster_ops_ == 0) {
      if (op.type == OpType::kCluster || op.type == OpType::kSequence) {
        return false;
      }
      slot_offset_ += data_length;
      data_offset_ = slot_offset_ + kOpBytesV2;
      return true;
    }
    ++slots_used_;
    if (op.type != OpType::kCluster) {
      data_offset_ += data_length;
      cluster_data_bytes_ += data_length;
      return true;
    }
    if (op.source != data_offset_ - slot_offset_) return false;
    slot_offset_ = data_offset_;
    data_offset_ += cluster_bytes_;
    slots_used_ = 0;
    cluster_data_bytes_ = 0;
    return true;
  }

 private:
  uint64_t DataGap() const {
    return cluster_ops_ != 0 ? cluster_bytes_ : kOpBytesV2;
  }

  uint32_t cluster_ops_;
  uint64_t cluster_bytes_;
  uint64_t slot_offset_;
  uint64_t data_offset_;
  uint32_t slots_used_ = 0;
  uint64_t cluster_data_bytes_ = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_SLOT_WALK_H_
