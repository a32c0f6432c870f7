// SPDX-License-Identifier: Apache-2.0
//
// image_source.h - an image to be read, whatever file it comes in: the bytes
// themselves, a block device, or Android's sparse format.
#ifndef TOOLS_IMAGE_SOURCE_H_
#define TOOLS_IMAGE_SOURCE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"
#include "tools/sparse_map.h"

namespace dmu::tools {

class ImageSource {
 public:
  // A regular file whose first bytes say that it is sparse is taken for that,
  // and judged; all else are the bytes of the image. Codes of File and
  // SparseMap::Load.
  static absl::StatusOr<ImageSource> Open(const std::string& path);

  // Of the image.
  uint64_t size_bytes() const {
    return sparse_.has_value() ? sparse_->size_bytes() : file_.size_bytes();
  }
  bool is_sparse() const { return sparse_.has_value(); }
  const File& file() const { return file_; }

  // The whole range, which must be inside the image. Any thread.
  absl::Status ReadAt(uint64_t offset, ByteSpan out) const;

  // As SparseMap::ZerosAt; 0 when the file says nothing of it.
  uint64_t ZerosAt(uint64_t offset) const {
    return sparse_.has_value() ? sparse_->ZerosAt(offset) : 0;
  }

 private:
  ImageSource(File file, std::optional<SparseMap> sparse)
      : file_(std::move(file)), sparse_(std::move(sparse)) {}

  File file_;
  std::optional<SparseMap> sparse_;
};

}  // namespace dmu::tools

#endif  // TOOLS_IMAGE_SOURCE_H_
