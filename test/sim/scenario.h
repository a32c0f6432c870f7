// SPDX-License-Identifier: Apache-2.0
//
// scenario.h - makes a base, a COW file and the target they lead to, by chance.
//
// The target is the oracle of all merge tests: it is computed block by block
// from the list of changes, by nothing of the code under test. The COW file is
// laid out here byte by byte, in both versions, so that orders and mixes occur
// which our own writer never makes: sequence data that names anything, replace
// before copy, duplicates, clusters of every size.
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
  uint64_t source_bytes = 0;  // kCopy, kXor: of the base
  uint8_t span_log2 = 0;      // kReplace
  std::vector<uint8_t> data;  // kReplace, kXor: what the blocks become
};

struct Scenario {
  std::vector<uint8_t> base;
  std::vector<uint8_t> target;
  std::vector<uint8_t> cow;
  std::vector<Change> changes;
  uint16_t version = 3;
  uint32_t cluster_ops = 0;
  bool scratch = false;
  bool sequence = false;
  bool checks = false;
  uint32_t unit_blocks_max = 1;
  uint32_t blocks() const {
    return static_cast<uint32_t>(target.size() / kBlockBytes);
  }
  // One line: what it is made of, or as much of it as a line may hold.
  std::string Describe() const;
};

// Distinct content for every sector of every block of the base.
std::vector<uint8_t> NumberedBlocks(uint32_t blocks, uint64_t seed);

// How the file is laid out.
struct LayoutOptions {
  uint16_t version = 3;      // 1 is 2 with a shorter header, without scratch
  uint32_t cluster_ops = 0;  // version 2
  bool scratch = false;
  // The op table is shuffled and the order given by sequence data, for all ops
  // or, where the rest is ascending, for the copies and xors only.
  bool sequence = false;
  bool checks = false;  // our extension, with unit checks; version 3
  cow::Compression compression = cow::Compression::kNone;
  uint8_t span_log2_max = 0;
};

// `changes` in merge order; a block may be given twice only by equal changes.
// Version 2 without sequence needs copies and xors first and the rest
// ascending.
Scenario Build(std::vector<uint8_t> base, std::vector<Change> changes,
               const LayoutOptions& layout, Rng* rng);

// Everything by chance: sizes, mix, shifts up and down, permutations, cycles
// (cut by a replace), orders.
Scenario MakeScenario(uint64_t seed, const ScenarioOptions& options);

}  // namespace dmu::sim

#endif  // TEST_SIM_SCENARIO_H_
