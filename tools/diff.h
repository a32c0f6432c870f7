// SPDX-License-Identifier: Apache-2.0
//
// diff.h - what turns one image into another, as ops in merge order.
//
// Owns: which block becomes what, the order of the ops that read the old image,
// and the digests of both images. Not: units, compression, the file
// (cow_create.h). The result depends on the images only, not on the number of
// threads.
// Memory: for two images of one size 8 MiB, or 8 bytes per block if that is
// more, for samples, and beside them at most 40 bytes per block; or 60 bytes
// per block that is copied or xored, while these are ordered. 0.5 MiB per
// thread. That is 14 MiB for images of 512 MiB, 0.8 to 1 GiB for 64 GiB.
// Images are read, not mapped, so that a bad disk is an error and not a signal.
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
  // A block made from 4096 bytes of the old image.
  struct Ordered {
    uint32_t new_block;
    bool is_xor;            // the bytes xored with data; else a plain copy
    uint64_t source_bytes;  // where they begin; a multiple of 4096 for a copy
    bool operator==(const Ordered&) const = default;
  };
  struct Run {
    uint32_t new_block;
    uint32_t blocks;
    bool zero;  // else the data of the new image
    bool operator==(const Run&) const = default;
  };
  // In merge order: none reads a block that an earlier one overwrites. An xor
  // may read the block it overwrites, a copy never does. All of them come
  // before all of `rest`.
  std::vector<Ordered> ordered;
  std::vector<Run> rest;  // ascending; neighbours of one kind are joined
  uint64_t same_blocks = 0;
  uint64_t copy_blocks = 0;
  uint64_t xor_blocks = 0;
  uint64_t zero_blocks = 0;
  uint64_t replace_blocks = 0;
  uint64_t cycles_broken = 0;  // ordered ops given up for the sake of the order

  // XXH3-64 over the XXH3-64 of every block (u64 little-endian each); for each
  // 256 blocks of the new image (the last ones may be fewer) its low half.
  uint64_t base_digest = 0;
  uint64_t target_digest = 0;
  std::vector<uint32_t> target_checks;

  // Blocks of the old image that are not zeros, by which it is known again;
  // check: low half of XXH3-64. As many of blocks that stay, which are there
  // after a merge too, as of blocks that do not, which tell it from a sibling.
  struct Sample {
    uint32_t block;
    uint32_t check;
    bool operator==(const Sample&) const = default;
  };
  static constexpr uint32_t kSamplesMax = 64;
  std::vector<Sample> samples;  // ascending
};

// done(bytes): so many bytes of the images were worked off; about the sum of
// both in all. Called from several threads.
absl::StatusOr<DiffPlan> PlanDiff(const DiffImage& old_image,
                                  const DiffImage& new_image, unsigned threads,
                                  const std::function<void(uint64_t)>& done);

// Puts ops into an order in which none reads what an earlier one overwrites; no
// two may give the same block. Where they form cycles some are given up: their
// blocks are returned and they leave `ops`. loss[i]: what giving up ops[i]
// costs, by which they are chosen.
std::vector<uint32_t> OrderOps(std::vector<DiffPlan::Ordered>* ops,
                               const std::vector<uint16_t>& loss);

}  // namespace dmu::tools

#endif  // TOOLS_DIFF_H_
