// SPDX-License-Identifier: Apache-2.0
//
// cow_file.cc - drives the loader with preads.
#include "tools/cow_file.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dmu::tools {

absl::StatusOr<std::unique_ptr<cow::Image>> LoadImage(const File& file) {
  // Not the size it had when it was opened: a file just written grew since.
  absl::StatusOr<uint64_t> file_bytes = file.SizeNow();
  if (!file_bytes.ok()) return file_bytes.status();
  cow::Loader loader(*file_bytes);
  std::vector<uint8_t> chunk(cow::Loader::kChunkBytes);
  while (!loader.done()) {
    const cow::Loader::Want want = loader.want();
    const ByteSpan bytes(chunk.data(), want.bytes);
    absl::Status status = file.ReadAt(want.offset, bytes);
    if (!status.ok()) return status;
    status = loader.Feed(bytes);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(file.path(), ": ", status.message()));
    }
  }
  return loader.Take();
}

absl::StatusOr<CowFile> OpenCowFile(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<cow::Image>> image = LoadImage(*file);
  if (!image.ok()) return image.status();
  return CowFile{*std::move(file), *std::move(image)};
}

absl::StatusOr<cow::Op> ReadOp(const CowFile& cow, uint32_t number) {
  uint8_t bytes[cow::kOpBytes];
  absl::Status status = cow.file.ReadAt(
      cow.image->header.OpsOffset() + uint64_t{cow::kOpBytes} * number, bytes);
  if (!status.ok()) return status;
  cow::Op op;
  if (!cow::DecodeOp(bytes, &op)) {
    return absl::DataLossError(absl::StrCat(cow.file.path(), ": op ", number,
                                            " changed while it was in use"));
  }
  return op;
}

}  // namespace dmu::tools
