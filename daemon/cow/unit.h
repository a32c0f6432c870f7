// SPDX-License-Identifier: Apache-2.0
//
// unit.h - from the stored bytes of an op to the blocks it gives.
#ifndef DAEMON_COW_UNIT_H_
#define DAEMON_COW_UNIT_H_

#include <cstdint>

#include "daemon/base/types.h"
#include "daemon/cow/codec.h"
#include "daemon/cow/format.h"
#include "daemon/cow/unit_check.h"

namespace dmu::cow {

// Fills `out`, one unit, from `stored`, all of the op's data. check: what
// UnitCheck(stored) must be; nullptr for a file without checks. kCorrupt when
// it is not, and as Codec::Decode. stored and out may be the same memory when
// the unit is raw. `codec` may be nullptr when nothing is compressed.
inline IoStatus DecodeUnit(Codec* codec, Compression compression,
                           const uint32_t* check, ConstByteSpan stored,
                           ByteSpan out) {
  if (check != nullptr && UnitCheck(stored) != *check) {
    return IoStatus::kCorrupt;
  }
  return DecodeUnit(codec, compression, stored, out);
}

// onto[i] ^= with[i]; as many bytes of each.
inline void XorOnto(const uint8_t* with, size_t bytes, uint8_t* onto) {
  for (size_t i = 0; i < bytes; ++i) {
    onto[i] = static_cast<uint8_t>(onto[i] ^ with[i]);
  }
}

}  // namespace dmu::cow

#endif  // DAEMON_COW_UNIT_H_
