// SPDX-License-Identifier: Apache-2.0
//
// cow_extract.cc - see cow_extract.h. Zero blocks stay holes in the output.
#include "tools/cow_extract.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "tools/base_identity.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/progress_bar.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

struct Range {
  uint64_t begin_bytes = 0;
  uint64_t bytes = 0;
};

absl::StatusOr<Range> RangeOf(const ExtractOptions& options,
                              uint64_t target_bytes) {
  const uint64_t sectors = target_bytes / kSectorBytes;
  if (options.first_sector == 0 && options.sectors == UINT64_MAX) {
    return Range{0, target_bytes};
  }
  if (options.first_sector > sectors ||
      options.sectors > sectors - options.first_sector) {
    return absl::InvalidArgumentError(
        absl::StrCat("sectors ", options.first_sector, " to ",
                     options.first_sector + options.sectors - 1,
                     " are not all inside the image, which has ", sectors));
  }
  return Range{options.first_sector * kSectorBytes,
               options.sectors * kSectorBytes};
}

absl::Status WriteTarget(TargetReader* reader, const Range& range,
                         const File& output, bool progress) {
  // The size first: it is the one write that tells early that a file system
  // cannot hold such a file.
  if (ftruncate(output.fd(), static_cast<off_t>(range.bytes)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("size ", output.path()));
  }
  ProgressBar bar("extracting", progress, range.bytes);
  for (uint64_t done = 0; done < range.bytes;) {
    const uint64_t offset = range.begin_bytes + done;
    const uint64_t within = offset % kBlockBytes;
    absl::StatusOr<TargetReader::Piece> piece =
        reader->ReadPiece(static_cast<uint32_t>(offset / kBlockBytes));
    if (!piece.ok()) return piece.status();
    const uint64_t length = std::min<uint64_t>(
        uint64_t{piece->blocks} * kBlockBytes - within, range.bytes - done);
    if (!piece->zero) {
      absl::Status status =
          output.WriteAt(done, piece->bytes.subspan(within, length));
      if (!status.ok()) return status;
    }
    done += length;
    bar.Add(length);
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const ExtractOptions& options,
                         std::initializer_list<const File*> inputs) {
  for (const File* input : inputs) {
    if (input == nullptr || !input->IsAt(options.output_path)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", options.output_path, " is the input ",
                     input->path(), "; choose another output"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> ExtractTarget(const ExtractOptions& options) {
  absl::StatusOr<CowFile> cow = OpenCowFile(options.cow_path, options.label);
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenForRead(options.base_path);
  if (!base.ok()) return base.status();
  absl::StatusOr<File> source;
  if (!options.source_path.empty()) {
    source = File::OpenForRead(options.source_path);
    if (!source.ok()) return source.status();
  }
  const File* source_file = options.source_path.empty() ? nullptr : &*source;
  absl::Status status = CheckBaseIdentity(*cow, *base);
  if (!status.ok()) return status;
  absl::StatusOr<TargetReader> reader =
      TargetReader::Create(*cow, *base, source_file);
  if (!reader.ok()) return reader.status();
  const absl::StatusOr<Range> range = RangeOf(options, reader->target_bytes());
  if (!range.ok()) return range.status();
  status = CheckOutput(options, {&cow->file, &*base, source_file});
  if (!status.ok()) return status;
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  status = WriteTarget(&*reader, *range, output->file(), options.progress);
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return range->bytes;
}

}  // namespace dmu::tools
