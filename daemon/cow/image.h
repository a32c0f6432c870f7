// SPDX-License-Identifier: Apache-2.0
//
// image.h - what a COW file that was loaded is.
#ifndef DAEMON_COW_IMAGE_H_
#define DAEMON_COW_IMAGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/cow/extension.h"
#include "daemon/cow/format.h"
#include "daemon/cow/index.h"
#include "daemon/cow/op_table.h"
#include "daemon/cow/progress.h"
#include "daemon/cow/slot_walk.h"

namespace dmu::cow {

// A piece of the merge sequence: u32 block numbers in the file.
struct SequenceChunk {
  uint64_t offset = 0;
  uint32_t first = 0;  // position in M of its first entry
  uint32_t count = 0;
};

struct Image {
  Header header;
  // Our record, when the file has one that speaks of these ops.
  bool has_extension = false;
  Extension extension;
  // File offsets of its tables; 0 when the file has none.
  uint64_t unit_checks_offset = 0;
  uint64_t target_checks_offset = 0;
  uint64_t samples_offset = 0;

  OpTable ops;
  Index index;
  // Index::Order::kSequence: where the sequence stands, ascending.
  std::vector<SequenceChunk> sequence;
  // Merge state found in the file, judged against the merge order.
  Progress progress;

  // Blocks the ops reach: target size is at least this many blocks. Equal to
  // extension.target_bytes / 4096 or less when there is an extension.
  uint64_t span_blocks = 0;
  // Behind the last byte of the old image that a copy or xor reads.
  uint64_t source_end_bytes = 0;
  // Bytes the data of all ops takes in the file, and where the last ends.
  uint64_t data_bytes = 0;
  uint64_t data_end = 0;
  // The most bytes an op's data has; 0 without data.
  uint32_t stored_bytes_max = 0;
  // What its data is compressed with.
  CompressionSet compressions = 0;
  // Bytes of the base that a whole merge writes: 4096 * blocks of all ops.
  uint64_t merge_bytes = 0;
  // Resume points (version 3) or labels (version 2), in the order of the file;
  // of very many only the first kLabelsKept.
  static constexpr size_t kLabelsKept = 1024;
  std::vector<ResumePoint> labels;
  // Versions 1 and 2: behind the last op, where another would stand; and how
  // many ops of all kinds there are.
  std::optional<SlotWalk> walk_end;
  uint64_t slots = 0;
  // It was read up to a label: not a whole file, and not to be merged.
  bool partial = false;
  // Empty when M may be merged: no op reads a block that an earlier op of M
  // overwrites. Otherwise a sentence; such a file is served but not merged.
  std::string order_error;
};

// Whether a base of this size may be served (for_merge: written) with the
// image: kFailedPrecondition with a sentence otherwise. Without an extension
// the base must only hold every source byte and, for a merge, every target
// block. With one its size must be base_bytes, or that of the larger of both
// images (a base grown beforehand for a target that is larger), or, when the
// merge is over, target_bytes.
absl::Status CheckBase(const Image& image, uint64_t base_bytes, bool for_merge);

// Size of the target image in bytes: the extension's, else the base's (an
// Android file does not say), but never less than the ops reach.
uint64_t TargetBytes(const Image& image, uint64_t base_bytes);

}  // namespace dmu::cow

#endif  // DAEMON_COW_IMAGE_H_
