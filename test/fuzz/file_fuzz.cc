// SPDX-License-Identifier: Apache-2.0
//
// file_fuzz.cc - the libFuzzer entry: tools/setup --fuzz, then
//   bazel run //test/fuzz:make_corpus -- CORPUS_FOLDER
//   bazel build --config=fuzz //test/fuzz:file_fuzz
//   bazel-bin/test/fuzz/file_fuzz -max_len=40000 CORPUS_FOLDER
#include "test/fuzz/file_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dmu::RunFile(data, size);
  return 0;
}
