// SPDX-License-Identifier: Apache-2.0
//
// diff_near.h - blocks that are almost some 4096 bytes of the old image, at any
// byte offset. Internal to the diff library.
//
// Such a block becomes an xor, whose data are mostly zeros. Only what is lost
// from the old image is searched: blocks that neither stay nor are copied. That
// is where the older version of changed contents stands.
#ifndef TOOLS_DIFF_NEAR_H_
#define TOOLS_DIFF_NEAR_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "tools/diff.h"
#include "tools/diff_compare.h"

namespace dmu::tools {

// Largest table of samples for an old image of so many blocks. What is searched
// is sampled the more thinly the more there is of it.
constexpr uint64_t NearBudgetBytes(uint32_t old_blocks) {
  return std::max<uint64_t>(uint64_t{8} << 20, uint64_t{8} * old_blocks);
}

// Makes an xor of each replace for which that is likely to be smaller, sets its
// source (bytes) and its gain: stored bytes that it saves, about.
absl::Status FindNearSources(const DiffImage& old_image,
                             const DiffImage& new_image, unsigned threads,
                             uint64_t budget_bytes, Comparison* comparison,
                             std::vector<uint64_t>* sources,
                             std::vector<uint16_t>* gains);

}  // namespace dmu::tools

#endif  // TOOLS_DIFF_NEAR_H_
