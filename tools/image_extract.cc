// SPDX-License-Identifier: Apache-2.0
//
// image_extract.cc - see image_extract.h.
#include "tools/image_extract.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"
#include "tools/image_source.h"
#include "tools/progress_bar.h"

namespace dmu::tools {

absl::StatusOr<uint64_t> ExtractImage(const ImageExtractOptions& options) {
  absl::StatusOr<ImageSource> image = ImageSource::Open(options.input_path);
  if (!image.ok()) return image.status();
  if (image->file().IsAt(options.output_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", options.output_path,
                     " is the input; choose another output"));
  }
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  const uint64_t size_bytes = image->size_bytes();
  absl::Status status = output->file().Truncate(size_bytes);
  ProgressBar bar("extracting ", options.progress, size_bytes);
  std::vector<uint8_t> buffer(1 << 20);
  for (uint64_t at = 0; status.ok() && at < size_bytes;) {
    uint64_t bytes = image->ZerosAt(at);
    if (bytes == 0) {
      bytes = std::min<uint64_t>(buffer.size(), size_bytes - at);
      const ByteSpan piece(buffer.data(), bytes);
      status = image->ReadAt(at, piece);
      if (status.ok()) status = output->file().WriteAt(at, piece);
    }
    at += bytes;
    bar.Add(bytes);
  }
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return size_bytes;
}

}  // namespace dmu::tools
