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
  std::string output_path;  // not needed for an estimate
  // Writes nothing: what would come of it, exactly.
  bool estimate = false;
  uint16_t version = 3;  // 2 or 3
  cow::CompressionSpec compression;
  // Version 3: small units read fast in small pieces; what they lose in size
  // is mostly won back by xor ops.
  uint32_t max_unit_bytes = 16 * 1024;
  uint32_t cluster_ops = 1024;  // version 2: 0, or 2 and more
  bool extension = true;        // what Android's readers do not look at
  bool force = false;           // replace an output that exists
  bool progress = false;        // draw a bar
  unsigned threads = 1;
};

struct CreateSummary {
  uint64_t old_bytes = 0;
  uint64_t new_bytes = 0;
  uint64_t cow_bytes = 0;
  uint64_t op_count = 0;
  uint64_t op_count_max = 0;  // of the op table; version 3
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
