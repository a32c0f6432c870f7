// SPDX-License-Identifier: Apache-2.0
//
// disk_file.h - a regular file or block device as a Disk.
//
// I/O is synchronous and happens inside Submit; only the completion waits for
// the next turn. That keeps the fenced promise of the channel for nothing: the
// kernel ends a dying thread's pwrite before it closes its files, so no write
// of a dead daemon can land after its requests were given to the next one.
//
// What goes wrong, and what becomes of it:
//   interrupted, or less than asked for   goes on where it was
//   EIO and whatever is not below         kIoError
//   ENOSPC, EDQUOT, EFBIG                 kNoSpace: no room for more
//   ENODEV, ENXIO, ENOMEDIUM, or any of a
//   block device that has no size now     kGone: the device was pulled. What
//                                         the kernel says of one is an end or
//                                         no space
//   the file ends before the range        kShort: it was cut since it was
//                                         opened. A write there makes it longer
//                                         again, as everywhere
// Each fails that operation alone, and the next one is tried anew: a device
// that comes back behind the same open file serves again by itself. What comes
// back as another file or device is not opened: it may hold something else.
#ifndef DAEMON_IO_DISK_FILE_H_
#define DAEMON_IO_DISK_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class FileDisk : public Disk {
 public:
  struct Options {
    bool writable = false;
    // Refuse a block device that is mounted or held by another driver, and a
    // file another daemon or tool has open through here. Released with the
    // file, so a killed owner leaves nothing behind.
    bool exclusive = false;
  };

  // kNotFound, kPermissionDenied, kAborted (busy), kInvalidArgument (neither
  // file nor block device), kInternal otherwise; the sentence names the path.
  static absl::StatusOr<std::unique_ptr<FileDisk>> Open(const std::string& path,
                                                        Options options,
                                                        Loop* loop);

  uint64_t size_bytes() const override { return size_bytes_; }
  const char* name() const override { return path_.c_str(); }
  void Submit(DiskOp* op) override;

 private:
  FileDisk(const std::string& path, UniqueFd fd, uint64_t size_bytes,
           bool block_device, Loop* loop)
      : path_(path),
        fd_(std::move(fd)),
        size_bytes_(size_bytes),
        block_device_(block_device),
        loop_(loop) {}

  // 0, an errno value, or kEnded.
  int Execute(const DiskOp& op) const;
  int Read(uint8_t* buffer, uint64_t offset, uint64_t length_bytes) const;
  int Write(const uint8_t* buffer, uint64_t offset,
            uint64_t length_bytes) const;
  int Flush() const;
  int Deallocate(const DiskOp& op) const;
  bool IsGone() const;

  const std::string path_;
  UniqueFd fd_;
  const uint64_t size_bytes_;
  const bool block_device_;
  Loop* const loop_;
};

}  // namespace dmu

#endif  // DAEMON_IO_DISK_FILE_H_
