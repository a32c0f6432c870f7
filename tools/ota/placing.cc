// SPDX-License-Identifier: Apache-2.0
//
// placing.cc - see placing.h.
#include "tools/ota/placing.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/cow/format.h"
#include "daemon/merge/undo_format.h"
#include "tools/file_io.h"
#include "tools/sha256.h"

namespace dmu::ota {
namespace {

using tools::File;

constexpr size_t kChunkBytes = 1 << 20;

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status RemoveFile(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return tools::ErrnoStatus(errno, absl::StrCat("remove ", path));
}

// The first sector; shorter when the file is.
absl::StatusOr<std::vector<uint8_t>> FirstSector(const File& file) {
  std::vector<uint8_t> sector(
      std::min<uint64_t>(file.size_bytes(), kSectorBytes));
  absl::Status status = file.ReadAt(0, sector);
  if (!status.ok()) return status;
  return sector;
}

bool IsZero(const std::vector<uint8_t>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](uint8_t byte) { return byte == 0; });
}

bool IsCow(const std::vector<uint8_t>& sector) {
  return sector.size() >= sizeof(uint64_t) &&
         LoadLe<uint64_t>(sector.data()) == cow::kMagic;
}

bool IsUndoLog(const std::vector<uint8_t>& sector) {
  merge::UndoSuperblock super;
  uint64_t previous = 0;
  return sector.size() == kSectorBytes &&
         merge::DecodeUndoSuperblock(sector.data(), &super, &previous) ==
             nullptr;
}

// Nobody shall take it for what it was.
absl::Status Wipe(const File& device) {
  const std::vector<uint8_t> zeros(
      std::min<uint64_t>(device.size_bytes(), kChunkBytes));
  absl::Status status = device.WriteAt(0, zeros);
  return status.ok() ? device.Sync() : status;
}

absl::Status RemoveIf(const std::string& path,
                      bool (*is_ours)(const std::vector<uint8_t>&),
                      bool when_empty) {
  absl::StatusOr<File> file = File::OpenForWrite(path);
  if (absl::IsNotFound(file.status())) return absl::OkStatus();
  if (!file.ok()) return file.status();
  absl::StatusOr<std::vector<uint8_t>> sector = FirstSector(*file);
  if (!sector.ok()) return sector.status();
  if (!is_ours(*sector) && !(when_empty && IsZero(*sector))) {
    return absl::OkStatus();
  }
  return file->is_block_device() ? Wipe(*file) : RemoveFile(path);
}

absl::Status SyncFolderOf(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (file.ok() && file->is_block_device()) return absl::OkStatus();
  return tools::SyncDirectoryOf(path);
}

absl::Status CopyBytes(const File& from, const File& to, uint64_t bytes,
                       const std::string& sha256) {
  std::vector<uint8_t> buffer(kChunkBytes);
  tools::Sha256 sha;
  for (uint64_t at = 0; at < bytes;) {
    const ByteSpan part =
        ByteSpan(buffer).first(std::min<uint64_t>(buffer.size(), bytes - at));
    absl::Status status = from.ReadAt(at, part);
    if (status.ok()) status = to.WriteAt(at, part);
    if (!status.ok()) return status;
    sha.Update(part);
    at += part.size();
  }
  const std::string digest = sha.Finish();
  if (digest == sha256) return to.Sync();
  return absl::DataLossError(absl::StrCat(from.path(), " has the SHA-256 ",
                                          digest, "; the manifest says ",
                                          sha256));
}

}  // namespace

absl::StatusOr<bool> HasDigest(const std::string& path, uint64_t bytes,
                               const std::string& sha256) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (absl::IsNotFound(file.status())) return false;
  if (!file.ok()) return file.status();
  if (file->size_bytes() < bytes ||
      (!file->is_block_device() && file->size_bytes() != bytes)) {
    return false;
  }
  absl::StatusOr<std::string> digest = tools::Sha256OfFile(*file, bytes);
  if (!digest.ok()) return digest.status();
  return *digest == sha256;
}

absl::Status CopyTo(const std::string& source, const std::string& place,
                    uint64_t bytes, const std::string& sha256) {
  absl::StatusOr<File> from = File::OpenForRead(source);
  if (!from.ok()) return from.status();
  absl::StatusOr<File> device = File::OpenForRead(place);
  if (device.ok() && device->is_block_device()) {
    device = File::OpenForWrite(place);
    if (!device.ok()) return device.status();
    return CopyBytes(*from, *device, bytes, sha256);
  }
  const std::string beside = place + ".new";
  absl::Status status = RemoveFile(beside);
  if (!status.ok()) return status;
  absl::StatusOr<File> to = File::CreateForWrite(beside);
  if (!to.ok()) return to.status();
  status = to->Reserve(bytes);
  if (status.ok()) status = CopyBytes(*from, *to, bytes, sha256);
  if (status.ok() && rename(beside.c_str(), place.c_str()) != 0) {
    status = tools::ErrnoStatus(errno,
                                absl::StrCat("rename ", beside, " to ", place));
  }
  if (status.ok()) return tools::SyncDirectoryOf(place);
  // What cannot be removed now, clean or the next stage removes.
  unlink(beside.c_str());
  return status;
}

absl::Status RemoveCow(const std::string& place) {
  absl::Status status = RemoveIf(place, IsCow, /*when_empty=*/false);
  if (status.ok()) status = RemoveFile(place + ".new");
  return status.ok() ? SyncFolderOf(place) : status;
}

absl::Status RemoveUndoLog(const std::string& path) {
  // It begins as an empty file.
  absl::Status status = RemoveIf(path, IsUndoLog, /*when_empty=*/true);
  return status.ok() ? SyncFolderOf(path) : status;
}

absl::Status SpaceCheck::Add(const std::string& path, uint64_t bytes) {
  absl::StatusOr<File> there = File::OpenForRead(path);
  if (there.ok() && there->is_block_device()) {
    if (there->size_bytes() >= bytes) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat(path, " has ", there->size_bytes(), " bytes; ", bytes,
                     " are needed; give it a larger device"));
  }
  const std::string folder = FolderOf(path);
  struct stat st;
  struct statvfs fs;
  if (stat(folder.c_str(), &st) != 0 || statvfs(folder.c_str(), &fs) != 0) {
    return tools::ErrnoStatus(errno, folder);
  }
  auto total =
      std::find_if(totals_.begin(), totals_.end(),
                   [&st](const Total& t) { return t.device == st.st_dev; });
  if (total == totals_.end()) {
    totals_.push_back({.device = st.st_dev,
                       .free_bytes = uint64_t{fs.f_bavail} * fs.f_frsize,
                       .folder = folder});
    total = std::prev(totals_.end());
  }
  total->need_bytes += bytes;
  struct stat left;
  if (stat((path + ".new").c_str(), &left) == 0) {
    total->free_bytes += static_cast<uint64_t>(left.st_blocks) * 512;
  }
  return absl::OkStatus();
}

absl::Status SpaceCheck::Judge() const {
  for (const Total& total : totals_) {
    if (total.need_bytes <= total.free_bytes) continue;
    return absl::InternalError(absl::StrCat(
        "the file system of ", total.folder, " has ", total.free_bytes,
        " bytes left; the update needs ", total.need_bytes,
        " there for its COW files and undo logs; free some space, or name "
        "other places"));
  }
  return absl::OkStatus();
}

}  // namespace dmu::ota
