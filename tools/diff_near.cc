// SPDX-License-Identifier: Apache-2.0
//
// diff_near.cc - see diff_near.h: sample what is lost, look for it in what is
// replaced, compare what was found.
#include "tools/diff_near.h"

#include <algorithm>
#include <cstring>

#include "tools/parallel.h"
#include "tools/sample_table.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kPieceBlocks = 32;  // read at a time
constexpr uint64_t kNowhere = UINT64_MAX;

// How two blocks differ.
struct Difference {
  uint32_t bytes = kBlockBytes;
  uint32_t words = kBlockBytes / 8;  // aligned groups of 8
};

Difference Compare(const uint8_t* a, const uint8_t* b) {
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  Difference difference{0, 0};
  for (uint32_t i = 0; i < kBlockBytes; i += 8) {
    uint64_t x;
    uint64_t y;
    std::memcpy(&x, a + i, 8);
    std::memcpy(&y, b + i, 8);
    x ^= y;
    if (x == 0) continue;
    ++difference.words;
    // The top bit of each byte that is not zero, added up.
    const uint64_t tops = (((x & kLow) + kLow) | x) & ~kLow;
    difference.bytes +=
        static_cast<uint32_t>((tops >> 7) * 0x0101010101010101 >> 56);
  }
  return difference;
}

// Stored bytes of an xor and of a block in a unit of data. Really compressing
// both would cost more time than all the rest of finding them; these were
// fitted to what zstd makes of programs, libraries and scripts, and lead to
// files that are 3 % larger than with the true figures.
uint32_t EstimateXor(const Difference& difference) {
  constexpr uint32_t kFixedBytes = 64;  // the op, its check, a zstd frame
  return kFixedBytes + (3 * difference.bytes + 5 * difference.words) / 4;
}

uint32_t EstimateReplace(const uint8_t* block) {
  // What counts is how many words have not been seen just before.
  constexpr uint32_t kBytesPerFreshWord = 4;
  uint64_t seen[64] = {};
  uint32_t fresh = 0;
  for (uint32_t i = 0; i < kBlockBytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, block + i, 8);
    uint64_t& slot = seen[word * 0x9e3779b97f4a7c15 >> 58];
    fresh += slot != word;
    slot = word;
  }
  return kBytesPerFreshWord * fresh;
}

// Distances at which samples of one block were found, and how many agree.
class Votes {
 public:
  struct Vote {
    uint64_t source = kNowhere;  // for the block's first byte
    uint32_t count = 0;
  };

  void Add(uint64_t source) {
    for (uint32_t i = 0; i < used_; ++i) {
      if (votes_[i].source != source) continue;
      ++votes_[i].count;
      return;
    }
    if (used_ < kVotesMax) votes_[used_++] = {source, 1};
  }

  // The best and the next best; of equal ones the first.
  std::pair<uint64_t, uint64_t> BestTwo() const {
    Vote best;
    Vote second;
    for (uint32_t i = 0; i < used_; ++i) {
      if (votes_[i].count > best.count) {
        second = best;
        best = votes_[i];
      } else if (votes_[i].count > second.count) {
        second = votes_[i];
      }
    }
    return {best.source, second.source};
  }

 private:
  static constexpr uint32_t kVotesMax = 16;
  Vote votes_[kVotesMax];
  uint32_t used_ = 0;
};

class NearFinder {
 public:
  NearFinder(const DiffImage& old_image, const DiffImage& new_image,
             Comparison* comparison, std::vector<uint64_t>* sources,
             std::vector<uint16_t>* gains)
      : old_(old_image),
        new_(new_image),
        comparison_(*comparison),
        kinds_(comparison->kinds),
        sources_(*sources),
        gains_(*gains) {}

  // Number of blocks of the old image that are not in the new one.
  uint64_t MarkLost();
  absl::Status SampleChunk(uint64_t chunk, SampleTable* table) const;
  absl::Status MatchChunk(uint64_t chunk, const SampleTable& table);

 private:
  struct Match {
    uint64_t source = kNowhere;
    Difference difference;
  };
  struct Sample {
    uint64_t hash;
    uint64_t position;
  };

  Votes Vote(const uint8_t* block, uint64_t readable,
             const SampleTable& table) const;
  absl::Status Try(uint64_t source, const uint8_t* block, Match* best) const;
  absl::Status MatchBlock(uint32_t number, const uint8_t* block,
                          uint64_t readable, const SampleTable& table,
                          uint64_t* previous);

  const DiffImage& old_;
  const DiffImage& new_;
  const Comparison& comparison_;
  std::vector<BlockKind>& kinds_;
  std::vector<uint64_t>& sources_;
  std::vector<uint16_t>& gains_;
  std::vector<bool> lost_;
};

uint64_t NearFinder::MarkLost() {
  lost_.assign(old_.blocks, true);
  for (uint32_t b = 0; b < new_.blocks; ++b) {
    if (kinds_[b] == BlockKind::kSame) lost_[b] = false;
    if (kinds_[b] == BlockKind::kCopy) lost_[sources_[b] / kBlockBytes] = false;
  }
  uint64_t count = 0;
  for (uint32_t b = 0; b < old_.blocks; ++b) {
    if (comparison_.old_hashes[b] == comparison_.zero_hash) lost_[b] = false;
    count += lost_[b];
  }
  return count;
}

absl::Status NearFinder::SampleChunk(uint64_t chunk, SampleTable* table) const {
  constexpr uint64_t kTail = SampleTable::kWindowBytes - 1;
  thread_local std::vector<uint8_t> bytes(OffsetOf(kPieceBlocks) + kTail);
  thread_local std::vector<Sample> samples;
  const uint64_t end =
      std::min<uint64_t>((chunk + 1) * kChunkBlocks, old_.blocks);
  for (uint64_t at = chunk * kChunkBlocks; at < end;) {
    uint64_t blocks = 0;
    while (at + blocks < end && blocks < kPieceBlocks && lost_[at + blocks]) {
      ++blocks;
    }
    if (blocks == 0) {
      ++at;
      continue;
    }
    // Windows may reach into the block behind, if there is one.
    const uint64_t tail = at + blocks < old_.blocks ? kTail : 0;
    const uint64_t wanted = OffsetOf(blocks) + tail;
    absl::Status status =
        old_.read(OffsetOf(at), ByteSpan(bytes.data(), wanted));
    if (!status.ok()) return status;
    samples.clear();
    table->ForEachSample(bytes.data(), wanted - kTail, [&](size_t i) {
      const uint64_t hash = SampleTable::HashWindow(bytes.data() + i);
      table->Prefetch(hash);
      samples.push_back({hash, OffsetOf(at) + i});
    });
    for (const Sample& sample : samples) {
      table->Add(sample.hash, sample.position);
    }
    at += blocks;
  }
  return absl::OkStatus();
}

Votes NearFinder::Vote(const uint8_t* block, uint64_t readable,
                       const SampleTable& table) const {
  thread_local std::vector<Sample> samples;
  samples.clear();
  const uint64_t positions = std::min<uint64_t>(
      kBlockBytes, readable - (SampleTable::kWindowBytes - 1));
  table.ForEachSample(block, positions, [&](size_t i) {
    const uint64_t hash = SampleTable::HashWindow(block + i);
    table.Prefetch(hash);
    samples.push_back({hash, i});
  });
  Votes votes;
  for (const Sample& sample : samples) {
    const uint64_t found = table.Find(sample.hash);
    if (found != SampleTable::kNone && found >= sample.position) {
      votes.Add(found - sample.position);
    }
  }
  return votes;
}

absl::Status NearFinder::Try(uint64_t source, const uint8_t* block,
                             Match* best) const {
  if (source == kNowhere || source == best->source ||
      source > OffsetOf(old_.blocks) - kBlockBytes) {
    return absl::OkStatus();
  }
  uint8_t bytes[kBlockBytes];
  absl::Status status = old_.read(source, bytes);
  if (!status.ok()) return status;
  const Difference difference = Compare(bytes, block);
  if (difference.bytes < best->difference.bytes) *best = {source, difference};
  return absl::OkStatus();
}

absl::Status NearFinder::MatchBlock(uint32_t number, const uint8_t* block,
                                    uint64_t readable, const SampleTable& table,
                                    uint64_t* previous) {
  Match best;
  absl::Status status;
  if (*previous != kNowhere) {
    status = Try(*previous + kBlockBytes, block, &best);
  }
  if (status.ok() && best.difference.bytes > 32) {
    const auto [first, second] = Vote(block, readable, table).BestTwo();
    status = Try(first, block, &best);
    if (status.ok()) status = Try(second, block, &best);
    if (status.ok()) status = Try(OffsetOf(number), block, &best);
  }
  *previous = kNowhere;
  if (!status.ok()) return status;
  if (best.source == kNowhere) return status;
  const uint32_t xor_bytes = EstimateXor(best.difference);
  const uint32_t replace_bytes = EstimateReplace(block);
  if (xor_bytes >= replace_bytes) return status;
  kinds_[number] = BlockKind::kXor;
  sources_[number] = best.source;
  gains_[number] = static_cast<uint16_t>(replace_bytes - xor_bytes);
  *previous = best.source;
  return status;
}

absl::Status NearFinder::MatchChunk(uint64_t chunk, const SampleTable& table) {
  thread_local std::vector<uint8_t> bytes(OffsetOf(kPieceBlocks));
  const uint64_t end =
      std::min<uint64_t>((chunk + 1) * kChunkBlocks, new_.blocks);
  uint64_t previous = kNowhere;  // source of the block before
  for (uint64_t at = chunk * kChunkBlocks; at < end;) {
    uint64_t blocks = 0;
    while (at + blocks < end && blocks < kPieceBlocks &&
           kinds_[at + blocks] == BlockKind::kReplace) {
      ++blocks;
    }
    if (blocks == 0) {
      previous =
          kinds_[at] == BlockKind::kCopy ? sources_[at] : uint64_t{kNowhere};
      ++at;
      continue;
    }
    const uint64_t wanted = OffsetOf(blocks);
    absl::Status status =
        new_.read(OffsetOf(at), ByteSpan(bytes.data(), wanted));
    for (uint64_t i = 0; i < blocks && status.ok(); ++i) {
      status =
          MatchBlock(static_cast<uint32_t>(at + i), bytes.data() + OffsetOf(i),
                     wanted - OffsetOf(i), table, &previous);
    }
    if (!status.ok()) return status;
    at += blocks;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FindNearSources(const DiffImage& old_image,
                             const DiffImage& new_image, unsigned threads,
                             uint64_t budget_bytes, Comparison* comparison,
                             std::vector<uint64_t>* sources,
                             std::vector<uint16_t>* gains) {
  if (old_image.blocks == 0) return absl::OkStatus();
  NearFinder finder(old_image, new_image, comparison, sources, gains);
  const uint64_t lost = finder.MarkLost();
  SampleTable table(OffsetOf(lost), budget_bytes);
  absl::Status status = ParallelFor(
      ChunksOf(old_image.blocks), threads,
      [&](uint64_t chunk) { return finder.SampleChunk(chunk, &table); });
  if (!status.ok()) return status;
  return ParallelFor(ChunksOf(new_image.blocks), threads, [&](uint64_t chunk) {
    return finder.MatchChunk(chunk, table);
  });
}

}  // namespace dmu::tools
