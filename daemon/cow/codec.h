// SPDX-License-Identifier: Apache-2.0
//
// codec.h - turns the stored bytes of one unit into its blocks.
//
// One object per attached file, made when it is attached; decoding allocates
// nothing. Where version 2 of the format is read, each op names its own
// compressor, so one object serves a set of them.
#ifndef DAEMON_COW_CODEC_H_
#define DAEMON_COW_CODEC_H_

#include <cstdint>
#include <memory>

#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

// Longer stored units are refused. A unit may be stored longer than it is:
// version 2 keeps gz and brotli compressed even where they do not get smaller.
inline constexpr uint32_t kStoredBytesMax = kUnitBytesMax;

class Codec {
 public:
  // nullptr without memory, or for a bit that is no compressor's. Takes only
  // what the set needs; it may be empty, and kNone's bit needs nothing.
  static std::unique_ptr<Codec> Create(CompressionSet set);
  ~Codec();

  // Fills all of `out` (one unit: 4096 << k bytes) from `stored`, which may
  // hold anything and, unless it is kNone, must not overlap `out`. kCorrupt
  // unless the stream gives exactly out.size() bytes and uses exactly
  // stored.size(), and for a compressor that is not in the set. kNone is always
  // served: a copy, of equal lengths. After kCorrupt `out` is undefined.
  IoStatus Decode(Compression compression, ConstByteSpan stored, ByteSpan out);

 private:
  class Gz;
  class Brotli;
  class Zstd;

  Codec();

  bool lz4_ = false;  // needs no state
  std::unique_ptr<Gz> gz_;
  std::unique_ptr<Brotli> brotli_;
  std::unique_ptr<Zstd> zstd_;
};

// As Codec::Decode; `codec` may be nullptr where nothing is compressed. Whether
// a unit is raw is for the op to say: in version 2 a compressed unit can be
// exactly as long as the blocks it gives.
IoStatus DecodeUnit(Codec* codec, Compression compression, ConstByteSpan stored,
                    ByteSpan out);

}  // namespace dmu::cow

#endif  // DAEMON_COW_CODEC_H_
