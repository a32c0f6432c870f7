// SPDX-License-Identifier: Apache-2.0
//
// cow_extract.h - COW file and base in, target image out.
#ifndef TOOLS_COW_EXTRACT_H_
#define TOOLS_COW_EXTRACT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dmu::tools {

struct ExtractOptions {
  std::string cow_path;
  std::string base_path;
  std::string output_path;
  bool force = false;     // replace an output that exists
  bool progress = false;  // draw a bar
};

// Writes the target image and returns its size in bytes. The base may be in any
// state of the merge that the COW file records. Neither input is written.
absl::StatusOr<uint64_t> ExtractTarget(const ExtractOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_EXTRACT_H_
