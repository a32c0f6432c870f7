// SPDX-License-Identifier: Apache-2.0
//
// image_extract.cc - see image_extract.h.
#include "tools/image_extract.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"
#include "tools/image_source.h"
#include "tools/payload.h"
#include "tools/progress_bar.h"

namespace dmu::tools {

namespace {

absl::StatusOr<uint64_t> ExtractPartition(const File& file,
                                          const ImageExtractOptions& options) {
  const absl::StatusOr<Payload> payload = Payload::Load(file);
  if (!payload.ok()) return payload.status();
  if (options.partition.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.input_path, " has several images; name one of ",
                     absl::StrJoin(payload->PartitionNames(), ", ")));
  }
  const auto partition = payload->Find(options.partition);
  if (!partition.ok()) return partition.status();
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  const uint64_t size_bytes = (*partition)->new_partition_info().size();
  absl::Status status = output->file().Truncate(size_bytes);
  ProgressBar bar("extracting ", options.progress, size_bytes);
  if (status.ok()) {
    status = payload->Extract(file, **partition, output->file(),
                              [&bar](uint64_t bytes) { bar.Add(bytes); });
  }
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return size_bytes;
}

}  // namespace

absl::StatusOr<uint64_t> ExtractImage(const ImageExtractOptions& options) {
  absl::StatusOr<File> file = File::OpenForRead(options.input_path);
  if (!file.ok()) return file.status();
  if (file->IsAt(options.output_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", options.output_path,
                     " is the input; choose another output"));
  }
  const absl::StatusOr<bool> is_payload = Payload::IsPayload(*file);
  if (!is_payload.ok()) return is_payload.status();
  if (*is_payload) return ExtractPartition(*file, options);
  if (!options.partition.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.input_path, " is no payload.bin: it has no partition ",
        options.partition));
  }
  absl::StatusOr<ImageSource> image = ImageSource::Open(options.input_path);
  if (!image.ok()) return image.status();
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
