// SPDX-License-Identifier: Apache-2.0
//
// progress.cc - see progress.h. Pure functions over bytes and the merge order.
#include "daemon/cow/progress.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

static_assert(kHeaderBytesMax < kSectorBytes);
// Entries and terminator fit in front of the data.
static_assert((kScratchEntriesMax + 1) * kScratchEntryBytes <=
              kScratchMetadataBytes - 1);

// Whether the entries are exactly the ops of M from `begin` on, in any order.
// Blocks are distinct, so counting them is enough.
bool IsWindow(const Index& index, const std::vector<ScratchEntry>& entries,
              uint64_t begin) {
  for (const ScratchEntry& entry : entries) {
    const std::optional<Index::Found> found = index.Find(entry.new_block);
    if (!found.has_value() || found->span_log2 != 0) return false;
    const uint64_t position = found->position;
    if (position < begin || position - begin >= entries.size()) return false;
  }
  return true;
}

}  // namespace

bool DecodeScratchMetadata(const Header& header,
                           const uint8_t area[kScratchMetadataBytes - 1],
                           std::vector<ScratchEntry>* entries) {
  const uint64_t data_begin = header.ScratchDataOffset(0);
  const uint64_t data_end = header.ScratchDataOffset(kScratchEntriesMax);
  entries->clear();
  for (uint32_t i = 0;; ++i) {
    const uint64_t block = LoadLe<uint64_t>(area + i * kScratchEntryBytes);
    const uint64_t offset = LoadLe<uint64_t>(area + i * kScratchEntryBytes + 8);
    if (block == 0 && offset == 0) break;
    if (i == kScratchEntriesMax) return false;
    if (block >= Index::kNoBlock || offset < data_begin ||
        offset > data_end - kBlockBytes) {
      return false;
    }
    entries->push_back({static_cast<uint32_t>(block), offset});
  }
  std::vector<uint32_t> blocks;
  blocks.reserve(entries->size());
  for (const ScratchEntry& entry : *entries) blocks.push_back(entry.new_block);
  std::sort(blocks.begin(), blocks.end());
  return std::adjacent_find(blocks.begin(), blocks.end()) == blocks.end();
}

Progress JudgeProgress(const Index& index, uint64_t merged_ops,
                       ScratchState state, std::vector<ScratchEntry> entries) {
  DMU_CHECK(merged_ops <= index.merge_count());
  Progress progress;
  progress.merged_ops = merged_ops;
  progress.untouched = merged_ops == 0 && state == ScratchState::kNotStarted;
  if (state != ScratchState::kWindowStaged) return progress;
  // A staged window without entries was never written by anyone: what it was
  // for is lost, and the base may be half overwritten.
  if (!entries.empty() && IsWindow(index, entries, merged_ops)) {
    progress.verdict = Progress::Verdict::kReplay;
  } else if (!entries.empty() && merged_ops >= entries.size() &&
             IsWindow(index, entries, merged_ops - entries.size())) {
    progress.verdict = Progress::Verdict::kCommitted;
    return progress;
  } else {
    progress.verdict = Progress::Verdict::kCorrupt;
  }
  progress.scratch = std::move(entries);
  return progress;
}

void EncodeProgress(const Header& header, uint64_t merged_ops,
                    ScratchState state, uint8_t sector[kSectorBytes]) {
  StoreLe<uint64_t>(sector + kMergeCounterOffset, merged_ops);
  if (!header.has_scratch()) return;
  sector[header.ScratchStateOffset()] = static_cast<uint8_t>(state);
}

void EncodeScratchMetadata(const Header& header, const uint32_t* new_blocks,
                           uint32_t count,
                           uint8_t area[kScratchMetadataBytes - 1]) {
  DMU_CHECK(count <= kScratchEntriesMax);
  std::memset(area, 0, kScratchMetadataBytes - 1);
  for (uint32_t i = 0; i < count; ++i) {
    uint8_t* entry = area + i * kScratchEntryBytes;
    StoreLe<uint64_t>(entry, new_blocks[i]);
    StoreLe<uint64_t>(entry + 8, header.ScratchDataOffset(i));
  }
}

}  // namespace dmu::cow
