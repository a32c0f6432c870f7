// SPDX-License-Identifier: Apache-2.0
//
// Goal: no image file is taken for what it is not.
// Method: good sparse files with fields and bytes changed, cut and repeated;
// fixed seed. More: DMU_FUZZ_RUNS=N.
#include <cstdlib>
#include <iterator>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "test/fuzz/image_target.h"
#include "test/sparse_file.h"

namespace dmu {
namespace {

using test::SparseFile;
using Bytes = SparseFile::Bytes;

std::vector<Bytes> GoodFiles() {
  const Bytes data(8 * 64, 0x5a);
  return {
      SparseFile(64).Raw(data).Fill(9, 0x01020304).DontCare(7).Raw(data).Done(),
      SparseFile(64).DontCare(3).Raw(data).Crc().Fill(2, 5).Crc().Done(),
      SparseFile(4, 32, 16).Fill(1000, 9).Fill(0, 0).DontCare(1).Done(),
  };
}

TEST(ImageMutationTest, NoFileIsTakenForAnother) {
  const std::vector<Bytes> good = GoodFiles();
  for (const Bytes& file : good) {
    ASSERT_TRUE(RunImage(file.data(), file.size()));
  }
  const char* runs = std::getenv("DMU_FUZZ_RUNS");
  const uint64_t count =
      runs == nullptr ? 30'000 : std::strtoull(runs, nullptr, 10);
  static constexpr uint32_t kEdges[] = {
      0,  1,          3,          4,          12,         16,
      64, 0x7fffffff, 0x80000000, 0xfffffffc, 0xffffffff, 0xcac1};
  std::mt19937 random(1);
  uint64_t taken = 0;
  for (uint64_t run = 0; run < count; ++run) {
    Bytes file = good[random() % good.size()];
    for (uint32_t edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % file.size();
      switch (random() % 6) {
        case 0:
          if (at > 0) file.resize(at);
          break;
        case 1:
          file[at] = static_cast<uint8_t>(random());
          break;
        case 2:
          if (at + 2 <= file.size()) {
            test::Put16(&file, at,
                        static_cast<uint16_t>(0xcac1 + random() % 4));
          }
          break;
        case 3:
          file.insert(file.end(), file.begin() + at, file.end());
          break;
        default:
          // A field of the header, or anything.
          const size_t field = random() % 2 == 0 ? 8 + random() % 4 * 4 : at;
          if (field + 4 <= file.size()) {
            test::Put32(&file, field, kEdges[random() % std::size(kEdges)]);
          }
      }
    }
    taken += RunImage(file.data(), file.size());
  }
  // The edits leave some good: what is behind the headers is tried, too.
  EXPECT_GT(taken, count / 100);
}

}  // namespace
}  // namespace dmu
