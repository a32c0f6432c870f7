// SPDX-License-Identifier: Apache-2.0
//
// base_identity.cc - see base_identity.h.
#include "tools/base_identity.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/cow/base_check.h"
#include "tools/sparse_map.h"

namespace dmu::tools {

absl::Status CheckBaseIdentity(const CowFile& cow, const File& base) {
  const cow::Image& image = *cow.image;
  absl::Status status =
      cow::CheckBase(image, base.size_bytes(), /*for_merge=*/false);
  std::vector<uint8_t> samples(cow::SamplesBytes(image));
  if (status.ok() && !samples.empty()) {
    absl::Status read = cow.file.ReadAt(image.samples_offset, samples);
    if (!read.ok()) return read;
  }
  uint8_t block[kBlockBytes];
  for (uint32_t i = 0; status.ok() && i < samples.size() / cow::kSampleBytes;
       ++i) {
    cow::Sample sample;
    if (!cow::SampleCounts(image, samples.data(), i, &sample)) continue;
    absl::Status read =
        base.ReadAt(uint64_t{sample.block} * kBlockBytes, block);
    if (!read.ok()) return read;
    status = cow::CheckSample(sample, block);
  }
  if (status.ok()) return status;
  const absl::StatusOr<bool> is_sparse = SparseMap::IsSparse(base);
  return absl::Status(
      status.code(),
      absl::StrCat(base.path(), ": ", status.message(),
                   is_sparse.ok() && *is_sparse
                       ? "; it is a sparse image: make it a plain one with "
                         "\"dmuserctl image extract\""
                       : ""));
}

}  // namespace dmu::tools
