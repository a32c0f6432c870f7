// SPDX-License-Identifier: Apache-2.0
//
// merged_bytes.cc - see merged_bytes.h.
#include "daemon/merge/merged_bytes.h"

#include "daemon/base/types.h"

namespace dmu::merge {

MergedBytes::MergedBytes(const cow::Index& index, uint64_t merged_ops)
    : index_(index), merged_ops_(merged_ops) {
  if (merged_ops == 0) {
    next_block_ = cow::Index::kNoBlock;
  } else if (!index.Find(0).has_value()) {
    next_block_ = index.NextStart(0);
  }
}

bool MergedBytes::Step(uint32_t ops_max) {
  for (uint32_t i = 0; i < ops_max; ++i) {
    if (next_block_ == cow::Index::kNoBlock) return true;
    const auto found = index_.Find(next_block_);
    if (!found.has_value()) return true;
    if (found->position < merged_ops_) {
      bytes_ += uint64_t{kBlockBytes} * found->span_blocks();
    }
    next_block_ = index_.NextStart(next_block_);
  }
  return next_block_ == cow::Index::kNoBlock;
}

}  // namespace dmu::merge
