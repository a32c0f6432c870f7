// SPDX-License-Identifier: Apache-2.0
//
// merged_bytes.h - how much of the base a merge that was interrupted has
// written, which the COW file does not say: its counter counts ops.
#ifndef DAEMON_MERGE_MERGED_BYTES_H_
#define DAEMON_MERGE_MERGED_BYTES_H_

#include <cstdint>

#include "daemon/cow/index.h"

namespace dmu::merge {

// Adds up in steps, so that a loop with other work need not wait.
class MergedBytes {
 public:
  // `index` must outlive this. Ops before position `merged_ops` count.
  MergedBytes(const cow::Index& index, uint64_t merged_ops);

  // Looks at up to ops_max (>= 1) more ops; true when all were seen.
  bool Step(uint32_t ops_max);
  uint64_t bytes() const { return bytes_; }

 private:
  const cow::Index& index_;
  const uint64_t merged_ops_;
  uint64_t bytes_ = 0;
  uint32_t next_block_ = 0;
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_MERGED_BYTES_H_
