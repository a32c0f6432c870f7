// SPDX-License-Identifier: Apache-2.0
//
// cow_extract.h - COW file and base in, target image out.
#ifndef TOOLS_COW_EXTRACT_H_
#define TOOLS_COW_EXTRACT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace dmu::tools {

struct ExtractOptions {
  std::string cow_path;
  std::string base_path;
  // What copies and xors read, when that is not the base: an untouched old
  // image beside a half-merged one. Empty: the base.
  std::string source_path;
  std::string output_path;
  // The image as it was known when this label was written.
  std::optional<uint64_t> label;
  // Only this part of the image; 0, UINT64_MAX: all of it.
  uint64_t first_sector = 0;
  uint64_t sectors = UINT64_MAX;
  bool force = false;     // replace an output that exists
  bool progress = false;  // draw a bar
};

// Writes the target image, or the part of it that is asked for, and returns the
// bytes written. kInvalidArgument for a part that is not inside the image. The
// base may be in any state of the merge that the COW file records. Neither
// input is written.
absl::StatusOr<uint64_t> ExtractTarget(const ExtractOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_EXTRACT_H_
