// SPDX-License-Identifier: Apache-2.0
//
// cow_file.cc - drives the loader with preads.
#include "tools/cow_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dmu::tools {

absl::StatusOr<std::unique_ptr<cow::Image>> LoadImage(
    const File& file, std::optional<uint64_t> label) {
  // Not the size it had when it was opened: a file just written grew since.
  absl::StatusOr<uint64_t> file_bytes = file.SizeNow();
  if (!file_bytes.ok()) return file_bytes.status();
  cow::Loader loader(*file_bytes, label);
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

absl::StatusOr<CowFile> OpenCowFile(const std::string& path,
                                    std::optional<uint64_t> label) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<cow::Image>> image = LoadImage(*file, label);
  if (!image.ok()) return image.status();
  return CowFile{*std::move(file), *std::move(image)};
}

absl::Status ForEachOp(
    const CowFile& cow,
    const std::function<absl::Status(uint32_t, const cow::Op&)>& visit) {
  const cow::OpTable& table = cow.image->ops;
  std::vector<uint8_t> page_bytes(cow::OpTable::kPageBytesMax);
  std::vector<cow::Op> ops(cow::OpTable::kPageOps);
  for (uint32_t n = 0; n < table.page_count(); ++n) {
    const cow::OpTable::Page page = table.PageAt(n);
    const ByteSpan bytes(page_bytes.data(), page.bytes);
    absl::Status status = cow.file.ReadAt(page.offset, bytes);
    if (status.ok() && !table.DecodeAll(page, bytes.data(), ops.data())) {
      status = absl::DataLossError(
          absl::StrCat(cow.file.path(), ": the ops from ", page.first_op,
                       " on changed while the file was in use"));
    }
    for (uint32_t i = 0; i < page.ops && status.ok(); ++i) {
      status = visit(page.first_op + i, ops[i]);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
