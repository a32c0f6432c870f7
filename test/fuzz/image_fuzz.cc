// SPDX-License-Identifier: Apache-2.0
//
// image_fuzz.cc - the libFuzzer entry, see README.md.
#include "test/fuzz/image_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dmu::RunImage(data, size);
  return 0;
}
