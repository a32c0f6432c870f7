// SPDX-License-Identifier: Apache-2.0
//
// make_many_ops.cc - a COW file of many small ops, as a large update has them:
// copies and units of one block each, scattered, with checks.
//
// usage: make_many_ops OPS FILE.cow
// Its base has 4 * OPS blocks; what it holds does not matter.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "daemon/base/types.h"
#include "daemon/cow/compressor.h"
#include "daemon/cow/writer.h"
#include "tools/file_io.h"
#include "tools/file_sink.h"

namespace dmu {
namespace {

absl::Status Make(uint32_t ops, const char* path) {
  absl::StatusOr<tools::File> file = tools::File::CreateForWrite(path);
  if (!file.ok()) return file.status();
  tools::FileSink sink(*file);
  cow::WriterOptions options;
  options.compression = cow::Compression::kLz4;
  options.op_count_max = ops;
  options.base_bytes = options.target_bytes = uint64_t{4} * ops * kBlockBytes;
  auto writer = cow::Writer::Create(&sink, options);
  if (!writer.ok()) return writer.status();
  auto compressor = cow::Compressor::Create({cow::Compression::kLz4, 1},
                                            options.max_unit_bytes);
  // Copies from the upper half, so that none reads what another writes.
  for (uint32_t i = 0; i < ops / 2; ++i) {
    absl::Status status =
        (*writer)->AddCopy(2 * i, 2 * ops + i * 7919u % (2 * ops));
    if (!status.ok()) return status;
  }
  std::vector<uint8_t> block(kBlockBytes);
  std::vector<uint8_t> packed(kBlockBytes);
  for (uint32_t i = 0; i < ops - ops / 2; ++i) {
    memset(block.data(), static_cast<int>(i), block.size());
    memcpy(block.data(), &i, sizeof(i));
    const uint32_t bytes = compressor->Compress(block, packed);
    absl::Status status =
        (*writer)->AddReplace(2 * i + 1, 0, ConstByteSpan(packed).first(bytes));
    if (!status.ok()) return status;
  }
  return (*writer)->Finish();
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: make_many_ops OPS FILE.cow\n");
    return 2;
  }
  const absl::Status status =
      dmu::Make(static_cast<uint32_t>(atoi(argv[1])), argv[2]);
  if (status.ok()) return 0;
  fprintf(stderr, "make_many_ops: %s\n", status.ToString().c_str());
  return 1;
}
