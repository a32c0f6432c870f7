// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/disk_open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu {

namespace {

absl::Status OpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENXIO:
    case ENOTDIR:
      return absl::NotFoundError(
          absl::StrCat(path, ": there is no such file or device"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat(path, ": not permitted; run as root"));
    case EROFS:
      return absl::PermissionDeniedError(
          absl::StrCat(path, ": is read-only and has to be written"));
    case EBUSY:
      return absl::AbortedError(absl::StrCat(
          path,
          ": is in use (mounted, or held by another device); unmount or "
          "release it first"));
    default:
      return absl::InternalError(
          absl::StrCat(path, ": cannot open: ", strerror(error)));
  }
}

IoStatus FromError(int error) {
  switch (error) {
    case 0:
      return IoStatus::kOk;
    case kEnded:
      return IoStatus::kShort;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return IoStatus::kNoSpace;
    case EOPNOTSUPP:
      return IoStatus::kUnsupported;
    case ENODEV:
    case ENXIO:
    case ENOMEDIUM:
      return IoStatus::kGone;
    default:
      return IoStatus::kIoError;
  }
}

// A block device without a size has been removed; only asked after a failure.
bool IsGone(const DiskFile& file) {
  uint64_t bytes = 0;
  return file.block_device &&
         (ioctl(file.fd.get(), BLKGETSIZE64, &bytes) != 0 ||
          (bytes == 0 && file.size_bytes > 0));
}

// An open-file-description lock: it goes with the open file, not the process.
absl::Status Lock(const std::string& path, int fd, bool writable) {
  struct flock lock = {};
  lock.l_type = static_cast<short>(writable ? F_WRLCK : F_RDLCK);
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::AbortedError(absl::StrCat(
        path,
        ": is in use by another dm-user process; unmap its device, or "
        "wait until that process ends"));
  }
  return absl::InternalError(
      absl::StrCat(path, ": cannot lock: ", strerror(errno)));
}

// What an I/O past the page cache has to be a multiple of; 0: not known.
uint64_t DirectUnitBytes(const DiskFile& file) {
  int sector_bytes = 0;
  if (file.block_device) {
    return ioctl(file.fd.get(), BLKSSZGET, &sector_bytes) == 0
               ? static_cast<uint64_t>(sector_bytes)
               : 0;
  }
  struct statx info = {};
  if (statx(file.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 ||
      (info.stx_mask & STATX_DIOALIGN) == 0) {
    return 0;
  }
  return std::max(info.stx_dio_offset_align, info.stx_dio_mem_align);
}

// Whether the kernel takes an I/O that must not wait, as io_uring sends it:
// what cannot is given to a thread each time.
bool CanTellOfWaiting(const DiskFile& file) {
  // Asked behind the end, where there is nothing to be waited for.
  uint8_t byte = 0;
  const iovec to = {&byte, 1};
  const uint64_t end =
      (file.size_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  if (preadv2(file.fd.get(), &to, 1, static_cast<off_t>(end), RWF_NOWAIT) < 0 &&
      errno == EOPNOTSUPP) {
    return false;
  }
  // Before Linux 6.5 every block device says yes. True it is of drivers with
  // hardware queues.
  utsname system = {};
  unsigned major_version = 0, minor_version = 0;
  if (uname(&system) == 0 &&
      sscanf(system.release, "%u.%u", &major_version, &minor_version) == 2 &&
      (major_version > 6 || (major_version == 6 && minor_version >= 5))) {
    return true;
  }
  return file.limits.hardware;
}

// Empty: the file goes past the page cache now; else why it does not.
std::string GoDirect(const DiskOptions& options, DiskFile* file) {
  const DirectIo how = options.direct;
  if (how == DirectIo::kIfFit && !file->block_device) return "is a file";
  const uint64_t unit_bytes = DirectUnitBytes(*file);
  if (unit_bytes == 0) return "cannot tell what I/O past the cache it takes";
  if (unit_bytes > options.unit_bytes) {
    return absl::StrCat("takes I/O past the cache in units of ", unit_bytes,
                        " bytes, and the device has blocks of ",
                        options.unit_bytes);
  }
  const int fd = file->fd.get();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
    return absl::StrCat("takes no I/O past the cache: ", strerror(errno));
  }
  file->direct = true;
  file->limits = AskQueueLimits(fd);
  if (how == DirectIo::kOn || CanTellOfWaiting(*file)) return "";
  file->direct = fcntl(fd, F_SETFL, flags) != 0;
  return "cannot tell whether an I/O would wait";
}

}  // namespace

absl::StatusOr<DiskFile> OpenDiskFile(const std::string& path,
                                      const DiskOptions& options) {
  struct stat before = {};
  if (stat(path.c_str(), &before) != 0) return OpenError(path, errno);
  if (!S_ISREG(before.st_mode) && !S_ISBLK(before.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is neither a regular file nor a block device"));
  }
  int flags = O_CLOEXEC | (options.writable ? O_RDWR : O_RDONLY);
  // On a block device O_EXCL (without O_CREAT) means: not while mounted.
  if (options.exclusive && S_ISBLK(before.st_mode)) flags |= O_EXCL;
  // Should a FIFO have taken the file's place, open would wait for its writer.
  if (S_ISREG(before.st_mode)) flags |= O_NONBLOCK;
  UniqueFd fd(open(path.c_str(), flags));
  if (!fd.valid()) return OpenError(path, errno);

  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) return OpenError(path, errno);
  if (info.st_dev != before.st_dev || info.st_ino != before.st_ino) {
    return absl::AbortedError(
        absl::StrCat(path, ": was replaced while it was opened; try again"));
  }
  // With it the ring would not wait for storage either.
  if ((flags & O_NONBLOCK) != 0 &&
      fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return OpenError(path, errno);
  }
  if (options.exclusive) {
    absl::Status locked = Lock(path, fd.get(), options.writable);
    if (!locked.ok()) return locked;
  }
  const bool block_device = S_ISBLK(info.st_mode);
  uint64_t size_bytes = static_cast<uint64_t>(info.st_size);
  if (block_device && ioctl(fd.get(), BLKGETSIZE64, &size_bytes) != 0) {
    return absl::InternalError(
        absl::StrCat(path, ": cannot ask its size: ", strerror(errno)));
  }
  DiskFile file{path, std::move(fd), size_bytes, block_device, false, {}};
  if (options.direct == DirectIo::kOff) return file;
  const std::string why_not = GoDirect(options, &file);
  if (!why_not.empty() && options.direct == DirectIo::kOn) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", why_not, "; leave it to the daemon whether to (auto)"));
  }
  return file;
}

uint64_t DeviceNumber(const DiskFile& file) {
  struct stat info = {};
  if (!file.block_device || fstat(file.fd.get(), &info) != 0) return 0;
  return info.st_rdev;
}

void SetResult(const DiskFile& file, int error, DiskOp* op) {
  if (error != 0 && IsGone(file)) error = ENODEV;
  op->status = FromError(error);
  if (error == 0) return;
  op->cause = {.where = file.path.c_str(),
               .error = error == kEnded ? 0 : error};
  if (op->kind != DiskOp::Kind::kFlush) op->cause.offset = op->offset;
}

bool IsInside(const DiskFile& file, const DiskOp& op) {
  return op.offset <= file.size_bytes &&
         op.length_bytes <= file.size_bytes - op.offset;
}

int ReadRange(int fd, uint8_t* buffer, uint64_t offset, uint64_t length_bytes) {
  while (length_bytes > 0) {
    const ssize_t got =
        pread(fd, buffer, std::min(length_bytes, kTransferBytesMax),
              static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    // The file was cut since it was opened.
    if (got == 0) return kEnded;
    buffer += got;
    offset += static_cast<uint64_t>(got);
    length_bytes -= static_cast<uint64_t>(got);
  }
  return 0;
}

int WriteRange(int fd, const uint8_t* buffer, uint64_t offset,
               uint64_t length_bytes) {
  while (length_bytes > 0) {
    const ssize_t put =
        pwrite(fd, buffer, std::min(length_bytes, kTransferBytesMax),
               static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    if (put == 0) return EIO;
    buffer += put;
    offset += static_cast<uint64_t>(put);
    length_bytes -= static_cast<uint64_t>(put);
  }
  return 0;
}

int FlushFile(int fd) {
  int result = 0;
  do {
    result = fdatasync(fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace dmu
