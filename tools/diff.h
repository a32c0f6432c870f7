// SPDX-License-Identifier: Apache-2.0
//
// diff.h - what turns one image into another, as ops in merge order.
//
// Owns: which block becomes what, and the order of the copies. Not: units,
// compression, the file (cow_create.h). The result depends on the images only,
// not on the number of threads.
// Memory: 16 to 20 bytes per block of the old image, 9 per block of the new
// one, 8 per copy; images are read, not mapped, so that a bad disk is an error
// and not a signal.
#ifndef TOOLS_DIFF_H_
#define TOOLS_DIFF_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"

namespace dmu::tools {

// An image of whole blocks. `read` fills the span from the offset (bytes,
// inside the image) and is called from several threads.
struct DiffImage {
  uint32_t blocks = 0;  // < UINT32_MAX
  std::function<absl::Status(uint64_t offset, ByteSpan out)> read;
};

struct DiffPlan {
  struct Copy {
    uint32_t new_block;
    uint32_t source;  // block of the old image
  };
  struct Run {
    uint32_t new_block;
    uint32_t blocks;
    bool zero;  // else the data of the new image
  };
  // In merge order: no copy reads a block that an earlier one overwrites. All
  // of them come before all of `rest`.
  std::vector<Copy> copies;
  std::vector<Run> rest;  // ascending; neighbours of one kind are joined
  uint64_t same_blocks = 0;
  uint64_t zero_blocks = 0;
  uint64_t replace_blocks = 0;
  uint64_t cycles_broken = 0;  // copies given up for the sake of the order
};

// done(bytes): so many bytes of the images were worked off; about the sum of
// both in all. Called from several threads.
absl::StatusOr<DiffPlan> PlanDiff(const DiffImage& old_image,
                                  const DiffImage& new_image, unsigned threads,
                                  const std::function<void(uint64_t)>& done);

// Puts copies into an order in which none reads what an earlier one overwrites.
// source[b]: block that block b is copied from, kNoSource if b is not copied.
// Copies given up to break a cycle get kNoSource. Returns the copies in order;
// *cycles_broken: how many were given up. A copy of a block to itself must not
// be there.
inline constexpr uint32_t kNoSource = UINT32_MAX;
std::vector<DiffPlan::Copy> OrderCopies(std::vector<uint32_t>* source,
                                        uint64_t* cycles_broken);

}  // namespace dmu::tools

#endif  // TOOLS_DIFF_H_
