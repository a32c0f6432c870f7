// SPDX-License-Identifier: Apache-2.0
//
// diff_exact.cc - see diff_exact.h.
#include "tools/diff_exact.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "tools/parallel.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kNoBlock = UINT32_MAX;
constexpr uint32_t kPieceBlocks = 32;  // verified at a time

// Hash -> lowest block of the old image that has it. Open addressing; the
// hashes themselves stay in their array.
class SourceTable {
 public:
  SourceTable(const std::vector<uint64_t>& hashes, uint64_t zero_hash)
      : hashes_(hashes) {
    const uint64_t slots = std::bit_ceil(hashes.size() * 4 / 3 + 2);
    slots_.assign(slots, kNoBlock);
    mask_ = slots - 1;
    for (uint32_t b = 0; b < hashes.size(); ++b) {
      if (hashes[b] == zero_hash) continue;
      const uint64_t at = SlotOf(hashes[b]);
      if (slots_[at] == kNoBlock) slots_[at] = b;
    }
  }

  uint32_t Find(uint64_t hash) const { return slots_[SlotOf(hash)]; }

 private:
  uint64_t SlotOf(uint64_t hash) const {
    uint64_t at = hash & mask_;
    while (slots_[at] != kNoBlock && hashes_[slots_[at]] != hash) {
      at = (at + 1) & mask_;
    }
    return at;
  }

  const std::vector<uint64_t>& hashes_;
  std::vector<uint32_t> slots_;
  uint64_t mask_ = 0;
};

// Of one chunk: what differs from the source its hash promised has none.
class Verifier {
 public:
  Verifier(const DiffImage& old_image, const DiffImage& new_image,
           const std::vector<uint64_t>& sources, std::vector<BlockKind>* kinds)
      : old_(old_image), new_(new_image), sources_(sources), kinds_(*kinds) {}

  absl::Status Chunk(uint64_t chunk) {
    const uint64_t begin = chunk * kChunkBlocks;
    const uint64_t end =
        std::min<uint64_t>(begin + kChunkBlocks, sources_.size());
    for (uint64_t at = begin; at < end;) {
      if (kinds_[at] != BlockKind::kCopy) {
        ++at;
        continue;
      }
      uint64_t blocks = 1;
      while (at + blocks < end && blocks < kPieceBlocks &&
             kinds_[at + blocks] == BlockKind::kCopy &&
             sources_[at + blocks] == sources_[at] + OffsetOf(blocks)) {
        ++blocks;
      }
      absl::Status status = Run(at, blocks);
      if (!status.ok()) return status;
      at += blocks;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Run(uint64_t first, uint64_t blocks) {
    thread_local std::vector<uint8_t> bytes(2 * OffsetOf(kPieceBlocks));
    const ByteSpan old_bytes(bytes.data(), OffsetOf(blocks));
    const ByteSpan new_bytes(bytes.data() + OffsetOf(kPieceBlocks),
                             OffsetOf(blocks));
    absl::Status status = old_.read(sources_[first], old_bytes);
    if (status.ok()) status = new_.read(OffsetOf(first), new_bytes);
    if (!status.ok()) return status;
    for (uint64_t i = 0; i < blocks; ++i) {
      if (std::memcmp(old_bytes.data() + OffsetOf(i),
                      new_bytes.data() + OffsetOf(i), kBlockBytes) != 0) {
        kinds_[first + i] = BlockKind::kReplace;
      }
    }
    return absl::OkStatus();
  }

  const DiffImage& old_;
  const DiffImage& new_;
  const std::vector<uint64_t>& sources_;
  std::vector<BlockKind>& kinds_;
};

}  // namespace

absl::Status FindExactSources(const DiffImage& old_image,
                              const DiffImage& new_image, unsigned threads,
                              Comparison* comparison,
                              std::vector<uint64_t>* sources) {
  const std::vector<uint64_t>& old_hashes = comparison->old_hashes;
  std::vector<BlockKind>& kinds = comparison->kinds;
  {
    const SourceTable table(old_hashes, comparison->zero_hash);
    uint32_t previous = kNoBlock;  // source of the block before, if it has one
    for (uint32_t b = 0; b < new_image.blocks; ++b) {
      if (kinds[b] != BlockKind::kReplace) {
        previous = kNoBlock;
        continue;
      }
      const uint64_t hash = comparison->new_hashes[b];
      // The block behind the previous source keeps runs whole where contents
      // repeat.
      if (previous != kNoBlock && previous + 1 < old_image.blocks &&
          old_hashes[previous + 1] == hash) {
        ++previous;
      } else {
        previous = table.Find(hash);
      }
      if (previous == kNoBlock) continue;
      kinds[b] = BlockKind::kCopy;
      (*sources)[b] = OffsetOf(previous);
    }
  }
  Verifier verifier(old_image, new_image, *sources, &kinds);
  return ParallelFor(ChunksOf(new_image.blocks), threads,
                     [&](uint64_t chunk) { return verifier.Chunk(chunk); });
}

}  // namespace dmu::tools
