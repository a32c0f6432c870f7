// SPDX-License-Identifier: Apache-2.0
//
// See write_log.h.
#include "test/vm/write_log.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "tools/file_io.h"

namespace dmu {
namespace {

constexpr uint64_t kMagic = 0x6a736677736872;
constexpr uint64_t kVersion = 1;
constexpr uint64_t kHeaderBytes = 28;

constexpr uint64_t kFlush = 1 << 0;
constexpr uint64_t kFua = 1 << 1;
constexpr uint64_t kDiscard = 1 << 2;
constexpr uint64_t kMark = 1 << 3;
constexpr uint64_t kMetadata = 1 << 4;  // of a file system: says nothing here
constexpr uint64_t kKnown = kFlush | kFua | kDiscard | kMark | kMetadata;

}  // namespace

absl::StatusOr<WriteLog> WriteLog::Read(const std::string& path) {
  absl::StatusOr<tools::File> file = tools::File::OpenForRead(path);
  if (!file.ok()) return file.status();
  WriteLog log;
  log.bytes_.resize(file->size_bytes());
  absl::Status status = file->ReadAt(0, log.bytes_);
  if (status.ok()) status = log.Parse(path);
  if (!status.ok()) return status;
  return log;
}

absl::Status WriteLog::Parse(const std::string& path) {
  const auto bad = [&path](uint64_t at, const std::string& what) {
    return absl::DataLossError(
        absl::StrCat(path, ": at offset ", at, ": ", what));
  };
  const uint8_t* bytes = bytes_.data();
  const uint64_t size = bytes_.size();
  if (size < kHeaderBytes) return bad(0, "too short for a log");
  const auto magic = LoadLe<uint64_t>(bytes);
  const auto version = LoadLe<uint64_t>(bytes + 8);
  const auto count = LoadLe<uint64_t>(bytes + 16);
  const uint64_t sector = LoadLe<uint32_t>(bytes + 24);
  if (magic != kMagic || version != kVersion) {
    return bad(0, absl::StrCat("expected magic ", kMagic, " and version ",
                               kVersion, ", found ", magic, " and ", version));
  }
  if (sector < kSectorBytes || sector > 4096 || (sector & (sector - 1)) != 0) {
    return bad(24, absl::StrCat("a sector size of ", sector, " bytes"));
  }
  uint64_t at = sector;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string name = absl::StrCat("entry ", i, " of ", count, ": ");
    if (size - at < sector) return bad(at, name + "behind the log's end");
    const auto flags = LoadLe<uint64_t>(bytes + at + 16);
    const auto sectors = LoadLe<uint64_t>(bytes + at + 8);
    if ((flags & ~kKnown) != 0) {
      return bad(at, absl::StrCat(name, "unknown flags ", flags));
    }
    LogEntry entry;
    entry.flush = (flags & kFlush) != 0;
    entry.fua = (flags & kFua) != 0;
    entry.discard = (flags & kDiscard) != 0;
    entry.mark = (flags & kMark) != 0;
    entry.offset = LoadLe<uint64_t>(bytes + at) * sector;
    entry.length_bytes = sectors * sector;
    at += sector;
    if (!entry.discard && sectors > 0) {
      if (sectors > (size - at) / sector) {
        return bad(at, absl::StrCat(name, entry.length_bytes,
                                    " bytes reach behind the log's end"));
      }
      entry.data = ConstByteSpan(bytes + at, entry.length_bytes);
      at += entry.length_bytes;
    }
    entries_.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

}  // namespace dmu
