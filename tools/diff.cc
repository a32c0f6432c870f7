// SPDX-License-Identifier: Apache-2.0
//
// diff.cc - three passes: compare and hash, look changed blocks up in the old
// image, order. The first two run on all cores, a chunk at a time, and what
// they find in one chunk does not depend on any other.
#include "tools/diff.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tools/parallel.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kChunkBlocks = 256;  // 1 MiB

enum class Kind : uint8_t { kSame, kZero, kChanged };

using Block = const uint8_t*;

bool IsZero(Block block) {
  // Zero at the front, and every byte equal to the one eight before it.
  uint64_t first;
  std::memcpy(&first, block, sizeof(first));
  return first == 0 && std::memcmp(block, block + 8, kBlockBytes - 8) == 0;
}

// Never 0: that stands for "not a source".
uint64_t HashBlock(Block block) {
  return std::max<uint64_t>(XXH3_64bits(block, kBlockBytes), 1);
}

uint64_t OffsetOf(uint64_t block) { return block * kBlockBytes; }

// Hash -> lowest block of the old image that has it. Open addressing; the
// hashes themselves stay in their array.
class SourceTable {
 public:
  explicit SourceTable(const std::vector<uint64_t>& hashes) : hashes_(hashes) {
    const uint64_t slots = std::bit_ceil(hashes.size() * 4 / 3 + 2);
    slots_.assign(slots, kNoSource);
    mask_ = slots - 1;
    for (uint32_t b = 0; b < hashes.size(); ++b) {
      if (hashes[b] == 0) continue;
      uint64_t at = hashes[b] & mask_;
      while (slots_[at] != kNoSource && hashes_[slots_[at]] != hashes[b]) {
        at = (at + 1) & mask_;
      }
      if (slots_[at] == kNoSource) slots_[at] = b;
    }
  }

  uint32_t Find(uint64_t hash) const {
    uint64_t at = hash & mask_;
    while (slots_[at] != kNoSource && hashes_[slots_[at]] != hash) {
      at = (at + 1) & mask_;
    }
    return slots_[at];
  }

 private:
  const std::vector<uint64_t>& hashes_;
  std::vector<uint32_t> slots_;
  uint64_t mask_ = 0;
};

class Differ {
 public:
  Differ(const DiffImage& old_image, const DiffImage& new_image,
         unsigned threads, const std::function<void(uint64_t)>& done)
      : old_(old_image),
        new_(new_image),
        threads_(threads),
        done_(done),
        old_hashes_(old_image.blocks),
        kinds_(new_image.blocks),
        sources_(new_image.blocks, kNoSource) {}

  absl::StatusOr<DiffPlan> Run();

 private:
  absl::Status CompareChunk(uint64_t chunk);
  absl::Status MatchChunk(const SourceTable& table, uint64_t chunk);
  absl::Status SameContents(uint32_t old_block, Block contents, bool* same);
  void FillRest(DiffPlan* plan) const;

  const DiffImage& old_;
  const DiffImage& new_;
  const unsigned threads_;
  const std::function<void(uint64_t)>& done_;
  std::vector<uint64_t> old_hashes_;  // 0: zeros, never a source
  std::vector<Kind> kinds_;
  std::vector<uint32_t> sources_;
};

uint32_t ChunkBlocks(const DiffImage& image, uint64_t first) {
  if (first >= image.blocks) return 0;
  return static_cast<uint32_t>(
      std::min<uint64_t>(kChunkBlocks, image.blocks - first));
}

absl::Status ReadBlocks(const DiffImage& image, uint64_t first, uint32_t blocks,
                        std::vector<uint8_t>* out) {
  out->resize(OffsetOf(blocks));
  if (blocks == 0) return absl::OkStatus();
  return image.read(OffsetOf(first), *out);
}

absl::Status Differ::CompareChunk(uint64_t chunk) {
  thread_local std::vector<uint8_t> old_bytes;
  thread_local std::vector<uint8_t> new_bytes;
  const uint64_t first = chunk * kChunkBlocks;
  const uint32_t old_count = ChunkBlocks(old_, first);
  const uint32_t new_count = ChunkBlocks(new_, first);
  absl::Status status = ReadBlocks(old_, first, old_count, &old_bytes);
  if (status.ok()) status = ReadBlocks(new_, first, new_count, &new_bytes);
  if (!status.ok()) return status;
  for (uint32_t i = 0; i < old_count; ++i) {
    const Block block = old_bytes.data() + OffsetOf(i);
    old_hashes_[first + i] = IsZero(block) ? 0 : HashBlock(block);
  }
  for (uint32_t i = 0; i < new_count; ++i) {
    const Block block = new_bytes.data() + OffsetOf(i);
    if (i < old_count &&
        std::memcmp(old_bytes.data() + OffsetOf(i), block, kBlockBytes) == 0) {
      kinds_[first + i] = Kind::kSame;
    } else {
      kinds_[first + i] = IsZero(block) ? Kind::kZero : Kind::kChanged;
    }
  }
  done_(OffsetOf(old_count) + OffsetOf(new_count));
  return absl::OkStatus();
}

absl::Status Differ::SameContents(uint32_t old_block, Block contents,
                                  bool* same) {
  uint8_t bytes[kBlockBytes];
  absl::Status status = old_.read(OffsetOf(old_block), bytes);
  if (status.ok()) *same = std::memcmp(bytes, contents, kBlockBytes) == 0;
  return status;
}

absl::Status Differ::MatchChunk(const SourceTable& table, uint64_t chunk) {
  thread_local std::vector<uint8_t> new_bytes;
  const uint64_t first = chunk * kChunkBlocks;
  const uint32_t count = ChunkBlocks(new_, first);
  const auto begin = kinds_.begin() + static_cast<int64_t>(first);
  if (std::find(begin, begin + count, Kind::kChanged) == begin + count) {
    return absl::OkStatus();
  }
  absl::Status status = ReadBlocks(new_, first, count, &new_bytes);
  uint32_t previous = kNoSource;  // source of the block before, if copied
  for (uint32_t i = 0; i < count && status.ok(); ++i) {
    if (kinds_[first + i] != Kind::kChanged) {
      previous = kNoSource;
      continue;
    }
    const Block block = new_bytes.data() + OffsetOf(i);
    const uint64_t hash = HashBlock(block);
    // A source next to the previous one keeps runs whole where contents repeat.
    uint32_t source = kNoSource;
    if (previous != kNoSource && previous + 1 < old_.blocks &&
        old_hashes_[previous + 1] == hash) {
      source = previous + 1;
    } else {
      source = table.Find(hash);
    }
    bool same = false;
    if (source != kNoSource) status = SameContents(source, block, &same);
    previous = same ? source : kNoSource;
    sources_[first + i] = previous;
  }
  return status;
}

void Differ::FillRest(DiffPlan* plan) const {
  for (uint32_t b = 0; b < new_.blocks; ++b) {
    if (kinds_[b] == Kind::kSame) {
      ++plan->same_blocks;
      continue;
    }
    if (sources_[b] != kNoSource) continue;
    const bool zero = kinds_[b] == Kind::kZero;
    ++(zero ? plan->zero_blocks : plan->replace_blocks);
    if (!plan->rest.empty()) {
      DiffPlan::Run& last = plan->rest.back();
      if (last.zero == zero && last.new_block + last.blocks == b) {
        ++last.blocks;
        continue;
      }
    }
    plan->rest.push_back({b, 1, zero});
  }
}

absl::StatusOr<DiffPlan> Differ::Run() {
  const uint64_t blocks = std::max(old_.blocks, new_.blocks);
  const uint64_t chunks = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  absl::Status status = ParallelFor(
      chunks, threads_, [this](uint64_t chunk) { return CompareChunk(chunk); });
  if (!status.ok()) return status;
  DiffPlan plan;
  if (std::find(kinds_.begin(), kinds_.end(), Kind::kChanged) != kinds_.end()) {
    const SourceTable table(old_hashes_);
    status = ParallelFor(chunks, threads_, [&](uint64_t chunk) {
      return MatchChunk(table, chunk);
    });
    if (!status.ok()) return status;
    plan.copies = OrderCopies(&sources_, &plan.cycles_broken);
  }
  FillRest(&plan);
  return plan;
}

}  // namespace

absl::StatusOr<DiffPlan> PlanDiff(const DiffImage& old_image,
                                  const DiffImage& new_image, unsigned threads,
                                  const std::function<void(uint64_t)>& done) {
  return Differ(old_image, new_image, threads, done).Run();
}

}  // namespace dmu::tools
