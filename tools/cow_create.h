// SPDX-License-Identifier: Apache-2.0
//
// cow_create.h - two images in, one COW file out.
#ifndef TOOLS_COW_CREATE_H_
#define TOOLS_COW_CREATE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tools/cow_write.h"

namespace dmu::tools {

struct CreateOptions : WriteFormat {
  std::string old_path;
  std::string new_path;
  std::string output_path;  // not needed for an estimate
  // Writes nothing: what would come of it, exactly.
  bool estimate = false;
  bool force = false;  // replace an output that exists
};

// The images may be files, Android's sparse files or block devices, of any two
// sizes that are multiples of 4096; neither is written. The file is judged by
// the reader before it gets its name. Codes: kNotFound, kPermissionDenied,
// kInternal (I/O), kAlreadyExists, kInvalidArgument (an image that cannot be
// used, or an output that is one of the images), kDataLoss and kUnimplemented
// (a sparse image).
absl::StatusOr<CreateSummary> CreateCow(const CreateOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_CREATE_H_
