// SPDX-License-Identifier: Apache-2.0
//
// make_corpus.cc - writes the seed corpus of file_fuzz and loader_fuzz.
//
// usage: make_corpus FOLDER
#include <cstdio>
#include <string>

#include "test/fuzz/file_target.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  int number = 0;
  for (const std::vector<uint8_t>& input : dmu::MakeCorpus()) {
    const std::string path =
        std::string(argv[1]) + "/seed-" + std::to_string(number++);
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr ||
        std::fwrite(input.data(), 1, input.size(), file) != input.size() ||
        std::fclose(file) != 0) {
      std::perror(path.c_str());
      return 1;
    }
  }
  std::printf("%d inputs\n", number);
  return 0;
}
