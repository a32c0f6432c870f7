// SPDX-License-Identifier: Apache-2.0
//
// image_source.cc - see image_source.h.
#include "tools/image_source.h"

namespace dmu::tools {

absl::StatusOr<ImageSource> ImageSource::Open(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<bool> is_sparse = SparseMap::IsSparse(*file);
  if (!is_sparse.ok()) return is_sparse.status();
  if (!*is_sparse) return ImageSource(*std::move(file), std::nullopt);
  absl::StatusOr<SparseMap> map = SparseMap::Load(*file);
  if (!map.ok()) return map.status();
  return ImageSource(*std::move(file), *std::move(map));
}

absl::Status ImageSource::ReadAt(uint64_t offset, ByteSpan out) const {
  return sparse_.has_value() ? sparse_->ReadAt(file_, offset, out)
                             : file_.ReadAt(offset, out);
}

}  // namespace dmu::tools
