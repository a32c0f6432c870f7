// SPDX-License-Identifier: Apache-2.0
//
// unit_check.h - the check sums of our own (extension.h).
#ifndef DAEMON_COW_UNIT_CHECK_H_
#define DAEMON_COW_UNIT_CHECK_H_

#include <cstdint>

#include "daemon/base/types.h"

namespace dmu::cow {

// XXH3-64 with seed 0.
uint64_t Digest(ConstByteSpan bytes);

// Its low half: what is kept for a unit's stored bytes, a sampled block, a
// table.
inline uint32_t UnitCheck(ConstByteSpan bytes) {
  return static_cast<uint32_t>(Digest(bytes));
}

}  // namespace dmu::cow

#endif  // DAEMON_COW_UNIT_CHECK_H_
