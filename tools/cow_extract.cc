// SPDX-License-Identifier: Apache-2.0
//
// cow_extract.cc - see cow_extract.h. Zero blocks stay holes in the output.
#include "tools/cow_extract.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/progress_bar.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

absl::Status WriteTarget(TargetReader* reader, const File& output,
                         bool progress) {
  const uint64_t bytes = reader->target_bytes();
  // The size first: it is the one write that tells early that a file system
  // cannot hold such a file.
  if (ftruncate(output.fd(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("size ", output.path()));
  }
  ProgressBar bar("extracting", progress, bytes);
  for (uint64_t offset = 0; offset < bytes;) {
    absl::StatusOr<TargetReader::Piece> piece =
        reader->ReadPiece(static_cast<uint32_t>(offset / kBlockBytes));
    if (!piece.ok()) return piece.status();
    const uint64_t length = std::min<uint64_t>(
        uint64_t{piece->blocks} * kBlockBytes, bytes - offset);
    if (!piece->zero) {
      absl::Status status =
          output.WriteAt(offset, piece->bytes.subspan(0, length));
      if (!status.ok()) return status;
    }
    offset += length;
    bar.Add(length);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> ExtractTarget(const ExtractOptions& options) {
  absl::StatusOr<CowFile> cow = OpenCowFile(options.cow_path);
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenForRead(options.base_path);
  if (!base.ok()) return base.status();
  absl::StatusOr<TargetReader> reader = TargetReader::Create(*cow, *base);
  if (!reader.ok()) return reader.status();
  for (const File* input : {&cow->file, &*base}) {
    if (!input->IsAt(options.output_path)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", options.output_path, " is the input ",
                     input->path(), "; choose another output"));
  }
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  absl::Status status = WriteTarget(&*reader, output->file(), options.progress);
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return reader->target_bytes();
}

}  // namespace dmu::tools
