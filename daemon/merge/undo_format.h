// SPDX-License-Identifier: Apache-2.0
//
// undo_format.h - the undo log: what the base held before a merge overwrote it.
//
// Layout, little-endian, 4096-byte blocks, in a file or on a block device:
//
//   0                    superblock: one sector, the rest of the block unused
//   4096                 group, group, ...  each a header block and the blocks
//                        it speaks of, in the order of its entries
//
// Superblock                             Group header
//   0 u64 magic "DMSUUNDO"                 0 u64 magic "DMSUOLD1"
//   8 u32 version, 1                       8 u64 previous: check of the header
//  12 u32 block size, 4096                       (or superblock) before it
//  16 u64 cow_id                          16 u64 begin_position
//  24 u64 base_bytes                      24 u64 end_position
//  32 u64 merge_ops                       32 u64 window_position
//  40 u64 target_bytes                    40 u32 kind
//  48 u64 durable_position                44 u32 count, 0 to 64
// 504 u64 check
//                                         64 entries: u32 block, u32 position,
//                                            u32 check of the block's data
//                                         4088 u64 check
//
// A check is XXH3-64 of the bytes before it, of data its low half; for the
// first group `previous` is that of the superblock's first 48 bytes. Positions
// are places in the merge order M. A group holds the old content of every block
// that M[begin_position, end_position) writes; groups follow each other in M
// without a gap, so the log of a merge is known by one number: where its last
// group ends. An op is never split between groups.
//
// The chain of checks ties a group to all before it. What a power cut left
// behind the end of the chain does not continue it.
//
// Rules for whom writes (engine.h [11]): the superblock is durable before the
// first group, a group before the first base block of its window is written.
// Nothing in the log ever changes but durable_position: before an undo restores
// anything it says there how far the log was found whole, since the counter
// that it takes back does not say so any more; and before a base is cut it says
// that the tail is there.
#ifndef DAEMON_MERGE_UNDO_FORMAT_H_
#define DAEMON_MERGE_UNDO_FORMAT_H_

#include <cstdint>

#include "daemon/base/types.h"
#include "daemon/cow/image.h"
#include "daemon/merge/command.h"

namespace dmu::merge {

inline constexpr uint32_t kUndoGroupBlocksMax = 64;
static_assert(kUndoGroupBlocksMax * kBlockBytes == kCommandBytesMax);
static_assert(kUndoGroupBlocksMax >= cow::kUnitBytesMax / kBlockBytes);
inline constexpr uint32_t kUndoEntriesOffset = 64;

struct UndoSuperblock {
  uint64_t cow_id = 0;        // UndoCowId
  uint64_t base_bytes = 0;    // size of the base before the merge
  uint64_t merge_ops = 0;     // entries of M
  uint64_t target_bytes = 0;  // size of the base after it
  // M[0, durable_position) was in the log once; above merge_ops: the tail too.
  uint64_t durable_position = 0;
};

enum class UndoKind : uint32_t {
  kUnordered = 0,  // replaces and zeros
  kDirect = 1,     // copies and xors that write nothing that they read
  kThroughScratch = 2,
  kTail = 3,  // what is cut from the end of a base that shrinks; positions are
              // merge_ops
};

struct UndoEntry {
  uint32_t block = 0;
  uint32_t position = 0;  // of the op that writes it
  uint32_t check = 0;     // of its old content
};

struct UndoGroup {
  uint64_t previous = 0;
  uint64_t begin_position = 0;
  uint64_t end_position = 0;
  uint64_t window_position = 0;  // where the window that wrote it begins
  UndoKind kind = UndoKind::kUnordered;
  uint32_t count = 0;
  UndoEntry entries[kUndoGroupBlocksMax];

  uint64_t bytes() const { return kBlockBytes * (1 + uint64_t{count}); }
};

// What tells a COW file from others, at any state of its merge: XXH3-64 of its
// header without the counter, |M|, and the check of its ops where there is one.
uint64_t UndoCowId(const cow::Image& image);

// Bytes that a log of this merge has at most, when windows are not shorter than
// 32 blocks on the average where there is a scratch region.
uint64_t UndoLogBytes(const cow::Image& image);

uint32_t UndoBlockCheck(const uint8_t block[kBlockBytes]);

// Both return the next group's `previous`.
uint64_t EncodeUndoSuperblock(const UndoSuperblock& super,
                              uint8_t sector[kSectorBytes]);
uint64_t EncodeUndoGroup(const UndoGroup& group, uint8_t block[kBlockBytes]);

// nullptr when it is one; otherwise what is wrong with it, as the end of a
// sentence. *previous as above.
const char* DecodeUndoSuperblock(const uint8_t sector[kSectorBytes],
                                 UndoSuperblock* super, uint64_t* previous);
// Whether the block is a group that follows `previous`. Numbers are judged:
// count, positions in order and within merge_ops.
bool DecodeUndoGroup(const uint8_t block[kBlockBytes], uint64_t previous,
                     uint64_t begin_position, uint64_t merge_ops,
                     UndoGroup* group, uint64_t* check);

// Where a log ends: what a writer needs to go on.
struct UndoTail {
  uint64_t offset = kBlockBytes;  // of the next group
  uint64_t position = 0;          // M[0, position) is in the log
  uint64_t previous = 0;          // check of the last header block
};

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_UNDO_FORMAT_H_
