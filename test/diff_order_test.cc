// SPDX-License-Identifier: Apache-2.0
//
// Goal: OrderOps never lets an op overwrite what a later one reads, gives up
// nothing where there is no cycle, and the cheapest op where there is one.
// Method: random graphs of all densities, judged by the definition.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tools/diff.h"

namespace dmu::tools {
namespace {

using Ordered = DiffPlan::Ordered;

// Blocks that the op reads.
std::vector<uint64_t> Reads(const Ordered& op) {
  std::vector<uint64_t> blocks = {op.source_bytes / kBlockBytes};
  if (op.source_bytes % kBlockBytes != 0) blocks.push_back(blocks[0] + 1);
  return blocks;
}

bool IsValidOrder(const std::vector<Ordered>& ops) {
  uint32_t blocks = 0;
  for (const Ordered& op : ops) blocks = std::max(blocks, op.new_block + 1);
  std::vector<bool> overwritten(blocks);
  for (const Ordered& op : ops) {
    for (const uint64_t block : Reads(op)) {
      if (block < blocks && overwritten[block]) return false;
    }
    overwritten[op.new_block] = true;
  }
  return true;
}

// Takes away ops whose block nobody else reads until none is left.
bool HasCycle(std::vector<Ordered> ops) {
  while (!ops.empty()) {
    const auto free =
        std::find_if(ops.begin(), ops.end(), [&](const Ordered& op) {
          return std::none_of(ops.begin(), ops.end(), [&](const Ordered& o) {
            const std::vector<uint64_t> reads = Reads(o);
            return o.new_block != op.new_block &&
                   std::count(reads.begin(), reads.end(), op.new_block) != 0;
          });
        });
    if (free == ops.end()) return true;
    ops.erase(free);
  }
  return false;
}

struct Graph {
  std::vector<Ordered> ops;
  std::vector<uint16_t> loss;
};

Graph RandomGraph(std::mt19937* rng) {
  const uint32_t blocks = 1 + (*rng)() % 24;
  const uint32_t sources = 1 + (*rng)() % 32;
  const uint32_t density = 1 + (*rng)() % 4;
  Graph graph;
  for (uint32_t b = 0; b < blocks; ++b) {
    if ((*rng)() % 4 >= density) continue;
    const bool is_xor = (*rng)() % 2 == 0;
    uint64_t source = uint64_t{(*rng)() % sources} * kBlockBytes;
    if (is_xor) source += (*rng)() % kBlockBytes * ((*rng)() % 2);
    if (!is_xor && source / kBlockBytes == b) continue;
    graph.ops.push_back({b, is_xor, source});
    graph.loss.push_back(static_cast<uint16_t>((*rng)() % 100));
  }
  return graph;
}

TEST(DiffOrderTest, RandomGraphs) {
  std::mt19937 rng(1);
  int cyclic = 0;
  for (int round = 0; round < 20000; ++round) {
    const Graph graph = RandomGraph(&rng);
    std::vector<Ordered> ops = graph.ops;
    const std::vector<uint32_t> given_up = OrderOps(&ops, graph.loss);
    ASSERT_TRUE(IsValidOrder(ops)) << round;
    const bool has_cycle = HasCycle(graph.ops);
    EXPECT_EQ(!given_up.empty(), has_cycle) << round;
    cyclic += has_cycle;
    // Every op is in one of the two, as it was.
    std::set<uint32_t> lost(given_up.begin(), given_up.end());
    EXPECT_EQ(lost.size(), given_up.size());
    EXPECT_EQ(ops.size() + lost.size(), graph.ops.size());
    for (const Ordered& op : graph.ops) {
      EXPECT_EQ(std::count(ops.begin(), ops.end(), op),
                lost.count(op.new_block) != 0 ? 0 : 1);
    }
  }
  EXPECT_GT(cyclic, 3000);
  EXPECT_LT(cyclic, 17000);
}

TEST(DiffOrderTest, OfACycleTheCheapestOpGoes) {
  // 0 <- 1 <- 2 <- 3 <- 0
  std::vector<Ordered> ops;
  for (uint32_t b = 0; b < 4; ++b) {
    ops.push_back({b, false, uint64_t{(b + 1) % 4} * kBlockBytes});
  }
  for (uint32_t cheap = 0; cheap < 4; ++cheap) {
    std::vector<uint16_t> loss(4, 50);
    loss[cheap] = 49;
    std::vector<Ordered> order = ops;
    EXPECT_EQ(OrderOps(&order, loss), std::vector<uint32_t>{cheap});
    EXPECT_EQ(order.size(), 3u);
  }
}

TEST(DiffOrderTest, AnXorMayReadWhatItOverwrites) {
  std::vector<Ordered> ops = {{5, true, 5 * kBlockBytes},
                              {6, true, 6 * kBlockBytes + 9}};
  EXPECT_TRUE(OrderOps(&ops, {1, 1}).empty());
  EXPECT_EQ(ops.size(), 2u);
}

TEST(DiffOrderTest, TwoXorsThatReadEachOthersBlocks) {
  // Each reads both blocks: either may stay, not both.
  std::vector<Ordered> ops = {{5, true, 5 * kBlockBytes + 1},
                              {6, true, 5 * kBlockBytes + 2}};
  EXPECT_EQ(OrderOps(&ops, {7, 3}), std::vector<uint32_t>{6});
}

// A run stays a run, so that a merge reads and writes in sequence. What moved
// up by more than a block falls into two.
TEST(DiffOrderTest, RunsStayWhole) {
  for (const int shift : {1, -1, 4095, -4095, 4096, -4096, 70000, -70000}) {
    std::vector<Ordered> ops;
    for (uint32_t b = 100; b < 1100; ++b) {
      const int64_t source = int64_t{b} * kBlockBytes + shift;
      ops.push_back({b, true, static_cast<uint64_t>(source)});
    }
    EXPECT_TRUE(OrderOps(&ops, std::vector<uint16_t>(1000, 1)).empty());
    EXPECT_TRUE(IsValidOrder(ops));
    int breaks = 0;
    for (size_t i = 1; i < ops.size(); ++i) {
      const uint32_t before = ops[i - 1].new_block;
      const uint32_t block = ops[i].new_block;
      breaks += block != before + 1 && block + 1 != before;
    }
    EXPECT_LE(breaks, shift == -70000 ? 1 : 0) << shift;
  }
}

// Neither depth nor knots may cost more than a moment: a recursion would end
// the stack, a search that begins anew after each cycle the patience.
TEST(DiffOrderTest, LargeGraphs) {
  constexpr uint32_t kBlocks = 1 << 18;
  std::mt19937 rng(2);
  std::vector<uint32_t> shuffled(kBlocks);
  for (uint32_t b = 0; b < kBlocks; ++b) shuffled[b] = b;
  std::shuffle(shuffled.begin(), shuffled.end(), rng);
  std::vector<Ordered> chain;
  std::vector<Ordered> knot;
  for (uint32_t b = 0; b < kBlocks; ++b) chain.push_back({b, false, 0});
  for (uint32_t i = 0; i < kBlocks; ++i) {
    const uint64_t next = shuffled[(i + 1) % kBlocks];
    chain[shuffled[i]].source_bytes = next * kBlockBytes;
    knot.push_back(
        {i, true, rng() % (kBlocks - 1) * uint64_t{kBlockBytes} + 1});
  }
  const std::vector<uint16_t> loss(kBlocks, 1);
  EXPECT_EQ(OrderOps(&chain, loss).size(), 1u);
  EXPECT_TRUE(IsValidOrder(chain));
  EXPECT_LT(OrderOps(&knot, loss).size(), kBlocks / 2);
  EXPECT_TRUE(IsValidOrder(knot));
}

}  // namespace
}  // namespace dmu::tools
