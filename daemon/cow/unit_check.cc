// SPDX-License-Identifier: Apache-2.0
#include "daemon/cow/unit_check.h"

#include <xxhash.h>

namespace dmu::cow {

uint64_t Digest(ConstByteSpan bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace dmu::cow
