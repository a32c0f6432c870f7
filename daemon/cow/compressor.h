// SPDX-License-Identifier: Apache-2.0
//
// compressor.h - makes the stored bytes of a unit; the counterpart of codec.h.
//
// Not linked into the daemon. One Compressor per thread.
#ifndef DAEMON_COW_COMPRESSOR_H_
#define DAEMON_COW_COMPRESSOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

struct CompressionSpec {
  Compression compression = Compression::kNone;
  int level = 0;  // gz 1..9, zstd what libzstd takes; else unused
};

// "none", "gz[,1..9]", "lz4", "zstd[,LEVEL]", as Android spells them; default
// levels are Android's (gz 9, zstd 3). lz4 takes a level and ignores it.
// kInvalidArgument with a sentence; kUnimplemented for brotli.
absl::StatusOr<CompressionSpec> ParseCompression(absl::string_view text);

class Compressor {
 public:
  // nullptr without memory, or for a compressor that is not written here.
  // max_unit_bytes: the largest unit that will come.
  static std::unique_ptr<Compressor> Create(const CompressionSpec& spec,
                                            uint32_t max_unit_bytes);
  virtual ~Compressor() = default;

  // Compresses `unit` into `out`, which must be as long. Returns the bytes
  // used, which are fewer than unit.size(), or 0 when it would not get smaller:
  // such a unit is stored raw.
  virtual uint32_t Compress(ConstByteSpan unit, ByteSpan out) = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_COMPRESSOR_H_
