// SPDX-License-Identifier: Apache-2.0
//
// writer.h - writes COW files, version 2 or 3, that Android's readers accept.
//
// Not linked into the daemon.
//
// Order of writes: an invalid header and a sync, then everything else, a sync,
// the header, a sync. So a power cut at any moment leaves either no COW file or
// a complete one, on a block device too, where an older COW may have stood. A
// label makes the header valid earlier; then what is durable of the file ends
// at a label, and it does not pass for complete: version 2 has no footer yet,
// and no stale one can be reached (every op area is zeroed before an op leads
// into it); version 3 has a record that says so, unless options forbid it.
//
// Rules kept for Android's readers and merge: data strictly in op order without
// holes; without a sequence all copies and xors before any replace or zero in
// version 3 (its merge order is the file order); one op per block but for
// replace in version 3; no block given twice; one compressor; scratch region
// zeroed; counter 0; in version 2 the unused rest of an op area zeroed.
#ifndef DAEMON_COW_WRITER_H_
#define DAEMON_COW_WRITER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "daemon/base/types.h"
#include "daemon/cow/extension.h"
#include "daemon/cow/format.h"
#include "daemon/cow/sink.h"
#include "daemon/cow/slot_walk.h"

namespace dmu::cow {

struct Image;

struct WriterOptions {
  uint16_t version = 3;  // 2 or 3
  Compression compression = Compression::kNone;
  // Version 3: power of two, 4096 to 262144. Version 2 has units of one block.
  uint32_t max_unit_bytes = kBlockBytes;
  bool scratch = true;  // without: a merge cannot protect overlapping ops
  // Version 3: ops that will be written at most; fixes where data begins.
  uint64_t op_count_max = 0;
  // Version 2: slots of a cluster, 0 (none) or at least 2. Android's default.
  uint32_t cluster_ops = 1024;
  // With it, the extension record is written; in version 3 it takes op slots
  // beside those of op_count_max.
  bool extension = true;
  uint64_t base_bytes = 0;    // for the extension
  uint64_t target_bytes = 0;  // for the extension
};

// Version 3: op slots that record and tables may take at most; and how many of
// op_count_max slots are left for ops beside them.
uint64_t ExtensionSlots(const WriterOptions& options);
uint64_t OpsBesideExtension(const WriterOptions& options);

// What the extension says of the images beside their sizes; whatever is not
// known is left out.
struct ImageFacts {
  uint64_t base_digest = 0;
  uint64_t target_digest = 0;
  std::vector<uint32_t> target_checks;
  std::vector<Sample> samples;  // at most kSamplesMax
};

class Writer {
 public:
  // Writes to `sink`, which must outlive it. kInvalidArgument for options out
  // of range; else what the sink says.
  static absl::StatusOr<std::unique_ptr<Writer>> Create(
      Sink* sink, const WriterOptions& options);

  // Goes on with a file behind the label; whatever follows it in the file is
  // dropped. Version, compression, unit size and the rest come from the file;
  // of the options only base_bytes and target_bytes count, and `extension`,
  // which takes effect only where the file has room for it. `source` reads what
  // `sink` writes. kDataLoss and the like as the loader says them;
  // kFailedPrecondition for a file whose merge has begun.
  static absl::StatusOr<std::unique_ptr<Writer>> Resume(
      Sink* sink, Source* source, uint64_t label, const WriterOptions& options);

  // The merge order of copies and xors, before any op; every one of them must
  // be in it. Without it their order in the file is the merge order. Version 2
  // needs clusters for it.
  absl::Status AddSequence(absl::Span<const uint32_t> new_blocks);

  // kInvalidArgument, and nothing is written, for an op that would break the
  // file: a copy or xor behind another kind of op (version 3 without sequence),
  // more ops than op_count_max, a unit that is no unit. kResourceExhausted from
  // a sink that is full; the Writer must not be used then. That no block is
  // given twice, and that the order holds, is the caller's to know; Loader
  // checks it.
  absl::Status AddCopy(uint32_t new_block, uint32_t source_block);
  // The block is the old image's bytes from source_bytes on, xored with the
  // unit. `stored` as for AddReplace with span_log2 0.
  absl::Status AddXor(uint32_t new_block, uint64_t source_bytes,
                      ConstByteSpan stored);
  absl::Status AddZero(uint32_t new_block);
  // `stored` is the unit of 1 << span_log2 blocks as it goes to the file: raw
  // when it is as long as the unit, else compressed and shorter. Version 2 with
  // gz or brotli: always compressed, whatever its length.
  absl::Status AddReplace(uint32_t new_block, uint8_t span_log2,
                          ConstByteSpan stored);

  // All that was added is durable when this returns, and a Resume may begin
  // here. Version 3 keeps the last four.
  absl::Status AddLabel(uint64_t label);

  // Makes the file complete and durable. Nothing may be added afterwards.
  absl::Status Finish(const ImageFacts& facts = {});

  uint64_t op_count() const { return unit_checks_.size(); }
  uint64_t op_count_max() const { return header_.op_count_max; }
  // Bytes of the file when it ends here; exact after Finish.
  uint64_t file_bytes() const;
  bool is_v3() const { return header_.is_v3(); }

 private:
  // Bytes that follow each other in the file and are not written yet.
  struct Run {
    uint64_t offset = 0;
    std::vector<uint8_t> bytes;
    uint64_t end() const { return offset + bytes.size(); }
  };

  Writer(Sink* sink, const WriterOptions& options, const Header& header);

  absl::Status Begin();
  absl::Status CheckOp(const Op& op, ConstByteSpan stored) const;
  absl::Status AddOp(Op op, ConstByteSpan stored);
  absl::Status AddOpV3(const Op& op, ConstByteSpan stored);
  // Also labels, sequence and cluster ops.
  absl::Status AddSlotV2(const Op& op, ConstByteSpan data);
  absl::Status AddClusterOp();
  // Adds to a run at `offset`, which is written first when it ends elsewhere.
  absl::Status Append(Run* run, uint64_t offset, ConstByteSpan bytes);
  absl::Status FlushRun(Run* run);
  absl::Status Flush();
  absl::Status WriteZeros(uint64_t offset, uint64_t bytes);
  // Version 2: what is left of the op area at the walk's place.
  absl::Status ZeroRestOfCluster();
  absl::Status WriteHeader();
  absl::Status WriteResumePoints();
  absl::Status WriteRecord(const Extension& ext);
  absl::Status FinishV2(const ImageFacts& facts);
  absl::Status FinishV3(const ImageFacts& facts);
  Extension MakeExtension(const ImageFacts& facts, uint64_t data_end) const;
  std::vector<uint8_t> MakeTables(const Extension& ext,
                                  const ImageFacts& facts) const;
  absl::Status Restore(Source* source, const Image& image);
  absl::Status RestoreOp(const Op& op, Source* source);

  Sink* const sink_;
  WriterOptions options_;
  Header header_;
  bool has_extension_ = false;
  uint64_t op_count_max_ = 0;  // of data ops
  bool unordered_seen_ = false;
  uint64_t ordered_ops_ = 0;
  bool finished_ = false;
  bool header_written_ = false;

  std::vector<uint32_t> sequence_;
  std::vector<uint32_t> unit_checks_;  // one for each data op
  OpsHasher hasher_;
  std::vector<ResumePoint> points_;  // version 3

  uint64_t data_next_ = 0;        // version 3: file offset of the next data
  std::optional<SlotWalk> walk_;  // version 2
  uint64_t slots_ = 0;            // version 2
  uint64_t end_bytes_ = 0;        // after Finish
  Run ops_;
  Run data_;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_WRITER_H_
