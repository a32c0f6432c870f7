// SPDX-License-Identifier: Apache-2.0
//
// cow_create.h - two images in, one COW file out.
#ifndef TOOLS_COW_CREATE_H_
#define TOOLS_COW_CREATE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/cow/compressor.h"

namespace dmu::tools {

struct CreateOptions {
  std::string old_path;
  std::string new_path;
  std::string output_path;
  cow::CompressionSpec compression;
  uint32_t max_unit_bytes = 64 * 1024;
  bool force = false;     // replace an output that exists
  bool progress = false;  // draw a bar
  unsigned threads = 1;
};

struct CreateSummary {
  uint64_t old_bytes = 0;
  uint64_t new_bytes = 0;
  uint64_t cow_bytes = 0;
  uint64_t same_blocks = 0;
  uint64_t copy_blocks = 0;
  uint64_t xor_blocks = 0;
  uint64_t zero_blocks = 0;
  uint64_t replace_blocks = 0;
};

// The images may be files or block devices of any two sizes that are multiples
// of 4096; neither is written. The file is judged by the reader before it gets
// its name. Codes: kNotFound, kPermissionDenied, kInternal (I/O),
// kAlreadyExists, kInvalidArgument (an image that cannot be used, or an output
// that is one of the images).
absl::StatusOr<CreateSummary> CreateCow(const CreateOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_CREATE_H_
