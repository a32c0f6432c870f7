// SPDX-License-Identifier: Apache-2.0
//
// command.cc - names of the commands, for transcripts.
#include "daemon/merge/command.h"

namespace dmu::merge {

const char* CommandName(Command::Kind kind) {
  switch (kind) {
    case Command::Kind::kReadSector:
      return "read-sector";
    case Command::Kind::kReadOps:
      return "read-ops";
    case Command::Kind::kReadChecks:
      return "read-checks";
    case Command::Kind::kReadSequence:
      return "read-sequence";
    case Command::Kind::kReadScratch:
      return "read-scratch";
    case Command::Kind::kReadSource:
      return "read-source";
    case Command::Kind::kLoadUnit:
      return "load-unit";
    case Command::Kind::kXorUnit:
      return "xor-unit";
    case Command::Kind::kWriteScratch:
      return "write-scratch";
    case Command::Kind::kMark:
      return "mark";
    case Command::Kind::kWriteState:
      return "write-state";
    case Command::Kind::kCommit:
      return "commit";
    case Command::Kind::kFlushCow:
      return "flush-cow";
    case Command::Kind::kWriteBase:
      return "write-base";
    case Command::Kind::kZeroBase:
      return "zero-base";
    case Command::Kind::kFlushBase:
      return "flush-base";
    case Command::Kind::kReadOld:
      return "read-old";
    case Command::Kind::kReadUndo:
      return "read-undo";
    case Command::Kind::kWriteUndo:
      return "write-undo";
    case Command::Kind::kFlushUndo:
      return "flush-undo";
  }
  return "?";
}

}  // namespace dmu::merge
