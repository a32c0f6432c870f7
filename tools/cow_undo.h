// SPDX-License-Identifier: Apache-2.0
//
// cow_undo.h - takes a merge back with its undo log: the base becomes the old
// image again.
#ifndef TOOLS_COW_UNDO_H_
#define TOOLS_COW_UNDO_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dmu::tools {

struct UndoOptions {
  std::string cow_path;
  std::string base_path;
  std::string log_path;
  bool dry_run = false;   // check the whole log, change nothing
  bool progress = false;  // draw a bar
  // Set by a signal handler: stop at the next safe point.
  const std::atomic<bool>* stop = nullptr;
  // Stop after so many steps; at least 1.
  uint64_t steps_max = UINT64_MAX;
};

struct UndoSummary {
  bool finished = false;    // else it was stopped
  uint64_t merged_ops = 0;  // still merged
  uint64_t total_ops = 0;
  uint64_t log_bytes = 0;
  uint64_t base_bytes = 0;  // written
  uint64_t cow_bytes = 0;
  uint64_t flushes = 0;
  uint64_t old_bytes = 0;  // size of the old image
  double elapsed_s = 0;
};

// At any point during or after the merge; may be interrupted at any moment and
// called again. The whole log is checked before anything is changed. In
// between, and until a merge is begun anew, the COW file serves the new image
// as it did. A base that is a regular file gets its old size. Codes: as the
// loaders; kDataLoss for a corrupt log; kInternal for an I/O error.
absl::StatusOr<UndoSummary> UndoOffline(const UndoOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_UNDO_H_
