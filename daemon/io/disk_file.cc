// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>

namespace dmu {

absl::StatusOr<std::unique_ptr<FileDisk>> FileDisk::Open(
    const std::string& path, const DiskOptions& options, Loop* loop) {
  absl::StatusOr<DiskFile> file = OpenDiskFile(path, options);
  if (!file.ok()) return file.status();
  return std::make_unique<FileDisk>(std::move(*file), loop);
}

void FileDisk::Submit(DiskOp* op) {
  SetResult(file_, Execute(*op), op);
  loop_->Post(&op->done);
}

int FileDisk::Execute(const DiskOp& op) const {
  const int fd = file_.fd.get();
  if (op.kind == DiskOp::Kind::kFlush) return FlushFile(fd);
  if (!IsInside(file_, op)) return kEnded;
  switch (op.kind) {
    case DiskOp::Kind::kRead:
      return ReadRange(fd, op.buffer, op.offset, op.length_bytes);
    case DiskOp::Kind::kWrite:
      return WriteRange(fd, op.buffer, op.offset, op.length_bytes);
    default:
      return Deallocate(op);
  }
}

int FileDisk::Deallocate(const DiskOp& op) const {
  const bool zeroes = op.kind == DiskOp::Kind::kWriteZeroes;
  int result = 0;
  do {
    if (file_.block_device) {
      uint64_t range[2] = {op.offset, op.length_bytes};
      result = ioctl(file_.fd.get(), zeroes ? BLKZEROOUT : BLKDISCARD, range);
    } else {
      // Punched holes read as zeros, so one mode serves both.
      result = fallocate(
          file_.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
          static_cast<off_t>(op.offset), static_cast<off_t>(op.length_bytes));
    }
  } while (result != 0 && errno == EINTR);
  if (result == 0) return 0;
  // A discard is a hint: storage that cannot forget has done its duty.
  return errno == EOPNOTSUPP && !zeroes ? 0 : errno;
}

}  // namespace dmu
