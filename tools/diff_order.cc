// SPDX-License-Identifier: Apache-2.0
//
// diff_order.cc - a topological order of copies.
//
// A copy b <- s must come before the copy that overwrites s. Every copy reads
// one block, so it has at most one copy it must precede: chains, trees that
// flow into chains, and cycles, which are disjoint. readers[b] counts the
// copies that still have to read b; b may be overwritten at 0.
#include "daemon/base/check.h"
#include "tools/diff.h"

namespace dmu::tools {
namespace {

// Sweeps keep runs together, which makes the merge sequential: content that
// moved down is ordered in one ascending sweep, content that moved up in one
// descending sweep. Their number is limited, since each passes over all blocks
// and a knotted pair of images would need very many.
constexpr int kSweepsMax = 8;

class CopyOrder {
 public:
  CopyOrder(std::vector<uint32_t>* source, std::vector<DiffPlan::Copy>* order)
      : source_(*source), order_(*order), readers_(source->size()) {
    for (uint32_t b = 0; b < source_.size(); ++b) {
      if (source_[b] == kNoSource) continue;
      DMU_CHECK(source_[b] != b);
      ++pending_;
      if (source_[b] < source_.size()) ++readers_[source_[b]];
    }
  }

  bool finished() const { return pending_ == 0; }

  // Places what can be placed; whether that was anything.
  bool SweepUp() {
    const uint64_t before = pending_;
    for (uint32_t b = 0; b < source_.size(); ++b) {
      if (Ready(b)) Place(b);
    }
    return pending_ != before;
  }
  bool SweepDown() {
    const uint64_t before = pending_;
    for (uint64_t b = source_.size(); b-- > 0;) {
      if (Ready(static_cast<uint32_t>(b))) Place(static_cast<uint32_t>(b));
    }
    return pending_ != before;
  }

  // Places everything that is on no cycle, chain by chain. Linear.
  void FollowChains() {
    for (uint32_t b = 0; b < source_.size(); ++b) Follow(b);
  }

  // What is left are cycles. Gives up the lowest copy of each; returns their
  // number.
  uint64_t BreakCycles() {
    uint64_t broken = 0;
    for (uint32_t b = 0; b < source_.size(); ++b) {
      if (source_[b] == kNoSource || placed_[b]) continue;
      const uint32_t next = source_[b];
      source_[b] = kNoSource;
      --readers_[next];
      --pending_;
      ++broken;
      Follow(next);
    }
    return broken;
  }

 private:
  bool Ready(uint32_t b) const {
    return source_[b] != kNoSource && !placed_[b] && readers_[b] == 0;
  }

  void Place(uint32_t b) {
    order_.push_back({b, source_[b]});
    placed_[b] = true;
    --pending_;
    if (source_[b] < source_.size()) --readers_[source_[b]];
  }

  // Places b and then, along the chain, each copy that thereby became ready.
  void Follow(uint32_t b) {
    while (b < source_.size() && Ready(b)) {
      Place(b);
      b = source_[b];
    }
  }

  std::vector<uint32_t>& source_;
  std::vector<DiffPlan::Copy>& order_;
  std::vector<uint32_t> readers_;
  std::vector<bool> placed_ = std::vector<bool>(readers_.size());
  uint64_t pending_ = 0;
};

}  // namespace

std::vector<DiffPlan::Copy> OrderCopies(std::vector<uint32_t>* source,
                                        uint64_t* cycles_broken) {
  std::vector<DiffPlan::Copy> order;
  CopyOrder copies(source, &order);
  for (int sweep = 0; sweep < kSweepsMax && !copies.finished(); ++sweep) {
    const bool moved = sweep % 2 == 0 ? copies.SweepUp() : copies.SweepDown();
    // A sweep that places nothing was preceded by all that could be placed.
    if (!moved) break;
  }
  copies.FollowChains();
  *cycles_broken = copies.finished() ? 0 : copies.BreakCycles();
  DMU_CHECK(copies.finished());
  return order;
}

}  // namespace dmu::tools
