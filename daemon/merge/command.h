// SPDX-License-Identifier: Apache-2.0
//
// command.h - what the merge engine asks its driver to do.
//
// The engine never sees a file: a command names which of the three it is for,
// where, and the memory. The memory belongs to the engine's workspace or
// staging and stays untouched by the engine until the command is done.
#ifndef DAEMON_MERGE_COMMAND_H_
#define DAEMON_MERGE_COMMAND_H_

#include <cstdint>

#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::merge {

struct Command {
  enum class Kind : uint8_t {
    kReadSector,    // COW -> memory: its first 512 bytes
    kReadOps,       // COW -> memory: records of the op table
    kReadChecks,    // COW -> memory: checks of the data of these ops
    kReadSequence,  // COW -> memory: a piece of the merge sequence
    kReadScratch,   // COW -> memory: staged data of a window to be replayed
    kReadSource,    // source -> memory
    kLoadUnit,      // COW -> memory: `op`'s data, decoded (cow::DecodeUnit)
    kXorUnit,       // the same, but xored onto what the memory holds; as
                    // it was, when it fails
    kWriteScratch,  // memory -> COW
    kMark,          // memory -> COW: the first sector, state 1
    kWriteState,    // memory -> COW: the first sector, state 2
    kCommit,        // memory -> COW: the first sector, counter and state 1
    kFlushCow,      // every COW write done before is durable
    kWriteBase,     // memory -> base
    kZeroBase,      // [offset, offset + length_bytes) of the base reads as 0
    kFlushBase,     // every base write done before is durable
    kReadOld,       // base -> memory: what is about to be overwritten
    kReadUndo,      // undo log -> memory
    kWriteUndo,     // memory -> undo log
    kFlushUndo,     // every write to the undo log done before is durable
  };

  Kind kind = Kind::kReadSector;
  uint32_t id = 0;            // for Engine::Done
  uint64_t offset = 0;        // bytes; units: op.data_offset. Flushes: none
  uint8_t* data = nullptr;    // kZeroBase, flushes: nullptr
  uint32_t length_bytes = 0;  // of data; units: of the decoded unit
  cow::Op op;                 // units only
  bool has_check = false;     // units: `check` is what their data must give
  uint32_t check = 0;
};

// Longest kRead*, kWrite* or kZeroBase: what a turn of the driver's loop moves.
inline constexpr uint32_t kCommandBytesMax = 256 * 1024;
static_assert(kCommandBytesMax >= cow::kUnitBytesMax);

// Commands that may be under way at the same time.
inline constexpr uint32_t kCommandsMax = 8;

const char* CommandName(Command::Kind kind);

}  // namespace dmu::merge

#endif  // DAEMON_MERGE_COMMAND_H_
