// SPDX-License-Identifier: Apache-2.0
//
// diff_order.cc - a topological order of copies and xors.
//
// An op must come before the ops that overwrite what it reads: one block, or
// two when its source is not at a block boundary. So the graph has at most two
// edges per op, and any shape. First every cycle loses an op, then what is left
// is placed, op by op when nobody has to read its block any more.
#include <algorithm>

#include "daemon/base/check.h"
#include "tools/diff.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

// Sweeps keep runs together, which makes the merge sequential: content that
// moved down is ordered in one ascending sweep, content that moved up in one
// descending sweep. Their number is limited, since each passes over all ops and
// a knotted pair of images would need very many.
constexpr int kSweepsMax = 8;

// Of a cycle only so many ops are looked at for the cheapest one. It bounds the
// work: the search goes back over them.
constexpr size_t kCycleOpsMax = 64;

// Ops are known by their number in `ops`.
class OpOrder {
 public:
  OpOrder(const std::vector<DiffPlan::Ordered>& ops,
          const std::vector<uint16_t>& loss)
      : ops_(ops), loss_(loss), state_(ops.size(), State::kNew) {
    uint32_t blocks = 0;
    for (const DiffPlan::Ordered& op : ops) {
      blocks = std::max(blocks, op.new_block + 1);
    }
    writer_.assign(blocks, kNone);
    for (uint32_t i = 0; i < ops.size(); ++i) {
      DMU_CHECK(writer_[ops[i].new_block] == kNone);
      writer_[ops[i].new_block] = i;
    }
  }

  // Gives up ops until no cycle is left. A search in depth, on a stack of its
  // own: an edge to an op that is on the stack closes a cycle.
  void BreakCycles() {
    for (uint32_t i = 0; i < ops_.size(); ++i) {
      if (state_[i] != State::kNew) continue;
      Push(i);
      while (!stack_.empty()) {
        Step& top = stack_.back();
        if (top.next_edge == 2) {
          state_[top.op] = State::kDone;
          stack_.pop_back();
          continue;
        }
        const uint32_t next = Successor(top.op, top.next_edge++);
        if (next == kNone) continue;
        if (state_[next] == State::kNew) {
          Push(next);
        } else if (state_[next] == State::kOnStack) {
          BreakCycle(next);
        }
      }
    }
  }

  std::vector<DiffPlan::Ordered> Place() {
    readers_.assign(ops_.size(), 0);
    pending_ = 0;
    for (uint32_t i = 0; i < ops_.size(); ++i) {
      if (state_[i] == State::kGivenUp) continue;
      ++pending_;
      for (int edge = 0; edge < 2; ++edge) {
        const uint32_t next = Successor(i, edge);
        if (next != kNone) ++readers_[next];
      }
    }
    order_.reserve(pending_);
    for (int sweep = 0; sweep < kSweepsMax && pending_ > 0; ++sweep) {
      if (sweep % 2 == 0) {
        for (uint32_t i = 0; i < ops_.size(); ++i) TryPlace(i);
      } else {
        for (size_t i = ops_.size(); i-- > 0;) {
          TryPlace(static_cast<uint32_t>(i));
        }
      }
    }
    for (uint32_t i = 0; i < ops_.size() && pending_ > 0; ++i) Follow(i);
    DMU_CHECK(pending_ == 0);
    return std::move(order_);
  }

  std::vector<uint32_t> GivenUp() const {
    std::vector<uint32_t> blocks;
    for (uint32_t i = 0; i < ops_.size(); ++i) {
      if (state_[i] == State::kGivenUp) blocks.push_back(ops_[i].new_block);
    }
    return blocks;
  }

 private:
  enum class State : uint8_t { kNew, kOnStack, kDone, kGivenUp, kPlaced };
  struct Step {
    uint32_t op;
    int next_edge;
  };

  // An op that must come after `op`; kNone when this edge is not there.
  uint32_t Successor(uint32_t op, int edge) const {
    const uint64_t source = ops_[op].source_bytes;
    if (edge == 1 && source % kBlockBytes == 0) return kNone;
    const uint64_t block = source / kBlockBytes + static_cast<uint64_t>(edge);
    if (block >= writer_.size()) return kNone;
    const uint32_t next = writer_[block];
    if (next == op || next == kNone || state_[next] == State::kGivenUp) {
      return kNone;
    }
    return next;
  }

  void Push(uint32_t op) {
    state_[op] = State::kOnStack;
    stack_.push_back({op, 0});
  }

  // The stack from `first` to its end is a cycle. Its cheapest op goes, of
  // equal ones the last; what stands above it is looked at anew.
  void BreakCycle(uint32_t first) {
    size_t best = stack_.size() - 1;
    for (size_t at = best, seen = 0; seen < kCycleOpsMax; --at, ++seen) {
      if (loss_[stack_[at].op] < loss_[stack_[best].op]) best = at;
      if (stack_[at].op == first) break;
    }
    while (stack_.size() > best + 1) {
      state_[stack_.back().op] = State::kNew;
      stack_.pop_back();
    }
    state_[stack_.back().op] = State::kGivenUp;
    stack_.pop_back();
  }

  bool TryPlace(uint32_t op) {
    if (readers_[op] != 0 || state_[op] == State::kPlaced ||
        state_[op] == State::kGivenUp) {
      return false;
    }
    order_.push_back(ops_[op]);
    --pending_;
    for (int edge = 0; edge < 2; ++edge) {
      const uint32_t next = Successor(op, edge);
      if (next != kNone) --readers_[next];
    }
    state_[op] = State::kPlaced;
    return true;
  }

  // Places the op and, along the edges, each one that thereby became ready.
  void Follow(uint32_t op) {
    follow_.push_back(op);
    while (!follow_.empty()) {
      op = follow_.back();
      follow_.pop_back();
      if (!TryPlace(op)) continue;
      for (int edge = 0; edge < 2; ++edge) {
        const uint32_t next = Successor(op, edge);
        if (next != kNone) follow_.push_back(next);
      }
    }
  }

  const std::vector<DiffPlan::Ordered>& ops_;
  const std::vector<uint16_t>& loss_;
  std::vector<uint32_t> writer_;  // by block: the op that overwrites it
  std::vector<State> state_;
  std::vector<Step> stack_;
  std::vector<uint32_t> readers_;  // ops not placed that read this one's block
  std::vector<uint32_t> follow_;
  std::vector<DiffPlan::Ordered> order_;
  uint64_t pending_ = 0;
};

}  // namespace

std::vector<uint32_t> OrderOps(std::vector<DiffPlan::Ordered>* ops,
                               const std::vector<uint16_t>& loss) {
  DMU_CHECK(loss.size() == ops->size());
  OpOrder order(*ops, loss);
  order.BreakCycles();
  std::vector<uint32_t> given_up = order.GivenUp();
  std::vector<DiffPlan::Ordered> placed = order.Place();
  *ops = std::move(placed);
  return given_up;
}

}  // namespace dmu::tools
