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
  int level = 0;  // gz 1..9, brotli 0..11, zstd what libzstd takes; else unused
  // zstd only: four bytes more per unit, which every reader of zstd checks. For
  // files that have no check of their own per unit.
  bool frame_checksum = false;
};

// "none", "gz[,1..9]", "brotli[,0..11]", "lz4", "zstd[,LEVEL]", as Android
// spells them; default levels are Android's (gz 9, brotli 11, zstd 3). lz4
// takes a level and ignores it. kInvalidArgument with a sentence.
absl::StatusOr<CompressionSpec> ParseCompression(absl::string_view text);

class Compressor {
 public:
  // nullptr without memory, or for a value that Compression does not have.
  // max_unit_bytes: the largest unit that will come; kBlockBytes or more.
  static std::unique_ptr<Compressor> Create(const CompressionSpec& spec,
                                            uint32_t max_unit_bytes);
  virtual ~Compressor() = default;

  // Compresses `unit` into `out`, which must be as long. Returns the bytes
  // used, which are fewer than unit.size(), or 0 when it would not get smaller:
  // such a unit is stored raw. The same where the compressor fails: raw is
  // always right. kNone: always 0.
  uint32_t Compress(ConstByteSpan unit, ByteSpan out);

  // The most that CompressAlways can need, for every compressor.
  static constexpr uint32_t BoundBytes(uint32_t unit_bytes) {
    // compressBound, BrotliEncoderMaxCompressedSize, LZ4_compressBound and
    // ZSTD_compressBound add at most 1/255 and 64 bytes; a test compares them.
    return unit_bytes + unit_bytes / 128 + 128;
  }

  // Compresses `unit` even where it grows: version 2 of the format has no raw
  // form of a gz or brotli unit, so random 4096 bytes are 4107 of gz there.
  // `out` must have BoundBytes(unit.size()). Returns the bytes used, 0 only
  // without memory. kNone: a copy.
  uint32_t CompressAlways(ConstByteSpan unit, ByteSpan out);

 private:
  // The bytes used of `out`; 0 when they are too few or the compressor fails.
  virtual uint32_t Encode(ConstByteSpan unit, ByteSpan out) = 0;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_COMPRESSOR_H_
