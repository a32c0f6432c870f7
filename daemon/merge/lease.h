// SPDX-License-Identifier: Apache-2.0
//
// lease.h - reads in flight whose bytes the merge is going to overwrite.
//
// A read of a pending copy reads the source, and a read of a window that waits
// for its replay reads the scratch region. The reader holds a lease on the
// op's position in the merge order until its I/O is done; a window is applied
// only when no lease lies before its end. No new lease on a window's positions
// is taken once its blocks are in staging, so waiting ends.
#ifndef DAEMON_MERGE_LEASE_H_
#define DAEMON_MERGE_LEASE_H_

#include <cstdint>

#include "daemon/base/check.h"

namespace dmu::merge {

// Owned by the reader; must be released before it goes away.
struct Lease {
  uint32_t position = 0;  // lowest merge position the read depends on
  bool held = false;
  Lease* next = nullptr;
  Lease* previous = nullptr;
};

class LeaseSet {
 public:
  LeaseSet() = default;
  LeaseSet(const LeaseSet&) = delete;
  LeaseSet& operator=(const LeaseSet&) = delete;
  ~LeaseSet() { DMU_CHECK(head_ == nullptr); }

  void Take(Lease* lease, uint32_t position) {
    DMU_CHECK(!lease->held);
    lease->held = true;
    lease->position = position;
    lease->previous = nullptr;
    lease->next = head_;
    if (head_ != nullptr) head_->previous = lease;
    head_ = lease;
  }

  void Release(Lease* lease) {
    DMU_CHECK(lease->held);
    lease->held = false;
    (lease->previous != nullptr ? lease->previous->next : head_) = lease->next;
    if (lease->next != nullptr) lease->next->previous = lease->previous;
    lease->next = lease->previous = nullptr;
  }

  // Whether a read depends on a position < end. O(leases held), which is at
  // most the number of reads in flight.
  bool AnyBelow(uint64_t end) const {
    for (const Lease* lease = head_; lease != nullptr; lease = lease->next) {
      if (lease->position < end) return true;
    }
    return false;
  }

 private:
  Lease* head_ = nullptr;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_LEASE_H_
