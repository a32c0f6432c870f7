// SPDX-License-Identifier: Apache-2.0
//
// file_io.cc - see file_io.h.
#include "tools/file_io.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu::tools {
namespace {

// The temporary file a signal has to remove; one output at a time is all the
// tools have. Read by the signal handler, hence a plain pointer that is set
// only while the string it points to stays as it is.
std::atomic<const char*> g_temporary{nullptr};

void OnSignal(int signal_number) {
  const char* path = g_temporary.load();
  if (path != nullptr) unlink(path);
  // SA_RESETHAND restored the default: end as the signal would have.
  raise(signal_number);
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

absl::Status ErrnoStatus(int error, const std::string& what) {
  const std::string text = absl::StrCat(what, ": ", strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
    case ENODEV:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case EEXIST:
      return absl::AlreadyExistsError(text);
    case EBUSY:
    case ETXTBSY:
      return absl::AbortedError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::InternalError(
          absl::StrCat(text, "; free some space and try again"));
    default:
      return absl::InternalError(text);
  }
}

absl::Status SyncDirectoryOf(const std::string& path) {
  const std::string directory = DirectoryOf(path);
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("open ", directory));
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  // Some file systems cannot sync a directory; the rename is then as durable
  // as they make it.
  if (result != 0 && error != EINVAL) {
    return ErrnoStatus(error, absl::StrCat("sync ", directory));
  }
  return absl::OkStatus();
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

File::File(File&& other) noexcept { *this = std::move(other); }

File& File::operator=(File&& other) noexcept {
  if (this == &other) return *this;
  if (fd_ >= 0) close(fd_);
  fd_ = std::exchange(other.fd_, -1);
  path_ = std::move(other.path_);
  size_bytes_ = other.size_bytes_;
  device_ = other.device_;
  inode_ = other.inode_;
  special_device_ = other.special_device_;
  is_block_device_ = other.is_block_device_;
  is_direct_ = other.is_direct_;
  return *this;
}

absl::StatusOr<File> File::OpenForRead(const std::string& path) {
  File file;
  file.path_ = path;
  // O_NONBLOCK: opening a FIFO must fail below, not wait for a writer.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return ErrnoStatus(errno, absl::StrCat("open ", path));
  if (absl::Status status = file.Examine(); !status.ok()) return status;
  return file;
}

absl::StatusOr<File> File::OpenOnDisk(const std::string& path) {
  absl::StatusOr<File> file = OpenForRead(path);
  if (!file.ok() || !file->is_block_device_) return file;
  const int flags = fcntl(file->fd_, F_GETFL);
  if (flags < 0 || fcntl(file->fd_, F_SETFL, flags | O_DIRECT) != 0) {
    return ErrnoStatus(errno, absl::StrCat("read directly from ", path));
  }
  file->is_direct_ = true;
  return file;
}

absl::StatusOr<File> File::OpenForWrite(const std::string& path) {
  File file;
  file.path_ = path;
  struct stat st;
  const bool is_block = stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode);
  // For a device O_EXCL means: not while the kernel uses it.
  file.fd_ = open(path.c_str(),
                  O_RDWR | O_CLOEXEC | O_NONBLOCK | (is_block ? O_EXCL : 0));
  if (file.fd_ < 0 && errno == EBUSY) {
    return absl::AbortedError(absl::StrCat(
        path,
        " is in use: mounted, part of another device, or served by dmuserd; "
        "unmount or unmap that first"));
  }
  if (file.fd_ < 0) return ErrnoStatus(errno, absl::StrCat("open ", path));
  if (absl::Status status = file.Examine(); !status.ok()) return status;
  // As dmuserd locks what it serves (daemon/io/disk_file.cc).
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(file.fd_, F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) {
      return absl::AbortedError(absl::StrCat(
          path,
          " is in use by dmuserd or dmuserctl; unmap its device, or wait for "
          "the other process to end"));
    }
    return ErrnoStatus(errno, absl::StrCat("lock ", path));
  }
  return file;
}

absl::StatusOr<File> File::CreateForWrite(const std::string& path) {
  const int fd =
      open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("make ", path));
  close(fd);
  return OpenForWrite(path);
}

void File::Remove() const { unlink(path_.c_str()); }

absl::StatusOr<File> File::Duplicate() const {
  File file;
  file.path_ = path_;
  file.is_direct_ = is_direct_;
  file.fd_ = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (file.fd_ < 0) return ErrnoStatus(errno, absl::StrCat("open ", path_));
  if (absl::Status status = file.Examine(); !status.ok()) return status;
  return file;
}

absl::Status File::Truncate(uint64_t bytes) const {
  if (ftruncate(fd_, static_cast<off_t>(bytes)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("size ", path_));
}

absl::Status File::Resize(uint64_t bytes) {
  absl::Status status = Truncate(bytes);
  if (status.ok()) size_bytes_ = bytes;
  return status;
}

absl::Status File::Reserve(uint64_t bytes) const {
  if (fallocate(fd_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) == 0 ||
      errno == EOPNOTSUPP || errno == ENOSYS) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno,
                     absl::StrCat("reserve ", bytes, " bytes for ", path_));
}

absl::Status File::Examine() {
  struct stat st;
  if (fstat(fd_, &st) != 0) {
    return ErrnoStatus(errno, absl::StrCat("stat ", path_));
  }
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, " is ", S_ISDIR(st.st_mode) ? "a directory" : "a special file",
        "; a regular file or a block device is expected"));
  }
  is_block_device_ = S_ISBLK(st.st_mode);
  device_ = st.st_dev;
  inode_ = st.st_ino;
  special_device_ = st.st_rdev;
  const absl::StatusOr<uint64_t> size = SizeNow();
  if (!size.ok()) return size.status();
  size_bytes_ = *size;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> File::SizeNow() const {
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (end < 0) {
    return ErrnoStatus(errno, absl::StrCat("find the end of ", path_));
  }
  return static_cast<uint64_t>(end);
}

// Through a buffer of its own: neither offset, length nor address of what the
// caller wants is aligned as the device may want it.
absl::Status File::ReadDirect(uint64_t offset, ByteSpan out) const {
  constexpr size_t kBufferBytes = 1 << 20;
  const size_t wanted = std::min(kBufferBytes, out.size() + 2 * kBlockBytes);
  const size_t bytes = (wanted + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  std::unique_ptr<void, void (*)(void*)> buffer(
      std::aligned_alloc(kBlockBytes, bytes), std::free);
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory");
  for (size_t done = 0; done < out.size();) {
    const uint64_t begin = (offset + done) / kBlockBytes * kBlockBytes;
    const size_t skip = offset + done - begin;
    const ssize_t n =
        pread(fd_, buffer.get(), bytes, static_cast<off_t>(begin));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return ErrnoStatus(errno,
                         absl::StrCat("read ", path_, " at ", offset + done));
    }
    if (static_cast<size_t>(n) <= skip) {
      return absl::InternalError(absl::StrCat(
          "read ", path_, " at ", offset + done, ": it ends there, ",
          out.size() - done, " bytes more were expected"));
    }
    const size_t part =
        std::min(static_cast<size_t>(n) - skip, out.size() - done);
    std::memcpy(out.data() + done,
                static_cast<const uint8_t*>(buffer.get()) + skip, part);
    done += part;
  }
  return absl::OkStatus();
}

absl::Status File::ReadAt(uint64_t offset, ByteSpan out) const {
  if (is_direct_) return ReadDirect(offset, out);
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = pread(fd_, out.data() + done, out.size() - done,
                            static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return ErrnoStatus(errno,
                         absl::StrCat("read ", path_, " at ", offset + done));
    }
    if (n == 0) {
      return absl::InternalError(absl::StrCat(
          "read ", path_, " at ", offset + done, ": it ends there, ",
          out.size() - done, " bytes more were expected"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status File::WriteAt(uint64_t offset, ConstByteSpan bytes) const {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pwrite(fd_, bytes.data() + done, bytes.size() - done,
                             static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return ErrnoStatus(n == 0 ? ENOSPC : errno,
                         absl::StrCat("write ", path_, " at ", offset + done));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status File::Sync() const {
  if (fsync(fd_) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("sync ", path_));
}

absl::Status File::SyncWithName() const {
  absl::Status status = Sync();
  if (!status.ok() || is_block_device_) return status;
  return SyncDirectoryOf(path_);
}

absl::Status File::SyncData() const {
  if (fdatasync(fd_) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("sync ", path_));
}

bool File::IsAt(const std::string& path) const {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return false;
  if (is_block_device_) {
    return S_ISBLK(st.st_mode) && st.st_rdev == special_device_;
  }
  return st.st_dev == device_ && st.st_ino == inode_;
}

absl::Status CheckOutputPath(const std::string& path, bool force) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("stat ", path));
  }
  if (!S_ISREG(st.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " exists and is not a regular file; choose another output"));
  }
  if (!force) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists; choose another output or add --force"));
  }
  return absl::OkStatus();
}

OutputFile::~OutputFile() {
  if (final_path_.empty()) return;
  unlink(file_.path_.c_str());
  g_temporary.store(nullptr);
}

OutputFile::OutputFile(OutputFile&& other) noexcept : force_(other.force_) {
  g_temporary.store(nullptr);
  file_ = std::move(other.file_);
  final_path_ = std::exchange(other.final_path_, std::string());
  if (!final_path_.empty()) g_temporary.store(file_.path_.c_str());
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path,
                                              bool force) {
  absl::Status status = CheckOutputPath(path, force);
  if (!status.ok()) return status;
  OutputFile output;
  output.file_.path_ = path + ".tmp-XXXXXX";
  output.file_.fd_ = mkostemp(output.file_.path_.data(), O_CLOEXEC);
  if (output.file_.fd_ < 0) {
    const int error = errno;
    return ErrnoStatus(error, absl::StrCat("make a file in ", DirectoryOf(path),
                                           " for ", path));
  }
  output.final_path_ = path;
  output.force_ = force;
  g_temporary.store(output.file_.path_.c_str());
  status = output.file_.Examine();
  if (!status.ok()) return status;
  // mkostemp makes it private to the user; give it what any new file has.
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(output.file_.fd_, 0666 & ~mask) != 0) {
    return ErrnoStatus(errno, absl::StrCat("chmod ", output.file_.path_));
  }
  return output;
}

absl::Status OutputFile::Commit() {
  if (absl::Status status = file_.Sync(); !status.ok()) return status;
  const char* from = file_.path_.c_str();
  // Whoever made the output meanwhile keeps it, unless it is to be replaced.
  int result = -1;
  if (force_) {
    result = rename(from, final_path_.c_str());
  } else {
    result = renameat2(AT_FDCWD, from, AT_FDCWD, final_path_.c_str(),
                       RENAME_NOREPLACE);
    if (result != 0 && errno == EINVAL) {
      // A file system without that: link refuses to replace as well.
      result = link(from, final_path_.c_str());
      if (result == 0) unlink(from);
    }
  }
  if (result != 0) {
    return ErrnoStatus(
        errno, absl::StrCat("rename ", file_.path_, " to ", final_path_));
  }
  g_temporary.store(nullptr);
  return SyncDirectoryOf(std::exchange(final_path_, std::string()));
}

void RemoveTemporariesOnSignal() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    sigaction(signal_number, &action, nullptr);
  }
}

}  // namespace dmu::tools
