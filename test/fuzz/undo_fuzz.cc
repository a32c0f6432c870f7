// SPDX-License-Identifier: Apache-2.0
//
// undo_fuzz.cc - the libFuzzer entry, see README.md.
#include "test/fuzz/undo_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dmu::RunUndo(data, size);
  return 0;
}
