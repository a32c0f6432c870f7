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
#include "daemon/cow/extension.h"
#include "daemon/cow/unit_check.h"

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
        std::memcpy(at, base.data() + change.source_bytes, kBlockBytes);
        break;
      case cow::OpType::kReplace:
      case cow::OpType::kXor:
        std::memcpy(at, change.data.data(), change.data.size());
        break;
      default:
        std::memset(at, 0, kBlockBytes);
        break;
    }
  }
  return target;
}

// The change's data as it goes to the file.
std::vector<uint8_t> Stored(const Change& change,
                            const std::vector<uint8_t>& base,
                            const LayoutOptions& layout,
                            cow::Compressor* compressor) {
  std::vector<uint8_t> data = change.data;
  if (change.type == cow::OpType::kXor) {
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<uint8_t>(data[i] ^ base[change.source_bytes + i]);
    }
  }
  if (compressor == nullptr) return data;
  const bool always =
      layout.version != 3 && (layout.compression == cow::Compression::kGz ||
                              layout.compression == cow::Compression::kBrotli);
  std::vector<uint8_t> out(
      cow::Compressor::BoundBytes(static_cast<uint32_t>(data.size())));
  const uint32_t used = always ? compressor->CompressAlways(data, out)
                               : compressor->Compress(data, out);
  if (used == 0) return data;
  out.resize(used);
  return out;
}

bool IsOrdered(const Change& change) { return cow::IsOrderedOp(change.type); }

struct GeneratorOptions {
  uint8_t span_log2_max = 0;
  bool compressible = false;
  bool scratch = false;
  bool mixed = true;  // replace and zero may come before copy and xor
};

// The changes by block, before an order is made.
class Generator {
 public:
  Generator(uint32_t blocks, const GeneratorOptions& options, Rng* rng)
      : blocks_(blocks), options_(options), rng_(rng) {}

  std::vector<Change> Make() {
    Choose();
    mixed_ = options_.mixed && rng_->OneIn(3);
    std::vector<Change> ordered = Order();
    if (!mixed_) {
      std::stable_partition(ordered.begin(), ordered.end(), IsOrdered);
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
      uint32_t source = rng_->Below(blocks_);
      if (pattern == Pattern::kShiftUp && block >= distance) {
        source = block - distance;
      } else if (pattern == Pattern::kShiftDown && block + distance < blocks_) {
        source = block + distance;
      } else if (pattern == Pattern::kPermutation) {
        source = permutation[block];
      }
      change.source_bytes = uint64_t{source} * kBlockBytes;
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
                           options_.compressible && !rng_->OneIn(4), rng_)));
          block += (1u << span_log2) - 1;
          continue;
        }
      }
      if (rng_->OneIn(3)) MakeXor(&change);
      changes_.push_back(change);
    }
  }

  // Reads what the copy would read, or bytes across two blocks.
  void MakeXor(Change* change) {
    const uint32_t shift = rng_->OneIn(2) ? 0 : rng_->Below(kBlockBytes);
    if (change->source_bytes + shift + kBlockBytes <=
        uint64_t{blocks_} * kBlockBytes) {
      change->source_bytes += shift;
    }
    change->type = cow::OpType::kXor;
    change->data = RandomBlocks(1, rng_->OneIn(2), rng_);
    // In place it needs the scratch region.
    if (options_.scratch || !Reads(*change, change->new_block)) return;
    *change = MakeReplace(change->new_block, change->data);
  }

  static bool Reads(const Change& reader, uint32_t block) {
    const uint64_t begin = uint64_t{block} * kBlockBytes;
    return IsOrdered(reader) && reader.source_bytes < begin + kBlockBytes &&
           begin < reader.source_bytes + kBlockBytes;
  }

  static bool ReadBy(const Change& reader, const Change& writer) {
    for (uint32_t i = 0; i < 1u << writer.span_log2; ++i) {
      if (Reads(reader, writer.new_block + i)) return true;
    }
    return false;
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
        while (!IsOrdered(changes_[pick])) ++pick;
        changes_[pick] =
            MakeReplace(changes_[pick].new_block, RandomBlocks(1, false, rng_));
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
  const GeneratorOptions options_;
  Rng* const rng_;
  bool mixed_ = false;
  std::vector<Change> changes_;
};

// Repeats a replace or zero at a later place.
void AddDuplicates(std::vector<Change>* changes, Rng* rng) {
  for (uint32_t i = 0; i < 2 && !changes->empty(); ++i) {
    const size_t from = rng->Below(changes->size());
    const Change change = (*changes)[from];
    if (IsOrdered(change) || change.span_log2 > 0) continue;
    const size_t to = from + 1 + rng->Below(changes->size() - from);
    changes->insert(changes->begin() + static_cast<ptrdiff_t>(to), change);
  }
}

// Which changes' blocks the sequence data names, in the order of M: all of
// them, or the copies and xors when the rest is in the order that M gives it
// anyway.
std::vector<uint32_t> Sequence(const std::vector<Change>& changes) {
  const auto copies_end =
      std::find_if_not(changes.begin(), changes.end(), IsOrdered);
  const bool rest_ascending = std::is_sorted(
      copies_end, changes.end(), [](const Change& a, const Change& b) {
        return a.new_block < b.new_block;
      });
  const bool rest_has_copies =
      std::any_of(copies_end, changes.end(), IsOrdered);
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

namespace {

// Lays out ops and data of a version 3 file behind its header.
void LayOutV3(const std::vector<Change>& table,
              const std::vector<uint32_t>& named, const LayoutOptions& layout,
              Rng* rng, Scenario* scenario) {
  cow::Header header;
  header.buffer_size = layout.scratch ? cow::kScratchBytes : 0;
  header.sequence_data_count = named.size();
  header.op_count = table.size();
  header.op_count_max = table.size() + rng->Below(3);
  header.compression = layout.compression;
  header.max_unit_bytes = kBlockBytes << layout.span_log2_max;
  cow::Extension ext;
  ext.complete = true;
  ext.unit_check_count = static_cast<uint32_t>(table.size());
  ext.op_count = table.size();
  if (layout.checks) header.op_count_max += ext.bytes() / cow::kOpBytesV3;
  auto compressor =
      cow::Compressor::Create({layout.compression, 1}, header.max_unit_bytes);
  std::vector<uint8_t>& file = scenario->cow;
  file.resize(header.DataOffset());
  cow::EncodeHeader(header, file.data());
  for (size_t i = 0; i < named.size(); ++i) {
    StoreLe<uint32_t>(file.data() + header.SequenceOffset() + 4 * i, named[i]);
  }
  cow::OpsHasher hasher;
  std::vector<uint8_t> checks(4 * table.size());
  for (size_t i = 0; i < table.size(); ++i) {
    cow::Op op;
    op.type = table[i].type;
    op.new_block = table[i].new_block;
    op.source = op.type == cow::OpType::kCopy
                    ? table[i].source_bytes / kBlockBytes
                    : table[i].source_bytes;
    if (cow::HasData(op.type)) {
      const std::vector<uint8_t> stored =
          Stored(table[i], scenario->base, layout, compressor.get());
      op.span_log2 = table[i].span_log2;
      if (op.type == cow::OpType::kReplace) op.source = file.size();
      op.data_length = static_cast<uint32_t>(stored.size());
      StoreLe<uint32_t>(checks.data() + 4 * i, cow::UnitCheck(stored));
      file.insert(file.end(), stored.begin(), stored.end());
    }
    hasher.AddOp(op);
    cow::EncodeOpV3(op, file.data() + header.OpsOffset() + i * cow::kOpBytesV3);
  }
  if (!layout.checks) return;
  hasher.AddSequence(
      {file.data() + header.SequenceOffset(), size_t{4} * named.size()});
  ext.base_bytes = ext.target_bytes = scenario->base.size();
  ext.data_end = file.size();
  ext.header_crc = cow::HeaderChecksum(header);
  ext.ops_check = hasher.Finish();
  uint8_t* record = file.data() + header.DataOffset() - cow::kExtensionBytes;
  std::copy(checks.begin(), checks.end(),
            record - ext.unit_checks_before_record());
  cow::EncodeExtension(ext, record);
}

// A version 2 file: ops of 20 bytes in clusters, each followed by its data.
class LayerV2 {
 public:
  LayerV2(const LayoutOptions& layout, Rng* rng, Scenario* scenario)
      : layout_(layout),
        rng_(rng),
        base_(scenario->base),
        file_(scenario->cow),
        compressor_(
            cow::Compressor::Create({layout.compression, 1}, kBlockBytes)) {}

  void Run(const std::vector<Change>& table,
           const std::vector<uint32_t>& named) {
    cow::Header header = cow::HeaderV2(layout_.cluster_ops);
    header.buffer_size = layout_.scratch ? cow::kScratchBytes : 0;
    if (layout_.version == 1) {
      header.major_version = 1;
      header.header_size = cow::kHeaderBytesV1;
    }
    file_.resize(uint64_t{header.header_size} + header.buffer_size);
    cow::EncodeHeader(header, file_.data());
    if (!named.empty()) {
      std::vector<uint8_t> bytes(4 * named.size());
      for (size_t i = 0; i < named.size(); ++i) {
        StoreLe<uint32_t>(bytes.data() + 4 * i, named[i]);
      }
      // In one op or in two.
      const size_t cut = rng_->OneIn(2) ? bytes.size() / 8 * 4 : 0;
      if (cut > 0) AddSlot(7, 0, 0, 0, {bytes.data(), cut}, true);
      AddSlot(7, 0, 0, 0, {bytes.data() + cut, bytes.size() - cut}, true);
    }
    for (const Change& change : table) {
      if (rng_->OneIn(8)) AddSlot(4, 0, 0, labels_++, {}, false);
      Add(change);
    }
    if (cluster_data_.empty()) {
      file_.insert(file_.end(), slots_.begin(), slots_.end());
    } else {
      CloseCluster();
    }
    uint8_t footer[cow::kFooterBytes] = {255, 0, 64};
    StoreLe<uint64_t>(footer + 4, 20 * ops_);
    StoreLe<uint64_t>(footer + 12, ops_);
    file_.insert(file_.end(), footer, footer + sizeof(footer));
  }

 private:
  void Add(const Change& change) {
    const auto type = static_cast<uint8_t>(change.type);
    const auto compression = static_cast<uint8_t>(layout_.compression);
    const std::vector<uint8_t> stored =
        cow::HasData(change.type)
            ? Stored(change, base_, layout_, compressor_.get())
            : std::vector<uint8_t>();
    const uint64_t source = change.type == cow::OpType::kCopy
                                ? change.source_bytes / kBlockBytes
                                : change.source_bytes;
    AddSlot(type, stored.empty() ? uint8_t{0} : compression, change.new_block,
            source, stored, change.type == cow::OpType::kReplace);
  }

  // own_place: the source field is where the data is.
  void AddSlot(uint8_t type, uint8_t compression, uint64_t block,
               uint64_t source, ConstByteSpan data, bool own_place) {
    uint8_t slot[20] = {type, compression};
    const size_t area = size_t{20} * layout_.cluster_ops;
    const uint64_t place = layout_.cluster_ops == 0
                               ? file_.size() + 20
                               : file_.size() + area + cluster_data_.size();
    StoreLe<uint16_t>(slot + 2, static_cast<uint16_t>(data.size()));
    StoreLe<uint64_t>(slot + 4, block);
    StoreLe<uint64_t>(slot + 12, own_place ? place : source);
    ++ops_;
    if (layout_.cluster_ops == 0) {
      file_.insert(file_.end(), slot, slot + 20);
      file_.insert(file_.end(), data.begin(), data.end());
      return;
    }
    slots_.insert(slots_.end(), slot, slot + 20);
    cluster_data_.insert(cluster_data_.end(), data.begin(), data.end());
    if (slots_.size() + 40 > area) CloseCluster();
  }

  void CloseCluster() {
    if (layout_.cluster_ops == 0) return;
    const size_t area = size_t{20} * layout_.cluster_ops;
    uint8_t slot[20] = {5};
    StoreLe<uint64_t>(slot + 12,
                      cluster_data_.size() + area - slots_.size() - 20);
    ++ops_;
    slots_.insert(slots_.end(), slot, slot + 20);
    slots_.resize(area);
    file_.insert(file_.end(), slots_.begin(), slots_.end());
    file_.insert(file_.end(), cluster_data_.begin(), cluster_data_.end());
    slots_.clear();
    cluster_data_.clear();
  }

  const LayoutOptions& layout_;
  Rng* const rng_;
  const std::vector<uint8_t>& base_;
  std::vector<uint8_t>& file_;
  std::unique_ptr<cow::Compressor> compressor_;
  std::vector<uint8_t> slots_;  // of the open cluster
  std::vector<uint8_t> cluster_data_;
  uint64_t ops_ = 0;
  uint64_t labels_ = 0;
};

}  // namespace

Scenario Build(std::vector<uint8_t> base, std::vector<Change> changes,
               const LayoutOptions& layout, Rng* rng) {
  Scenario scenario;
  scenario.target = Apply(base, changes);
  scenario.base = std::move(base);
  scenario.version = layout.version;
  scenario.cluster_ops = layout.cluster_ops;
  scenario.scratch = layout.scratch;
  scenario.checks = layout.checks;
  scenario.unit_blocks_max = 1u << layout.span_log2_max;
  std::vector<uint32_t> named;
  std::vector<Change> table = changes;
  if (layout.sequence) named = Sequence(changes);
  scenario.sequence = !named.empty();
  if (scenario.sequence) {
    for (size_t i = table.size(); i > 1; --i) {
      std::swap(table[i - 1], table[rng->Below(i)]);
    }
  } else if (layout.version != 3) {
    // Ordered ops keep their order, the others may stand anywhere.
    const auto rest = std::find_if_not(table.begin(), table.end(), IsOrdered);
    std::vector<Change> others(rest, table.end());
    table.erase(rest, table.end());
    for (Change& other : others) {
      const size_t at = rng->Below(table.size() + 1);
      table.insert(table.begin() + static_cast<ptrdiff_t>(at),
                   std::move(other));
    }
  }
  if (layout.version != 3) {
    LayerV2(layout, rng, &scenario).Run(table, named);
  } else {
    LayOutV3(table, named, layout, rng, &scenario);
  }
  scenario.changes = std::move(changes);
  return scenario;
}

Scenario MakeScenario(uint64_t seed, const ScenarioOptions& options) {
  Rng rng(seed);
  const uint32_t blocks =
      options.blocks_min +
      rng.Below(options.blocks_max - options.blocks_min + 1);
  LayoutOptions layout;
  layout.version = rng.OneIn(3) ? 2 : 3;
  layout.scratch = !rng.OneIn(3);
  layout.sequence = rng.OneIn(3);
  layout.compression = options.compression;
  GeneratorOptions generator_options;
  generator_options.compressible =
      options.compression != cow::Compression::kNone;
  generator_options.scratch = layout.scratch;
  if (layout.version == 2) {
    static constexpr uint32_t kClusters[] = {0, 2, 3, 4, 7, 1024};
    layout.cluster_ops = kClusters[rng.Below(std::size(kClusters))];
    if (layout.sequence && layout.cluster_ops == 0) layout.cluster_ops = 5;
    generator_options.mixed = layout.sequence;
    if (!layout.scratch && rng.OneIn(3)) layout.version = 1;
  } else {
    layout.span_log2_max = options.span_log2_max;
    generator_options.span_log2_max = options.span_log2_max;
    layout.checks = rng.OneIn(2);
  }
  Generator generator(blocks, generator_options, &rng);
  std::vector<Change> changes = generator.Make();
  if (layout.version != 3 && !layout.sequence) {
    const auto rest =
        std::find_if_not(changes.begin(), changes.end(), IsOrdered);
    std::sort(rest, changes.end(), [](const Change& a, const Change& b) {
      return a.new_block < b.new_block;
    });
  }
  const bool in_file_order = layout.version == 3 && !layout.sequence;
  if (in_file_order && rng.OneIn(4)) AddDuplicates(&changes, &rng);
  return Build(NumberedBlocks(blocks, seed), std::move(changes), layout, &rng);
}

std::string Scenario::Describe() const {
  std::string text =
      std::to_string(blocks()) + " blocks, version " + std::to_string(version) +
      (version != 3 ? ", clusters of " + std::to_string(cluster_ops)
                    : std::string()) +
      (checks ? ", checks" : "") + (scratch ? ", scratch" : "") +
      (sequence ? ", sequence" : "") + ":";
  constexpr size_t kLineMax = 2000;
  for (const Change& change : changes) {
    if (text.size() > kLineMax) return text + " ...";
    text += ' ' + std::to_string(change.new_block);
    if (change.type == cow::OpType::kCopy) {
      text += "<-" + std::to_string(change.source_bytes / kBlockBytes);
    } else if (change.type == cow::OpType::kXor) {
      text += "^" + std::to_string(change.source_bytes);
    } else if (change.type == cow::OpType::kZero) {
      text += "=0";
    } else {
      text += "=data*" + std::to_string(1 << change.span_log2);
    }
  }
  return text;
}

}  // namespace dmu::sim
