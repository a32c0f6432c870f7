// SPDX-License-Identifier: Apache-2.0
//
// base_check.cc - see base_check.h.
#include "daemon/cow/base_check.h"

#include <optional>

#include "absl/strings/str_format.h"
#include "daemon/cow/unit_check.h"

namespace dmu::cow {

namespace {

// Whether M begins with a copy or xor. Without any the old image does not
// matter, and Android's merge does not say that it has begun.
bool BeginsOrdered(const Index& index) {
  const uint32_t rank = index.RankOfPosition(0);
  return rank < index.op_count() && IsOrderedOp(index.AtRank(rank).type);
}

}  // namespace

uint32_t SamplesBytes(const Image& image) {
  if (image.samples_offset == 0) return 0;
  return image.extension.sample_count * kSampleBytes;
}

bool SampleCounts(const Image& image, const uint8_t* samples, uint32_t i,
                  Sample* sample) {
  *sample = DecodeSample(samples + size_t{i} * kSampleBytes);
  const uint64_t begin = uint64_t{sample->block} * kBlockBytes;
  if (begin + kBlockBytes > image.extension.base_bytes) return false;
  const std::optional<Index::Found> found = image.index.Find(sample->block);
  // Behind the target's end a base may have been cut.
  if (!found.has_value()) {
    return begin + kBlockBytes <= image.extension.target_bytes;
  }
  if (found->position >= image.progress.merged_ops + kMergeAheadMax) {
    return true;
  }
  return image.progress.untouched && image.header.has_scratch() &&
         BeginsOrdered(image.index);
}

absl::Status CheckSample(const Sample& sample, ConstByteSpan block) {
  const uint32_t found = UnitCheck(block);
  if (found == sample.check) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "wrong base: its block %u has checksum %08x, in the image the COW file "
      "was made from it has %08x; give the image it was made from",
      sample.block, found, sample.check));
}

}  // namespace dmu::cow
