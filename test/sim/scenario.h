// SPDX-License-Identifier: Apache-2.0
//
// scenario.h - makes a base, a COW file and the target they lead to, by chance.
//
// The target is the oracle of all merge tests: it is computed block by block
// from the list of changes, by nothing of the code under test. The COW file is
// laid out here byte by byte, so that orders and mixes occur which our own
// writer never makes: sequence data, replace before copy, duplicates.
#ifndef TEST_SIM_SCENARIO_H_
#define TEST_SIM_SCENARIO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/cow/format.h"
#include "test/sim/rng.h"

namespace dmu::sim {

struct ScenarioOptions {
  uint32_t blocks_max = 8;
  uint32_t blocks_min = 1;
  uint8_t span_log2_max = 1;  // units of up to 1 << this blocks
  cow::Compression compression = cow::Compression::kNone;
};

// One change of a list that stands in merge order.
struct Change {
  cow::OpType type = cow::OpType::kZero;
  uint32_t new_block = 0;
  uint32_t source = 0;        // kCopy: a block of the base
  uint8_t span_log2 = 0;      // kReplace
  std::vector<uint8_t> data;  // kReplace: the blocks, not compressed
};

struct Scenario {
  std::vector<uint8_t> base;
  std::vector<uint8_t> target;
  std::vector<uint8_t> cow;
  std::vector<Change> changes;
  bool scratch = false;
  bool sequence = false;
  uint32_t blocks() const {
    return static_cast<uint32_t>(target.size() / kBlockBytes);
  }
  // One line: what it is made of.
  std::string Describe() const;
};

// Distinct content for every sector of every block of the base.
std::vector<uint8_t> NumberedBlocks(uint32_t blocks, uint64_t seed);

// `changes` in merge order; a block may be given twice only by equal changes.
// sequence: the file's op table is shuffled and the order given by sequence
// data, for all ops or, where the rest is ascending, for the copies only.
Scenario Build(std::vector<uint8_t> base, std::vector<Change> changes,
               bool scratch, bool sequence, cow::Compression compression,
               uint8_t span_log2_max, Rng* rng);

// Everything by chance: sizes, mix, shifts up and down, permutations, cycles
// (cut by a replace), orders.
Scenario MakeScenario(uint64_t seed, const ScenarioOptions& options);

}  // namespace dmu::sim

#endif  // TEST_SIM_SCENARIO_H_
