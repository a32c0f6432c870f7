// SPDX-License-Identifier: Apache-2.0
//
// disk_file.h - a regular file or block device as a Disk.
//
// I/O is synchronous and happens inside Submit; only the completion waits for
// the next turn. That keeps the fenced promise of the channel for nothing: the
// kernel ends a dying thread's pwrite before it closes its files, so no write
// of a dead daemon can land after its requests were given to the next one.
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
  void Submit(DiskOp* op) override;

 private:
  FileDisk(UniqueFd fd, uint64_t size_bytes, bool block_device, Loop* loop)
      : fd_(std::move(fd)),
        size_bytes_(size_bytes),
        block_device_(block_device),
        loop_(loop) {}

  IoStatus Execute(const DiskOp& op) const;
  IoStatus Read(uint8_t* buffer, uint64_t offset, uint64_t length_bytes) const;
  IoStatus Write(const uint8_t* buffer, uint64_t offset,
                 uint64_t length_bytes) const;
  IoStatus Deallocate(const DiskOp& op) const;

  UniqueFd fd_;
  const uint64_t size_bytes_;
  const bool block_device_;
  Loop* const loop_;
};

}  // namespace dmu

#endif  // DAEMON_IO_DISK_FILE_H_
