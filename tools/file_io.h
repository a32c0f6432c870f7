// SPDX-License-Identifier: Apache-2.0
//
// file_io.h - files and block devices for the tools, with errors that name the
// path and say what to do.
//
// Owns: opening, sizes, whole-range reads and writes, the replace-by-rename of
// output files. Not: the daemon's I/O (daemon/io), which must not wait.
#ifndef TOOLS_FILE_IO_H_
#define TOOLS_FILE_IO_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"

namespace dmu::tools {

// A status for errno: kNotFound, kPermissionDenied, kAlreadyExists, kAborted
// (busy) where the number says so, else kInternal (an I/O error). `what` begins
// the sentence.
absl::Status ErrnoStatus(int error, const std::string& what);

// Makes the names in the folder of `path` durable.
absl::Status SyncDirectoryOf(const std::string& path);

// An open file or block device. Moves; closes itself.
class File {
 public:
  File() = default;
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Opens a regular file or a block device for reading. kInvalidArgument for
  // anything else.
  static absl::StatusOr<File> OpenForRead(const std::string& path);

  // As OpenForRead, but of a block device what is on the disk, and not what a
  // file system that is mounted from it keeps in memory: ext4 changes its
  // superblock there even when it is mounted read-only.
  static absl::StatusOr<File> OpenOnDisk(const std::string& path);

  // Opens one for reading and writing, and keeps others that do so out:
  // kAborted when it is in use (mounted, mapped, or written by another of us).
  static absl::StatusOr<File> OpenForWrite(const std::string& path);

  // Makes an empty regular file and opens it so; kAlreadyExists.
  static absl::StatusOr<File> CreateForWrite(const std::string& path);
  // Takes it back: the name is gone.
  void Remove() const;

  // The same open file once more.
  absl::StatusOr<File> Duplicate() const;

  // Sets the size of a regular file; Resize has size_bytes() follow.
  absl::Status Truncate(uint64_t bytes) const;
  absl::Status Resize(uint64_t bytes);
  // Takes room for so many bytes from the file system, where it can; the size
  // stays.
  absl::Status Reserve(uint64_t bytes) const;

  // Reads or writes the whole range, or says where it failed. Threads may share
  // a File for these.
  absl::Status ReadAt(uint64_t offset, ByteSpan out) const;
  absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) const;
  absl::Status Sync() const;
  // And that it is found by its name, for a file that was made.
  absl::Status SyncWithName() const;
  // The contents only, as far as they can be found again.
  absl::Status SyncData() const;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  // When it was opened; the size of the device for a block device.
  uint64_t size_bytes() const { return size_bytes_; }
  absl::StatusOr<uint64_t> SizeNow() const;
  bool is_block_device() const { return is_block_device_; }
  // Reads go around the page cache; a mapping would not.
  bool is_direct() const { return is_direct_; }
  // Whether `path` leads to this very file or device; false if it does not
  // exist.
  bool IsAt(const std::string& path) const;

 private:
  friend class OutputFile;
  absl::Status Examine();
  absl::Status ReadDirect(uint64_t offset, ByteSpan out) const;

  int fd_ = -1;
  std::string path_;
  uint64_t size_bytes_ = 0;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
  uint64_t special_device_ = 0;
  bool is_block_device_ = false;
  bool is_direct_ = false;
};

// A file that appears under its name whole or not at all: written beside it
// under a temporary name, synced, renamed. Without Commit nothing is left.
class OutputFile {
 public:
  OutputFile() = default;
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  // kAlreadyExists when `path` exists and `force` is not set; with it, only a
  // regular file is replaced.
  static absl::StatusOr<OutputFile> Create(const std::string& path, bool force);

  const File& file() const { return file_; }
  // Makes the contents and the name durable.
  absl::Status Commit();

 private:
  File file_;
  std::string final_path_;
  bool force_ = false;
};

// The error when `path` may not be made: it exists and `force` is not set, or
// it is not a regular file.
absl::Status CheckOutputPath(const std::string& path, bool force);

// Removes the temporary file of an OutputFile that is open when SIGINT, SIGTERM
// or SIGHUP arrives; the process then ends by that signal.
void RemoveTemporariesOnSignal();

}  // namespace dmu::tools

#endif  // TOOLS_FILE_IO_H_
