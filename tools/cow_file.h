// SPDX-License-Identifier: Apache-2.0
//
// cow_file.h - a COW file opened and judged, for the tools.
#ifndef TOOLS_COW_FILE_H_
#define TOOLS_COW_FILE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/cow/loader.h"
#include "tools/file_io.h"

namespace dmu::tools {

struct CowFile {
  File file;
  std::unique_ptr<cow::Image> image;
};

// Reads `file` to the end of what an attach needs.
absl::StatusOr<std::unique_ptr<cow::Image>> LoadImage(const File& file);

// Opens `path` and loads it. Errors name the
// path; their codes are the loader's and File's.
absl::StatusOr<CowFile> OpenCowFile(const std::string& path);

// Op `number` of the table, below the file's op count.
absl::StatusOr<cow::Op> ReadOp(const CowFile& cow, uint32_t number);

// Calls visit(number, op) for every op of the table, in order; stops at the
// first error it returns.
absl::Status ForEachOp(
    const CowFile& cow,
    const std::function<absl::Status(uint32_t, const cow::Op&)>& visit);

}  // namespace dmu::tools

#endif  // TOOLS_COW_FILE_H_
