// SPDX-License-Identifier: Apache-2.0
//
// Goal: no undo log, however made, crashes an undo or leads it astray.
// Method: good logs with random and interesting numbers in their fields, sealed
// again; fixed seed. More: DMU_FUZZ_RUNS=N.
#include <cstdlib>
#include <random>
#include <vector>

#include "daemon/base/bytes.h"
#include "gtest/gtest.h"
#include "test/fuzz/undo_target.h"

namespace dmu {
namespace {

TEST(UndoMutationTest, NoLogLeadsAstray) {
  static constexpr uint32_t kNumbers[] = {
      0, 1, 2, 3, 7, 31, 39, 40, 64, 65, 4096, 1 << 20, 1u << 31, UINT32_MAX};
  const char* runs = std::getenv("DMU_FUZZ_RUNS");
  const uint64_t count =
      runs == nullptr ? 6000 : std::strtoull(runs, nullptr, 10);
  std::mt19937 random(1);
  for (uint64_t run = 0; run < count; ++run) {
    std::vector<uint8_t> input = {static_cast<uint8_t>(random())};
    for (uint32_t edits = random() % 4; edits > 0; --edits) {
      uint8_t edit[6];
      const uint32_t block = random() % 6;
      StoreLe<uint16_t>(
          edit, static_cast<uint16_t>(
                    block << 8 | random() % (random() % 2 == 0 ? 14 : 225)));
      StoreLe<uint32_t>(edit + 2, random() % 2 == 0
                                      ? kNumbers[random() % std::size(kNumbers)]
                                      : static_cast<uint32_t>(random() % 50));
      input.insert(input.end(), edit, edit + sizeof(edit));
    }
    RunUndo(input.data(), input.size());
  }
}

}  // namespace
}  // namespace dmu
