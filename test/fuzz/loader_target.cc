// SPDX-License-Identifier: Apache-2.0
#include "test/fuzz/loader_target.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "daemon/base/check.h"
#include "daemon/cow/loader.h"

namespace dmu {

namespace {

void AskIndex(const cow::Image& image) {
  const cow::Index& index = image.index;
  const uint64_t last = std::min<uint64_t>(image.span_blocks + 2, 1 << 16);
  for (uint32_t block = 0; block < last; ++block) {
    const auto found = index.Find(block);
    if (found.has_value()) {
      DMU_CHECK(found->op < index.op_count());
      DMU_CHECK(found->new_block <= block);
      DMU_CHECK(block - found->new_block < (1u << found->span_log2));
      DMU_CHECK(found->position < index.merge_count());
    }
    DMU_CHECK(index.NextStart(block) > block);
  }
  // Every place of M is taken once, by an op or its duplicates.
  std::vector<bool> seen(index.merge_count());
  for (uint32_t rank = 0; rank < index.op_count(); ++rank) {
    const cow::Index::Found found = index.AtRank(rank);
    DMU_CHECK(found.position < index.merge_count());
    seen[found.position] = true;
  }
  DMU_CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
}

}  // namespace

bool RunLoader(const uint8_t* data, size_t size) {
  cow::Loader loader(size);
  // Every step feeds at least one byte of header, ops or sequence, most of them
  // twice; a loader that asks for more goes in circles.
  const size_t steps_max = 64 + 4 * (size / 64);
  for (size_t steps = 0; !loader.done(); ++steps) {
    DMU_CHECK(steps < steps_max);
    const cow::Loader::Want want = loader.want();
    DMU_CHECK(want.bytes <= cow::Loader::kChunkBytes);
    DMU_CHECK(want.offset <= size && want.bytes <= size - want.offset);
    if (!loader.Feed({data + want.offset, want.bytes}).ok()) return false;
  }
  const std::unique_ptr<cow::Image> image = loader.Take();
  DMU_CHECK(image->progress.merged_ops <= image->index.merge_count());
  DMU_CHECK(image->progress.scratch.size() <= cow::kScratchEntriesMax);
  AskIndex(*image);
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{4096}, uint64_t{1} << 30}) {
    for (const bool for_merge : {false, true}) {
      (void)cow::CheckBase(*image, bytes, for_merge).ok();
    }
    (void)cow::TargetBytes(*image, bytes);
  }
  return true;
}

}  // namespace dmu
