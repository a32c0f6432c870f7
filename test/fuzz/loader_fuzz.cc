// SPDX-License-Identifier: Apache-2.0
//
// loader_fuzz.cc - the libFuzzer entry: tools/setup --fuzz, then
//   bazel build --config=fuzz //test/fuzz:loader_fuzz
//   bazel-bin/test/fuzz/loader_fuzz -max_len=4096 CORPUS_FOLDER
#include "test/fuzz/loader_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dmu::RunLoader(data, size);
  return 0;
}
