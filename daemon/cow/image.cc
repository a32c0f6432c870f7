// SPDX-License-Identifier: Apache-2.0
//
// image.cc - see image.h.
#include "daemon/cow/image.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace dmu::cow {

absl::Status CheckBase(const Image& image, uint64_t base_bytes,
                       bool for_merge) {
  if (image.has_extension) {
    const Extension& ext = image.extension;
    const uint64_t larger = std::max(ext.base_bytes, ext.target_bytes);
    // A base whose merge is over may have been cut to the target's size.
    const bool merged =
        !image.partial &&
        image.progress.merged_ops == image.index.merge_count() &&
        base_bytes == ext.target_bytes;
    if (base_bytes != ext.base_bytes && base_bytes != larger && !merged) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "wrong base: it has %u bytes, the COW file was made from an image of "
          "%u bytes; give the image it was made from",
          base_bytes, ext.base_bytes));
    }
    if (for_merge && base_bytes < ext.target_bytes) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "the base has %u bytes, the target image %u; grow the base to %u "
          "bytes before merging",
          base_bytes, ext.target_bytes, ext.target_bytes));
    }
    return absl::OkStatus();
  }
  if (image.source_end_bytes > base_bytes) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "wrong base: it has %u bytes, the COW file reads it up to %u",
        base_bytes, image.source_end_bytes));
  }
  const uint64_t blocks = base_bytes / kBlockBytes;
  if (for_merge && image.span_blocks > blocks) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the base has %u blocks, the target image at least %u; grow the base "
        "before merging",
        blocks, image.span_blocks));
  }
  return absl::OkStatus();
}

uint64_t TargetBytes(const Image& image, uint64_t base_bytes) {
  if (image.has_extension) return image.extension.target_bytes;
  return std::max(base_bytes, image.span_blocks * kBlockBytes);
}

}  // namespace dmu::cow
