// SPDX-License-Identifier: Apache-2.0
//
// mapped_file.h - a file read through a mapping, for many small reads: half the
// cost of a pread each. Reading what the disk cannot give, or what was cut off
// since, is an error and not the end of the process: SIGBUS is caught around
// each copy. Mapped pages count as resident memory of the process.
#ifndef TOOLS_MAPPED_FILE_H_
#define TOOLS_MAPPED_FILE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"

namespace dmu::tools {

class MappedFile {
 public:
  // `file` must outlive it. Installs a handler for SIGBUS, which passes on what
  // is not its own.
  static absl::StatusOr<MappedFile> Map(const File& file);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  // As File::ReadAt. Any thread.
  absl::Status ReadAt(uint64_t offset, ByteSpan out) const;

 private:
  MappedFile(const File& file, const uint8_t* begin, uint64_t bytes)
      : file_(&file), begin_(begin), bytes_(bytes) {}

  const File* file_ = nullptr;
  const uint8_t* begin_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace dmu::tools

#endif  // TOOLS_MAPPED_FILE_H_
