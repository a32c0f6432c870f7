// SPDX-License-Identifier: Apache-2.0
//
// diff_compare.h - the first look at two images: which blocks stay, and the
// hash of every block of both. Internal to the diff library.
//
// Memory: 8 bytes per old block, 9 per new one, and 256 KiB per thread.
#ifndef TOOLS_DIFF_COMPARE_H_
#define TOOLS_DIFF_COMPARE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "tools/diff.h"

namespace dmu::tools {

// What the threads take at a time. Also what one of the target checks covers.
inline constexpr uint32_t kChunkBlocks = 256;  // 1 MiB

constexpr uint64_t OffsetOf(uint64_t block) { return block * kBlockBytes; }
constexpr uint64_t ChunksOf(uint64_t blocks) {
  return (blocks + kChunkBlocks - 1) / kChunkBlocks;
}

// What becomes of a block of the new image. Comparing tells the first three;
// a replace may turn out to be a copy or xor later.
enum class BlockKind : uint8_t { kSame, kZero, kReplace, kCopy, kXor };

struct Comparison {
  std::vector<uint64_t> old_hashes;  // XXH3-64
  std::vector<uint64_t> new_hashes;
  std::vector<BlockKind> kinds;  // of the new image
  std::vector<uint32_t> target_checks;
  uint64_t zero_hash = 0;  // of a block of zeros
  bool any_replace = false;
};

absl::Status CompareImages(const DiffImage& old_image,
                           const DiffImage& new_image, unsigned threads,
                           const std::function<void(uint64_t)>& done,
                           Comparison* result);

}  // namespace dmu::tools

#endif  // TOOLS_DIFF_COMPARE_H_
