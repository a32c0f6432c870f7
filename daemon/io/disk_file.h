// SPDX-License-Identifier: Apache-2.0
//
// disk_file.h - a regular file or block device as a Disk, by plain system
// calls.
//
// I/O is synchronous and happens inside Submit; only the completion waits for
// the next turn. That keeps the fenced promise of the channel for nothing: the
// kernel ends a dying thread's pwrite before it closes its files, so no write
// of a dead daemon can land after its requests were given to the next one. A
// disk that does not answer holds up the whole loop; disk_uring.h does not.
#ifndef DAEMON_IO_DISK_FILE_H_
#define DAEMON_IO_DISK_FILE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/io/disk.h"
#include "daemon/io/disk_open.h"
#include "daemon/io/loop.h"

namespace dmu {

class FileDisk : public Disk {
 public:
  // As OpenDiskFile.
  static absl::StatusOr<std::unique_ptr<FileDisk>> Open(
      const std::string& path, const DiskOptions& options, Loop* loop);

  FileDisk(DiskFile file, Loop* loop) : file_(std::move(file)), loop_(loop) {}

  uint64_t size_bytes() const override { return file_.size_bytes; }
  const char* name() const override { return file_.path.c_str(); }
  uint64_t device_number() const override { return DeviceNumber(file_); }
  bool direct_io() const override { return file_.direct; }
  void Submit(DiskOp* op) override;

 private:
  // 0, an errno value, or kEnded.
  int Execute(const DiskOp& op) const;
  int Deallocate(const DiskOp& op) const;

  const DiskFile file_;
  Loop* const loop_;
};

}  // namespace dmu

#endif  // DAEMON_IO_DISK_FILE_H_
