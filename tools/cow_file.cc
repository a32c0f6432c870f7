// SPDX-License-Identifier: Apache-2.0
//
// cow_file.cc - drives the loader with preads.
#include "tools/cow_file.h"

#include <algorithm>
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

namespace {

absl::StatusOr<cow::Op> DecodeChecked(const CowFile& cow, uint32_t number,
                                      const uint8_t* bytes) {
  cow::Op op;
  if (cow::DecodeOp(bytes, &op)) return op;
  return absl::DataLossError(absl::StrCat(cow.file.path(), ": op ", number,
                                          " changed while it was in use"));
}

uint64_t OffsetOfOp(const CowFile& cow, uint32_t number) {
  return cow.image->header.OpsOffset() + uint64_t{cow::kOpBytes} * number;
}

}  // namespace

absl::StatusOr<cow::Op> ReadOp(const CowFile& cow, uint32_t number) {
  uint8_t bytes[cow::kOpBytes];
  absl::Status status = cow.file.ReadAt(OffsetOfOp(cow, number), bytes);
  if (!status.ok()) return status;
  return DecodeChecked(cow, number, bytes);
}

absl::Status ForEachOp(
    const CowFile& cow,
    const std::function<absl::Status(uint32_t, const cow::Op&)>& visit) {
  const uint32_t count = cow.image->index.op_count();
  constexpr uint32_t kOpsPerRead = 4096;
  std::vector<uint8_t> chunk(size_t{kOpsPerRead} * cow::kOpBytes);
  for (uint32_t first = 0; first < count; first += kOpsPerRead) {
    const uint32_t ops = std::min(kOpsPerRead, count - first);
    absl::Status status =
        cow.file.ReadAt(OffsetOfOp(cow, first),
                        ByteSpan(chunk.data(), size_t{ops} * cow::kOpBytes));
    for (uint32_t i = 0; i < ops && status.ok(); ++i) {
      const absl::StatusOr<cow::Op> op =
          DecodeChecked(cow, first + i, chunk.data() + i * cow::kOpBytes);
      status = op.ok() ? visit(first + i, *op) : op.status();
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
