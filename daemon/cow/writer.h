// SPDX-License-Identifier: Apache-2.0
//
// writer.h - writes a version 3 COW file that Android's readers accept.
//
// Not linked into the daemon. Order of writes: an invalid header, everything
// else, a sync, the header, a sync. So a power cut at any moment leaves either
// no COW file or a complete one, on a block device too, where an older COW may
// have stood.
// Rules kept for Android's readers and merge: data strictly in op order without
// holes; all copies before any replace or zero (the merge order is the file
// order when there is no sequence data); one op per block for copy and zero; no
// block given twice; scratch region zeroed; counter 0.
#ifndef DAEMON_COW_WRITER_H_
#define DAEMON_COW_WRITER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

// Where a file is written. Positions may come in any order.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) = 0;
  // What was written before is durable.
  virtual absl::Status Sync() = 0;
};

struct WriterOptions {
  Compression compression = Compression::kNone;
  uint32_t max_unit_bytes = kBlockBytes;  // power of two, 4096 to 262144
  bool scratch = true;  // without: a merge cannot protect overlapping copies
  // Ops that will be written at most; fixes where data begins.
  uint64_t op_count_max = 0;
  // With it, the extension record is written and takes 8 op slots more.
  bool extension = true;
  uint64_t base_bytes = 0;    // for the extension
  uint64_t target_bytes = 0;  // for the extension
};

class Writer {
 public:
  // Writes to `sink`, which must outlive it. kInvalidArgument for options out
  // of range; else what the sink says.
  static absl::StatusOr<std::unique_ptr<Writer>> Create(
      Sink* sink, const WriterOptions& options);

  // Ops in merge order. kInvalidArgument, and nothing is written, for an op
  // that would break the file: a copy behind another kind of op, more ops than
  // op_count_max, a unit that is no unit. That no block is given twice, and
  // that no copy reads what an earlier one overwrites, is the caller's to know;
  // Loader checks it.
  absl::Status AddCopy(uint32_t new_block, uint32_t source_block);
  absl::Status AddZero(uint32_t new_block);
  // `stored` is the unit of 1 << span_log2 blocks as it goes to the file: raw
  // when it is as long as the unit, else compressed and shorter.
  absl::Status AddReplace(uint32_t new_block, uint8_t span_log2,
                          ConstByteSpan stored);

  // Makes the file complete and durable. Nothing may be added afterwards.
  absl::Status Finish();

  uint64_t op_count() const { return header_.op_count; }
  // Bytes of the file when it ends here.
  uint64_t file_bytes() const { return data_next_; }

 private:
  Writer(Sink* sink, const WriterOptions& options, const Header& header);

  absl::Status Begin();
  absl::Status AddOp(const Op& op);
  absl::Status FlushOps();
  absl::Status FlushData();
  absl::Status WriteExtension();

  Sink* const sink_;
  const WriterOptions options_;
  Header header_;
  bool copies_ended_ = false;
  bool finished_ = false;
  uint64_t ops_flushed_ = 0;   // entries of the table that reached the sink
  uint64_t data_next_ = 0;     // file offset of the next unit
  std::vector<uint8_t> ops_;   // encoded, not yet written
  std::vector<uint8_t> data_;  // likewise, ends at data_next_
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_WRITER_H_
