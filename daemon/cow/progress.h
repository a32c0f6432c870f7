// SPDX-License-Identifier: Apache-2.0
//
// progress.h - the two facts a merge keeps in the COW file, and what they mean
// after a crash.
//
// Owns: byte layout of counter (offset 26, u64) and state byte (behind the
// header), both in the file's first sector, and of the scratch entries.
// Not: I/O. Callers read, decode, change, encode, write one sector, flush.
// Rules: [P1] counter and state are only ever written together, in one sector.
// [P2] state 2 means the scratch region holds exactly M[n, n + k).
// Verdict: never guesses. kCorrupt serves reads of the scratch blocks from
// scratch and refuses to merge.
#ifndef DAEMON_COW_PROGRESS_H_
#define DAEMON_COW_PROGRESS_H_

#include <cstdint>
#include <vector>

#include "daemon/cow/format.h"
#include "daemon/cow/index.h"

namespace dmu::cow {

struct ScratchEntry {
  uint32_t new_block = 0;
  uint64_t file_offset = 0;  // of its 4096 bytes in the COW file
};

struct Progress {
  enum class Verdict : uint8_t {
    kIdle,       // nothing half done: go on at M[merged_ops]
    kReplay,     // scratch holds M[merged_ops, merged_ops + entries): those
                 // blocks are read from scratch, and written to the base first
    kCommitted,  // scratch holds what was committed last (a torn pair of
                 // Android's): as kIdle
    kCorrupt,    // scratch fits no place of M: read it, do not merge
  };
  Verdict verdict = Verdict::kIdle;
  // State and counter as they were written: no merge of ours has begun, nor one
  // of Android's, unless with ops that read nothing.
  bool untouched = false;
  uint64_t merged_ops = 0;  // the counter, <= entries of M
  // kReplay, kCorrupt: at most kScratchEntriesMax, blocks distinct.
  std::vector<ScratchEntry> scratch;
};

// The entries in `area` (as EncodeScratchMetadata lays it out), up to the
// terminator. False when there is no terminator where there must be one, data
// would stand outside the scratch region, or a block occurs twice or is none.
bool DecodeScratchMetadata(const Header& header,
                           const uint8_t area[kScratchMetadataBytes - 1],
                           std::vector<ScratchEntry>* entries);

// What counter, state and entries mean together. merged_ops <= merge_count.
// `entries` are looked at in state kWindowStaged only.
Progress JudgeProgress(const Index& index, uint64_t merged_ops,
                       ScratchState state, std::vector<ScratchEntry> entries);

// Puts counter and state into the first sector of the file. `sector` holds the
// sector as it was read: every other byte stays.
// A file without a scratch region has no state: that byte is another's.
void EncodeProgress(const Header& header, uint64_t merged_ops,
                    ScratchState state, uint8_t sector[kSectorBytes]);

// Lays out the metadata of a window: entries for new_blocks[i] at
// header.ScratchDataOffset(i), the terminator, zeros. `area` is what stands
// behind the state byte, kScratchMetadataBytes - 1 bytes: the state byte
// is not part of it and only ever changes by EncodeProgress.
void EncodeScratchMetadata(const Header& header, const uint32_t* new_blocks,
                           uint32_t count,
                           uint8_t area[kScratchMetadataBytes - 1]);

}  // namespace dmu::cow

#endif  // DAEMON_COW_PROGRESS_H_
