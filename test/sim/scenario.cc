// SPDX-License-Identifier: Apache-2.0
//
// scenario.cc - see scenario.h.
#include "test/sim/scenario.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/compressor.h"

namespace dmu::sim {
namespace {

std::vector<uint8_t> RandomBlocks(uint32_t blocks, bool compressible,
                                  Rng* rng) {
  std::vector<uint8_t> bytes(size_t{blocks} * kBlockBytes);
  for (size_t at = 0; at < bytes.size(); at += 8) {
    // Repeats that a compressor finds, and still no two sectors alike.
    const uint64_t value = compressible && at % kSectorBytes != 0
                               ? 0x0101010101010101
                               : rng->Next();
    StoreLe<uint64_t>(bytes.data() + at, value);
  }
  return bytes;
}

std::vector<uint8_t> Apply(const std::vector<uint8_t>& base,
                           const std::vector<Change>& changes) {
  std::vector<uint8_t> target = base;
  for (const Change& change : changes) {
    uint8_t* at = target.data() + size_t{change.new_block} * kBlockBytes;
    switch (change.type) {
      case cow::OpType::kCopy:
        std::memcpy(at, base.data() + size_t{change.source} * kBlockBytes,
                    kBlockBytes);
        break;
      case cow::OpType::kReplace:
        std::memcpy(at, change.data.data(), change.data.size());
        break;
      default:
        std::memset(at, 0, kBlockBytes);
        break;
    }
  }
  return target;
}

std::vector<uint8_t> Stored(const Change& change, cow::Compressor* compressor) {
  if (compressor == nullptr) return change.data;
  std::vector<uint8_t> out(change.data.size());
  const uint32_t used = compressor->Compress(change.data, out);
  if (used == 0) return change.data;
  out.resize(used);
  return out;
}

// The changes by block, before an order is made.
class Generator {
 public:
  Generator(uint32_t blocks, const ScenarioOptions& options, Rng* rng)
      : blocks_(blocks), options_(options), rng_(rng) {}

  std::vector<Change> Make() {
    Choose();
    mixed_ = rng_->OneIn(3);
    std::vector<Change> ordered = Order();
    if (!mixed_) {
      std::stable_partition(ordered.begin(), ordered.end(),
                            [](const Change& change) {
                              return change.type == cow::OpType::kCopy;
                            });
    }
    return ordered;
  }

 private:
  enum class Pattern { kAny, kShiftUp, kShiftDown, kPermutation };

  Change MakeReplace(uint32_t block, std::vector<uint8_t> data) {
    Change change;
    change.type = cow::OpType::kReplace;
    change.new_block = block;
    change.data = std::move(data);
    while (1u << change.span_log2 < change.data.size() / kBlockBytes) {
      ++change.span_log2;
    }
    return change;
  }

  void Choose() {
    const auto pattern = static_cast<Pattern>(rng_->Below(4));
    const uint32_t distance = 1 + rng_->Below(std::max(blocks_ / 2, 1u));
    std::vector<uint32_t> permutation(blocks_);
    std::iota(permutation.begin(), permutation.end(), 0);
    for (uint32_t i = blocks_; i > 1; --i) {
      std::swap(permutation[i - 1], permutation[rng_->Below(i)]);
    }
    // How often a block breaks the pattern.
    const uint32_t noise = 2 + rng_->Below(8);
    for (uint32_t block = 0; block < blocks_; ++block) {
      Change change;
      change.new_block = block;
      change.type = cow::OpType::kCopy;
      change.source = rng_->Below(blocks_);
      if (pattern == Pattern::kShiftUp && block >= distance) {
        change.source = block - distance;
      } else if (pattern == Pattern::kShiftDown && block + distance < blocks_) {
        change.source = block + distance;
      } else if (pattern == Pattern::kPermutation) {
        change.source = permutation[block];
      }
      if (pattern == Pattern::kAny || rng_->OneIn(noise)) {
        const uint32_t kind = rng_->Below(8);
        if (kind == 0) continue;
        if (kind == 1) change.type = cow::OpType::kZero;
        if (kind >= 2 && kind <= 4) {
          uint8_t span_log2 = static_cast<uint8_t>(
              rng_->Below(uint32_t{options_.span_log2_max} + 1));
          while (block + (1u << span_log2) > blocks_) --span_log2;
          changes_.push_back(MakeReplace(
              block,
              RandomBlocks(1u << span_log2,
                           options_.compression != cow::Compression::kNone &&
                               !rng_->OneIn(4),
                           rng_)));
          block += (1u << span_log2) - 1;
          continue;
        }
      }
      changes_.push_back(change);
    }
  }

  bool ReadBy(const Change& reader, const Change& writer) const {
    return reader.type == cow::OpType::kCopy &&
           reader.source >= writer.new_block &&
           reader.source < writer.new_block + (1u << writer.span_log2);
  }

  // Any order in which nothing is read after it was overwritten. A cycle loses
  // a copy, which the caller's base gives the data of.
  std::vector<Change> Order() {
    std::vector<Change> ordered;
    const bool descending = rng_->OneIn(2);
    while (!changes_.empty()) {
      std::vector<size_t> ready;
      for (size_t i = 0; i < changes_.size(); ++i) {
        bool waits = false;
        for (size_t j = 0; j < changes_.size(); ++j) {
          if (j != i && ReadBy(changes_[j], changes_[i])) waits = true;
        }
        if (!waits) ready.push_back(i);
      }
      size_t pick = 0;
      if (ready.empty()) {
        // Every one that is left is read by another: drop one that reads.
        while (changes_[pick].type != cow::OpType::kCopy) ++pick;
        Change& copy = changes_[pick];
        copy.type = cow::OpType::kReplace;
        copy.data = RandomBlocks(1, false, rng_);
        continue;
      }
      if (rng_->OneIn(4)) {
        pick = ready[rng_->Below(ready.size())];
      } else {
        pick = descending ? ready.back() : ready.front();
      }
      ordered.push_back(changes_[pick]);
      changes_.erase(changes_.begin() + static_cast<ptrdiff_t>(pick));
    }
    return ordered;
  }

  const uint32_t blocks_;
  const ScenarioOptions options_;
  Rng* const rng_;
  bool mixed_ = false;
  std::vector<Change> changes_;
};

// Repeats a replace or zero at a later place.
void AddDuplicates(std::vector<Change>* changes, Rng* rng) {
  for (uint32_t i = 0; i < 2 && !changes->empty(); ++i) {
    const size_t from = rng->Below(changes->size());
    const Change change = (*changes)[from];
    if (change.type == cow::OpType::kCopy || change.span_log2 > 0) continue;
    const size_t to = from + 1 + rng->Below(changes->size() - from);
    changes->insert(changes->begin() + static_cast<ptrdiff_t>(to), change);
  }
}

// Which changes' blocks the sequence data names, in the order of M: all of
// them, or the copies when the rest is in the order that M gives it anyway.
std::vector<uint32_t> Sequence(const std::vector<Change>& changes) {
  const auto copies_end = std::find_if(
      changes.begin(), changes.end(),
      [](const Change& change) { return change.type != cow::OpType::kCopy; });
  const bool rest_ascending = std::is_sorted(
      copies_end, changes.end(), [](const Change& a, const Change& b) {
        return a.new_block < b.new_block;
      });
  const bool rest_has_copies = std::any_of(
      copies_end, changes.end(),
      [](const Change& change) { return change.type == cow::OpType::kCopy; });
  std::vector<uint32_t> sequence;
  const auto end =
      rest_ascending && !rest_has_copies ? copies_end : changes.end();
  for (auto it = changes.begin(); it != end; ++it) {
    sequence.push_back(it->new_block);
  }
  return sequence;
}

}  // namespace

std::vector<uint8_t> NumberedBlocks(uint32_t blocks, uint64_t seed) {
  std::vector<uint8_t> bytes(size_t{blocks} * kBlockBytes);
  for (size_t at = 0; at < bytes.size(); at += 8) {
    StoreLe<uint64_t>(bytes.data() + at, Mix(seed ^ at / kSectorBytes));
  }
  return bytes;
}

Scenario Build(std::vector<uint8_t> base, std::vector<Change> changes,
               bool scratch, bool sequence, cow::Compression compression,
               uint8_t span_log2_max, Rng* rng) {
  Scenario scenario;
  scenario.target = Apply(base, changes);
  scenario.base = std::move(base);
  scenario.scratch = scratch;

  std::vector<uint32_t> named;
  std::vector<Change> table = changes;
  if (sequence) named = Sequence(changes);
  scenario.sequence = !named.empty();
  if (scenario.sequence) {
    for (size_t i = table.size(); i > 1; --i) {
      std::swap(table[i - 1], table[rng->Below(i)]);
    }
  }
  cow::Header header;
  header.buffer_size = scratch ? cow::kScratchBytes : 0;
  header.sequence_data_count = named.size();
  header.op_count = table.size();
  header.op_count_max = table.size() + rng->Below(3);
  header.compression = compression;
  header.max_unit_bytes = kBlockBytes << span_log2_max;
  auto compressor =
      compression == cow::Compression::kNone
          ? nullptr
          : cow::Compressor::Create({compression, 1}, header.max_unit_bytes);
  std::vector<uint8_t>& file = scenario.cow;
  file.resize(header.DataOffset());
  cow::EncodeHeader(header, file.data());
  for (size_t i = 0; i < named.size(); ++i) {
    StoreLe<uint32_t>(file.data() + header.SequenceOffset() + 4 * i, named[i]);
  }
  for (size_t i = 0; i < table.size(); ++i) {
    cow::Op op;
    op.type = table[i].type;
    op.new_block = table[i].new_block;
    if (op.type == cow::OpType::kCopy) op.source = table[i].source;
    if (op.type == cow::OpType::kReplace) {
      const std::vector<uint8_t> stored = Stored(table[i], compressor.get());
      op.span_log2 = table[i].span_log2;
      op.source = file.size();
      op.data_length = static_cast<uint32_t>(stored.size());
      file.insert(file.end(), stored.begin(), stored.end());
    }
    cow::EncodeOp(op, file.data() + header.OpsOffset() + i * cow::kOpBytes);
  }
  scenario.changes = std::move(changes);
  return scenario;
}

Scenario MakeScenario(uint64_t seed, const ScenarioOptions& options) {
  Rng rng(seed);
  const uint32_t blocks =
      options.blocks_min +
      rng.Below(options.blocks_max - options.blocks_min + 1);
  const bool scratch = !rng.OneIn(3);
  const bool sequence = rng.OneIn(3);
  Generator generator(blocks, options, &rng);
  std::vector<Change> changes = generator.Make();
  if (!sequence && rng.OneIn(4)) AddDuplicates(&changes, &rng);
  return Build(NumberedBlocks(blocks, seed), std::move(changes), scratch,
               sequence, options.compression, options.span_log2_max, &rng);
}

std::string Scenario::Describe() const {
  std::string text = std::to_string(blocks()) + " blocks" +
                     (scratch ? ", scratch" : "") +
                     (sequence ? ", sequence" : "") + ":";
  for (const Change& change : changes) {
    text += ' ' + std::to_string(change.new_block);
    if (change.type == cow::OpType::kCopy) {
      text += "<-" + std::to_string(change.source);
    } else if (change.type == cow::OpType::kZero) {
      text += "=0";
    } else {
      text += "=data*" + std::to_string(1 << change.span_log2);
    }
  }
  return text;
}

}  // namespace dmu::sim
