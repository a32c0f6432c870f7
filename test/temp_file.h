// SPDX-License-Identifier: Apache-2.0
//
// temp_file.h - whole files in the test's own folder.
#ifndef TEST_TEMP_FILE_H_
#define TEST_TEMP_FILE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace dmu::test {

inline std::string TempPath(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / name;
}

// Its path.
inline std::string WriteTemp(const std::string& name,
                             const std::vector<uint8_t>& bytes) {
  const std::string path = TempPath(name);
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return path;
}

inline std::vector<uint8_t> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

}  // namespace dmu::test

#endif  // TEST_TEMP_FILE_H_
