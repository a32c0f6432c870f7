// SPDX-License-Identifier: Apache-2.0
//
// cow_convert.h - a COW file in another version, compressor or unit size.
#ifndef TOOLS_COW_CONVERT_H_
#define TOOLS_COW_CONVERT_H_

#include <string>

#include "absl/status/statusor.h"
#include "tools/cow_write.h"

namespace dmu::tools {

struct ConvertOptions : WriteFormat {
  std::string input_path;
  std::string output_path;
  bool force = false;  // replace an output that exists
};

// The new file leads from the same base to the same target. Its copies and xors
// come first, in the merge order of the old one; labels, sequence and what was
// given twice are gone. What the old file says of its images is carried over;
// when it says nothing the new one has no extension. No base is needed.
// kFailedPrecondition for a file whose merge has begun or that cannot be
// merged; kDataLoss for data that is corrupt; else as CreateCow.
absl::StatusOr<CreateSummary> ConvertCow(const ConvertOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_CONVERT_H_
