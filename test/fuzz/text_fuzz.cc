// SPDX-License-Identifier: Apache-2.0
//
// text_fuzz.cc - the libFuzzer entry, see README.md.
#include "test/fuzz/text_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dmu::RunText(data, size);
  return 0;
}
