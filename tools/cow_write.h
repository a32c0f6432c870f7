// SPDX-License-Identifier: Apache-2.0
//
// cow_write.h - a plan and the images it speaks of in, a COW file out.
#ifndef TOOLS_COW_WRITE_H_
#define TOOLS_COW_WRITE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "daemon/cow/compressor.h"
#include "daemon/cow/sink.h"
#include "daemon/cow/writer.h"
#include "tools/diff.h"

namespace dmu::tools {

// What a file is to be like, and how it is made.
struct WriteFormat {
  uint16_t version = 3;  // 2 or 3
  cow::CompressionSpec compression;
  // Version 3: small units read fast in small pieces; what they lose in size
  // is mostly won back by xor ops.
  uint32_t max_unit_bytes = 16 * 1024;
  uint32_t cluster_ops = 1024;  // version 2: 0, or 2 and more
  bool extension = true;        // what Android's readers do not look at
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

struct PlannedFile {
  const DiffPlan& plan;
  DiffImage old_image;  // read for xors
  DiffImage new_image;  // read for xors and data
  uint64_t base_bytes = 0;
  uint64_t target_bytes = 0;
  const cow::ImageFacts& facts;
};

// Compresses on all cores; the file does not depend on how many. The memory is
// that of UnitPipeline and Writer.
absl::StatusOr<CreateSummary> WritePlan(const PlannedFile& file,
                                        const WriteFormat& format,
                                        cow::Sink* sink);

}  // namespace dmu::tools

#endif  // TOOLS_COW_WRITE_H_
