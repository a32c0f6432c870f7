// SPDX-License-Identifier: Apache-2.0
//
// cow_merge.h - COW file and base in, base turned into the target image: the
// merge of the daemon's engine, driven without kernel or daemon.
#ifndef TOOLS_COW_MERGE_H_
#define TOOLS_COW_MERGE_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dmu::tools {

struct MergeOptions {
  std::string cow_path;
  std::string base_path;
  // Changes nothing: goes through the whole merge, checks all data, counts.
  bool dry_run = false;
  // Keeps there what the merge overwrites (undo_log.h); empty: nowhere. Once a
  // merge has begun with one it must go on with it, or the log is worthless.
  std::string undo_log_path;
  bool progress = false;  // draw a bar
  // Set by a signal handler: stop at the next window edge.
  const std::atomic<bool>* stop = nullptr;
  // Stop after so many windows; at least 1.
  uint64_t windows_max = UINT64_MAX;
  // Blocks written between two commits at most, 64 to 16384. (Windows that go
  // through the scratch region have 510 at most.)
  uint32_t window_blocks = 2048;
};

struct MergeSummary {
  bool finished = false;  // else it was stopped
  uint64_t merged_ops = 0;
  uint64_t total_ops = 0;
  // What this run wrote (or would have): to the base, and to the COW file's
  // scratch region and header.
  uint64_t base_bytes = 0;
  uint64_t scratch_bytes = 0;
  uint64_t undo_bytes = 0;
  uint64_t windows = 0;
  uint64_t scratch_windows = 0;
  uint64_t flushes = 0;
  double elapsed_s = 0;
};

// May be interrupted at any moment, by a signal, a kill or a power cut, and
// called again: the COW file says where to go on. A base that is a regular file
// is grown before and cut after the merge to the target's size, where the COW
// file says what that is. Codes: as the loader and CheckBase; kAborted when a
// file is in use; kDataLoss for data that is corrupt, which stops the merge
// with the base readable as before; kInternal for an I/O error.
absl::StatusOr<MergeSummary> MergeOffline(const MergeOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_COW_MERGE_H_
