// SPDX-License-Identifier: Apache-2.0
//
// Goal: no bytes crash the loader, make it go in circles, or lead to an index
// that answers wrongly.
// Method: small good files, damaged at random places in the ways that matter:
// bits, interesting numbers in fields, cuts, growth; fixed seed.
#include <algorithm>
#include <random>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/cow/writer.h"
#include "gtest/gtest.h"
#include "test/cow_test_util.h"
#include "test/fuzz/loader_target.h"

namespace dmu {
namespace {

using test::Bytes;

constexpr int kMutations = 40'000;

Bytes GoodFile(bool extension, uint32_t ops) {
  test::MemorySink sink;
  cow::WriterOptions options;
  options.compression = cow::Compression::kZstd;
  options.max_unit_bytes = 64 * 1024;
  options.scratch = false;
  options.extension = extension;
  options.op_count_max = ops + 2;
  options.base_bytes = options.target_bytes = 4096 * kBlockBytes;
  auto writer = cow::Writer::Create(&sink, options);
  EXPECT_TRUE(writer.ok());
  for (uint32_t i = 0; i < ops; ++i) {
    const uint32_t block = 20 * i;
    const absl::Status status =
        i < ops / 2  ? (*writer)->AddCopy(block, block + 7)
        : i % 3 == 0 ? (*writer)->AddZero(block)
                     : (*writer)->AddReplace(block, i % 5, Bytes(9 + i, 1));
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return sink.file;
}

void Damage(std::mt19937* random, Bytes* file) {
  static constexpr uint64_t kNumbers[] = {
      0,          1,          2,          3,          78,
      4095,       4096,       4097,       0x10000,    0x7fffffff,
      0x80000000, 0xffffffff, 1ull << 48, 1ull << 63, UINT64_MAX};
  const auto pick = [random](size_t below) {
    return static_cast<size_t>((*random)() % below);
  };
  switch (pick(5)) {
    case 0:
      (*file)[pick(file->size())] ^= static_cast<uint8_t>(1 << pick(8));
      break;
    case 1:
      (*file)[pick(file->size())] = static_cast<uint8_t>((*random)());
      break;
    case 2: {  // a number somewhere in header or tables
      const size_t at = pick(std::min<size_t>(file->size() - 8, 600));
      const uint64_t number = kNumbers[pick(std::size(kNumbers))];
      if (pick(2) == 0) {
        StoreLe<uint64_t>(file->data() + at, number);
      } else {
        StoreLe<uint32_t>(file->data() + at, static_cast<uint32_t>(number));
      }
      break;
    }
    case 3:
      file->resize(std::max<size_t>(9, pick(file->size() + 1)));
      break;
    default:
      file->resize(file->size() + pick(200), 0xff);
  }
}

TEST(LoaderMutationTest, NothingBreaksTheLoader) {
  const Bytes kGood[] = {GoodFile(true, 12), GoodFile(false, 12),
                         GoodFile(true, 0), GoodFile(false, 1)};
  for (const Bytes& good : kGood) {
    ASSERT_TRUE(RunLoader(good.data(), good.size()));
  }
  std::mt19937 random(20240607);
  int taken = 0;
  for (int i = 0; i < kMutations; ++i) {
    Bytes file = kGood[random() % std::size(kGood)];
    for (uint32_t n = 1 + random() % 3; n > 0; --n) Damage(&random, &file);
    taken += RunLoader(file.data(), file.size());
  }
  // Both verdicts occur: the damage is neither nothing nor everything.
  EXPECT_GT(taken, kMutations / 100);
  EXPECT_LT(taken, kMutations * 3 / 4);
}

}  // namespace
}  // namespace dmu
