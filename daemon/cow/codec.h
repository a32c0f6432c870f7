// SPDX-License-Identifier: Apache-2.0
//
// codec.h - turns the stored bytes of one unit into its blocks.
//
// One context per attached file, made when it is attached; Decode allocates
// nothing.
#ifndef DAEMON_COW_CODEC_H_
#define DAEMON_COW_CODEC_H_

#include <memory>

#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

class Codec {
 public:
  // nullptr for a compressor that is not served here, or without memory. For
  // kNone a codec that refuses everything: such units are always raw.
  static std::unique_ptr<Codec> Create(Compression compression);
  virtual ~Codec() = default;

  // Fills all of `out` (one unit: 4096 << k bytes) from `stored`, which may
  // hold anything. kCorrupt unless the stream gives exactly out.size() bytes
  // and uses exactly stored.size(). A unit stored raw (version 3: data_length
  // equals the unit) does not come here; see DecodeUnit.
  virtual IoStatus Decode(ConstByteSpan stored, ByteSpan out) = 0;
};

// The data of a replace op: raw when the lengths are equal, else through codec.
IoStatus DecodeUnit(Codec* codec, ConstByteSpan stored, ByteSpan out);

}  // namespace dmu::cow

#endif  // DAEMON_COW_CODEC_H_
