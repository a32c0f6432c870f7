// SPDX-License-Identifier: Apache-2.0
//
// Goal: no bytes make verify, reads or the merge crash, go in circles, write
// what they must not, or give one thing now and another later.
// Method: small good files of every version, compressor and layout, damaged at
// random places in the ways that matter, checksums made right again half of the
// time; fixed seed.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <vector>

#include "daemon/base/bytes.h"
#include "gtest/gtest.h"
#include "test/fuzz/file_target.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;

void Damage(std::mt19937* random, Bytes* input) {
  static constexpr uint64_t kNumbers[] = {
      0,    1,    2,       3,          34,         38,         78,
      4095, 4096, 4097,    0x10000,    0x7fffffff, 0x80000000, 0xffffffff,
      5,    64,   1 << 20, 1ull << 48, 1ull << 63, UINT64_MAX, 255};
  const auto pick = [random](size_t below) {
    return static_cast<size_t>((*random)() % below);
  };
  switch (pick(6)) {
    case 0:
      (*input)[pick(input->size())] ^= static_cast<uint8_t>(1 << pick(8));
      break;
    case 1:
      (*input)[pick(input->size())] = static_cast<uint8_t>((*random)());
      break;
    case 2:
    case 3: {  // a number somewhere in header or ops
      const size_t at = pick(std::min<size_t>(input->size() - 8, 900));
      const uint64_t number = kNumbers[pick(std::size(kNumbers))];
      if (pick(2) == 0) {
        StoreLe<uint64_t>(input->data() + at, number);
      } else {
        StoreLe<uint32_t>(input->data() + at, static_cast<uint32_t>(number));
      }
      break;
    }
    case 4:
      input->resize(std::max<size_t>(9, pick(input->size() + 1)));
      break;
    default:
      // One op over another.
      if (input->size() < 400) break;
      std::copy_n(input->begin() + static_cast<int64_t>(pick(300)), 20,
                  input->begin() + static_cast<int64_t>(pick(300)));
  }
}

TEST(FileMutationTest, GoodFilesHold) {
  for (const Bytes& input : MakeCorpus()) {
    EXPECT_TRUE(RunFile(input.data(), input.size()));
  }
}

TEST(FileMutationTest, NothingBreaksWhatReadsFiles) {
  const std::vector<Bytes> corpus = MakeCorpus();
  const char* runs_text = std::getenv("DMU_FUZZ_RUNS");
  const int runs = runs_text != nullptr ? std::atoi(runs_text) : 12'000;
  const char* first_text = std::getenv("DMU_FUZZ_FIRST");
  const int first = first_text != nullptr ? std::atoi(first_text) : 0;
  int taken = 0;
  for (int run = first; run < first + runs; ++run) {
    SCOPED_TRACE(run);
    std::mt19937 random(static_cast<uint32_t>(run));
    Bytes input = corpus[random() % corpus.size()];
    for (uint32_t n = 1 + random() % 3; n > 0; --n) Damage(&random, &input);
    if (random() % 2 == 0) input[0] |= 2;
    taken += RunFile(input.data(), input.size());
  }
  // Both verdicts occur: the damage is neither nothing nor everything.
  EXPECT_GT(taken, runs / 20);
  EXPECT_LT(taken, runs * 9 / 10);
}

}  // namespace
}  // namespace dmu
