// SPDX-License-Identifier: Apache-2.0
//
// undo_log.cc - see undo_log.h.
#include "tools/undo_log.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "tools/progress_bar.h"

namespace dmu::tools {
namespace {

absl::Status Named(const File& file, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(file.path(), ": ", status.message()));
}

absl::Status Feed(const File& file, merge::UndoLoader* loader,
                  ProgressBar* bar) {
  std::vector<uint8_t> bytes(merge::UndoLoader::kChunkBytes);
  while (!loader->done()) {
    const merge::UndoLoader::Want want = loader->want();
    const ByteSpan part(bytes.data(), want.bytes);
    absl::Status status = file.ReadAt(want.offset, part);
    if (!status.ok()) return status;
    status = loader->Feed(part);
    if (!status.ok()) return Named(file, status);
    if (bar != nullptr) bar->Update(want.offset, file.size_bytes());
  }
  return absl::OkStatus();
}

// Whether nothing would be lost if a log began here. An image may begin with
// a block of zeros, too.
absl::Status CheckUnused(const File& file) {
  constexpr uint64_t kLookedAtBytes = 1024 * 1024;
  std::vector<uint8_t> bytes(std::min(file.size_bytes(), kLookedAtBytes));
  absl::Status status = file.ReadAt(0, bytes);
  if (!status.ok()) return status;
  const bool unused = file.is_block_device()
                          ? std::all_of(bytes.begin(), bytes.end(),
                                        [](uint8_t byte) { return byte == 0; })
                          : file.size_bytes() <= kBlockBytes;
  if (unused) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      file.path(), " is no undo log, and not empty; ",
      file.is_block_device() ? "clear its first MiB if it may be overwritten"
                             : "name a file that does not exist"));
}

// Room for the whole log, so that a merge does not stop half-way for the want
// of it.
absl::Status Reserve(const File& file, uint64_t bytes) {
  if (!file.is_block_device()) return file.Reserve(bytes);
  if (file.size_bytes() >= bytes) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      file.path(), " has ", file.size_bytes(), " bytes, the undo log of this ",
      "merge may need ", bytes, "; give it a larger device"));
}

}  // namespace

absl::StatusOr<UndoLog> OpenUndoLog(const std::string& path,
                                    const cow::Image& image,
                                    uint64_t base_bytes) {
  UndoLog log;
  absl::StatusOr<File> file = File::OpenForWrite(path);
  const bool made = absl::IsNotFound(file.status());
  if (made) file = File::CreateForWrite(path);
  if (!file.ok()) return file.status();
  log.file = *std::move(file);
  merge::UndoLoader loader(image, log.file.size_bytes(),
                           merge::UndoLoader::Purpose::kAppend);
  absl::Status status = Feed(log.file, &loader, nullptr);
  log.tail = loader.tail();
  log.super = loader.super();
  if (status.ok() && loader.fresh()) status = CheckUnused(log.file);
  if (status.ok() && loader.fresh()) {
    status = Reserve(log.file, merge::UndoLogBytes(image));
  }
  if (status.ok() && loader.fresh()) {
    std::vector<uint8_t> block(kBlockBytes);
    log.super = merge::UndoLoader::MakeSuperblock(image, base_bytes);
    log.tail.previous = merge::EncodeUndoSuperblock(log.super, block.data());
    status = log.file.WriteAt(0, block);
    if (status.ok()) status = log.file.SyncWithName();
    // The daemon writes within the size that it finds.
    if (status.ok() && !log.file.is_block_device()) {
      status = log.file.Resize(merge::UndoLogBytes(image));
      if (status.ok()) status = log.file.Sync();
    }
  }
  if (!status.ok()) {
    if (made) log.file.Remove();
    return status;
  }
  log.limit_bytes =
      log.file.is_block_device() ? log.file.size_bytes() : UINT64_MAX;
  return log;
}

absl::StatusOr<std::unique_ptr<merge::UndoLoader>> LoadUndoLog(
    const File& file, const cow::Image& image, bool progress) {
  auto loader = std::make_unique<merge::UndoLoader>(
      image, file.size_bytes(), merge::UndoLoader::Purpose::kUndo);
  ProgressBar bar("checking", progress, file.size_bytes());
  absl::Status status = Feed(file, loader.get(), &bar);
  if (!status.ok()) return status;
  return loader;
}

absl::Status SaveTail(const UndoLog& log, const File& base,
                      uint64_t target_bytes, merge::UndoTail tail) {
  const uint64_t merge_ops = log.super.merge_ops;
  std::vector<uint8_t> buffer((1 + merge::kUndoGroupBlocksMax) *
                              size_t{kBlockBytes});
  const auto end = static_cast<uint32_t>(base.size_bytes() / kBlockBytes);
  auto block = static_cast<uint32_t>(target_bytes / kBlockBytes);
  while (block < end) {
    merge::UndoGroup group;
    group.previous = tail.previous;
    group.begin_position = group.end_position = merge_ops;
    group.window_position = merge_ops;
    group.kind = merge::UndoKind::kTail;
    group.count = std::min(merge::kUndoGroupBlocksMax, end - block);
    const ByteSpan data =
        ByteSpan(buffer).subspan(kBlockBytes, group.count * kBlockBytes);
    absl::Status status = base.ReadAt(uint64_t{block} * kBlockBytes, data);
    if (!status.ok()) return status;
    for (uint32_t i = 0; i < group.count; ++i) {
      group.entries[i] = {
          block + i, static_cast<uint32_t>(merge_ops),
          merge::UndoBlockCheck(data.data() + size_t{i} * kBlockBytes)};
    }
    tail.previous = merge::EncodeUndoGroup(group, buffer.data());
    status =
        log.file.WriteAt(tail.offset, ByteSpan(buffer).first(group.bytes()));
    if (!status.ok()) return status;
    tail.offset += group.bytes();
    block += group.count;
  }
  absl::Status status = log.file.SyncData();
  if (!status.ok()) return status;
  merge::UndoSuperblock super = log.super;
  super.durable_position = merge_ops + 1;
  merge::EncodeUndoSuperblock(super, buffer.data());
  status = log.file.WriteAt(0, ByteSpan(buffer).first(kSectorBytes));
  return status.ok() ? log.file.SyncData() : status;
}

}  // namespace dmu::tools
