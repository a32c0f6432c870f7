// SPDX-License-Identifier: Apache-2.0
//
// cow_file.h - a COW file opened and judged, for the tools.
#ifndef TOOLS_COW_FILE_H_
#define TOOLS_COW_FILE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

// Reads `file` to the end of what an attach needs; label: as it was then.
absl::StatusOr<std::unique_ptr<cow::Image>> LoadImage(
    const File& file, std::optional<uint64_t> label = std::nullopt);

// Opens `path` and loads it. Errors name the path; their codes are the loader's
// and File's.
absl::StatusOr<CowFile> OpenCowFile(
    const std::string& path, std::optional<uint64_t> label = std::nullopt);

// Calls visit(number, op) for every data op, in the order of the file; stops at
// the first error it returns.
absl::Status ForEachOp(
    const CowFile& cow,
    const std::function<absl::Status(uint32_t, const cow::Op&)>& visit);

}  // namespace dmu::tools

#endif  // TOOLS_COW_FILE_H_
