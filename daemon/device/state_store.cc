// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/state_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/device/record_text.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

namespace {

constexpr uint32_t kRecordVersion = 1;
constexpr char kTemporarySuffix[] = ".new";

std::string TemporaryName(const std::string& name) {
  return absl::StrCat(".", name, kTemporarySuffix);
}
// A record holds a name and four paths, each byte of which may be an escape.
constexpr off_t kRecordBytesMax = 128 * 1024;

absl::Status Failed(const std::string& what, const std::string& path) {
  return absl::InternalError(
      absl::StrCat(path, ": cannot ", what, ": ", strerror(errno)));
}

bool WriteAll(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = write(fd, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

// Names of the directory's files, sorted: a restart goes the same way twice.
std::vector<std::string> List(const std::string& directory) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), closedir);
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir.get())) {
    names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool IsTemporary(const std::string& name) {
  return name[0] == '.' && absl::EndsWith(name, kTemporarySuffix);
}

std::optional<proto::DeviceRecord> Parse(const std::string& name,
                                         const StateStore::Bytes& bytes,
                                         std::string* why) {
  proto::DeviceRecord record;
  if (!bytes.has_value()) return std::nullopt;
  // Until 1.0 records were protobuf's binary form; it has no text that parses.
  const absl::Status text = ParseRecord(*bytes, &record);
  if (!text.ok() && !record.ParseFromString(*bytes)) {
    *why = std::string(text.message());
    return std::nullopt;
  }
  if (record.version() != kRecordVersion) {
    *why = absl::StrCat("version ", record.version(), ", expected ",
                        kRecordVersion);
    return std::nullopt;
  }
  if (record.attach().name() != name) {
    *why = absl::StrCat("it names the device '", record.attach().name(), "'");
    return std::nullopt;
  }
  return record;
}

}  // namespace

absl::Status StateStore::Prepare() {
  if (mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    return Failed("make the state directory", directory_);
  }
  for (const std::string& name : List(directory_)) {
    if (IsTemporary(name)) unlink(absl::StrCat(directory_, "/", name).c_str());
  }
  return absl::OkStatus();
}

absl::Status StateStore::SyncDirectory() const {
  UniqueFd fd(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) return Failed("sync", directory_);
  return absl::OkStatus();
}

absl::Status StateStore::Save(const proto::DeviceRecord& record) {
  proto::DeviceRecord versioned = record;
  versioned.set_version(kRecordVersion);
  return Write(record.attach().name(), PrintRecord(versioned));
}

absl::Status StateStore::Write(const std::string& name,
                               const std::string& bytes) {
  const std::string path = absl::StrCat(directory_, "/", name);
  const std::string temporary =
      absl::StrCat(directory_, "/", TemporaryName(name));
  absl::Status status;
  {
    UniqueFd fd(open(temporary.c_str(),
                     O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd.valid()) return Failed("create", temporary);
    if (!WriteAll(fd.get(), bytes) || fsync(fd.get()) != 0) {
      status = Failed("write", temporary);
    }
  }
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = Failed("rename", temporary);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory();
}

absl::Status StateStore::PutBack(const std::string& name, const Bytes& bytes) {
  return bytes.has_value() ? Write(name, *bytes) : Remove(name);
}

absl::Status StateStore::Remove(const std::string& name) {
  const std::string path = absl::StrCat(directory_, "/", name);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return Failed("remove", path);
  }
  return SyncDirectory();
}

StateStore::Bytes StateStore::Read(const std::string& name) const {
  UniqueFd fd(
      open(absl::StrCat(directory_, "/", name).c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_size > kRecordBytesMax) {
    return std::nullopt;
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  const ssize_t got = read(fd.get(), bytes.data(), bytes.size());
  if (got < 0) return std::nullopt;
  bytes.resize(static_cast<size_t>(got));
  return bytes;
}

std::optional<proto::DeviceRecord> StateStore::Load(
    const std::string& name) const {
  std::string why;
  return Parse(name, Read(name), &why);
}

std::vector<proto::DeviceRecord> StateStore::LoadAll() const {
  std::vector<proto::DeviceRecord> records;
  for (const std::string& name : List(directory_)) {
    if (name[0] == '.') continue;
    std::string why = "cannot be read";
    std::optional<proto::DeviceRecord> record = Parse(name, Read(name), &why);
    if (!record.has_value()) {
      Log(LogLevel::kError,
          "%s/%s: is not a device record (%s); it is left alone and its device "
          "is not served",
          directory_.c_str(), name.c_str(), why.c_str());
      continue;
    }
    records.push_back(std::move(*record));
  }
  return records;
}

}  // namespace dmu
