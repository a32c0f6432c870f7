// SPDX-License-Identifier: Apache-2.0
//
// writer.cc - see writer.h: ops and data of both versions. Ops and data are
// collected and written in large pieces, since they go to two places of the
// file. The ends of a file, and labels, are in writer_finish.cc; going on with
// one is in writer_resume.cc.
#include "daemon/cow/writer.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit_check.h"

namespace dmu::cow {
namespace {

constexpr size_t kRunBytes = 1024 * 1024;
constexpr uint64_t kSourceBytesMax = uint64_t{UINT32_MAX} * kBlockBytes;

uint64_t TargetChecks(uint64_t target_bytes) {
  constexpr uint64_t kBytes = uint64_t{kTargetCheckBlocks} * kBlockBytes;
  return target_bytes / kBytes + (target_bytes % kBytes != 0);
}

absl::Status CheckOptions(const WriterOptions& options) {
  if (options.version != 2 && options.version != 3) {
    return absl::InvalidArgumentError(absl::StrCat(
        "version ", options.version, " is not written, only 2 and 3"));
  }
  if (options.version == 2) {
    if (options.cluster_ops != 1) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "a cluster of one op has no room; use 0 for none, or 2 or more");
  }
  if (!std::has_single_bit(options.max_unit_bytes) ||
      options.max_unit_bytes < kBlockBytes ||
      options.max_unit_bytes > kUnitBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a unit of ", options.max_unit_bytes,
                     " bytes is not a power of two from 4096 to 262144"));
  }
  if (options.op_count_max > kOpsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.op_count_max, " ops are more than the ", kOpsMax,
                     " a COW file may have"));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t ExtensionSlots(const WriterOptions& options) {
  const uint64_t bytes = kExtensionBytes + 4 * options.op_count_max +
                         4 * TargetChecks(options.target_bytes) +
                         uint64_t{kSampleBytes} * kSamplesMax;
  return (bytes + kOpBytesV3 - 1) / kOpBytesV3;
}

uint64_t OpsBesideExtension(const WriterOptions& options) {
  WriterOptions none = options;
  none.op_count_max = 0;
  const uint64_t fixed = ExtensionSlots(none) + 1;
  if (options.op_count_max <= fixed) return 0;
  return (options.op_count_max - fixed) * kOpBytesV3 / (kOpBytesV3 + 4);
}

absl::StatusOr<std::unique_ptr<Writer>> Writer::Create(
    Sink* sink, const WriterOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  Header header;
  if (options.version == 2) {
    header = HeaderV2(options.cluster_ops);
  } else {
    header.op_count_max = options.op_count_max +
                          (options.extension ? ExtensionSlots(options) : 0);
    header.compression = options.compression;
    header.max_unit_bytes = options.max_unit_bytes;
  }
  header.buffer_size = options.scratch ? kScratchBytes : 0;
  std::unique_ptr<Writer> writer(new Writer(sink, options, header));
  if (absl::Status status = writer->Begin(); !status.ok()) return status;
  return writer;
}

Writer::Writer(Sink* sink, const WriterOptions& options, const Header& header)
    : sink_(sink),
      options_(options),
      header_(header),
      has_extension_(options.extension),
      op_count_max_(options.op_count_max) {
  if (header.is_v3()) {
    data_next_ = header.DataOffset();
  } else {
    op_count_max_ = kOpsMax;
    walk_.emplace(header);
  }
  ops_.bytes.reserve(kRunBytes);
  data_.bytes.reserve(kRunBytes + kUnitBytesMax);
}

absl::Status Writer::Begin() {
  // The header's place first, and made durable: from here on there is no COW
  // file until a label or Finish.
  absl::Status status = WriteZeros(0, header_.header_size);
  if (status.ok()) status = sink_->Sync();
  if (status.ok()) status = WriteZeros(0, header_.SequenceOffset());
  return status;
}

absl::Status Writer::WriteZeros(uint64_t offset, uint64_t bytes) {
  static constexpr uint8_t kZeros[64 * 1024] = {};
  while (bytes > 0) {
    const uint64_t now = std::min<uint64_t>(bytes, sizeof(kZeros));
    absl::Status status = sink_->WriteAt(offset, ConstByteSpan(kZeros, now));
    if (!status.ok()) return status;
    offset += now;
    bytes -= now;
  }
  return absl::OkStatus();
}

absl::Status Writer::FlushRun(Run* run) {
  if (run->bytes.empty()) return absl::OkStatus();
  absl::Status status;
  if (!is_v3() && header_.cluster_ops == 0 && header_written_) {
    // The file can be read already, and each op leads to the next: nothing an
    // older file left may stand on that way, not even for a moment.
    status = WriteZeros(run->offset, run->bytes.size() + kFooterBytes);
    if (status.ok()) status = sink_->Sync();
  }
  if (status.ok()) status = sink_->WriteAt(run->offset, run->bytes);
  run->offset = run->end();
  run->bytes.clear();
  return status;
}

absl::Status Writer::Append(Run* run, uint64_t offset, ConstByteSpan bytes) {
  if (bytes.empty()) return absl::OkStatus();
  if (run->end() != offset) {
    if (absl::Status status = FlushRun(run); !status.ok()) return status;
    run->offset = offset;
  }
  run->bytes.insert(run->bytes.end(), bytes.begin(), bytes.end());
  if (run->bytes.size() >= kRunBytes) return FlushRun(run);
  return absl::OkStatus();
}

absl::Status Writer::Flush() {
  absl::Status status = FlushRun(&data_);
  if (status.ok()) status = FlushRun(&ops_);
  return status;
}

absl::Status Writer::AddSequence(absl::Span<const uint32_t> new_blocks) {
  if (op_count() != 0 || !sequence_.empty() || slots_ != 0) {
    return absl::InvalidArgumentError(
        "the sequence must come once, before any op");
  }
  if (!is_v3() && header_.cluster_ops == 0) {
    return absl::InvalidArgumentError(
        "a version 2 file without clusters cannot have a sequence");
  }
  if (new_blocks.size() > op_count_max_) {
    return absl::InvalidArgumentError("the sequence is longer than the file");
  }
  sequence_.assign(new_blocks.begin(), new_blocks.end());
  std::vector<uint8_t> bytes(4 * sequence_.size());
  for (size_t i = 0; i < sequence_.size(); ++i) {
    StoreLe<uint32_t>(bytes.data() + 4 * i, sequence_[i]);
  }
  if (is_v3()) {
    header_.sequence_data_count = sequence_.size();
    data_next_ = header_.DataOffset();
    return Append(&data_, header_.SequenceOffset(), bytes);
  }
  constexpr size_t kChunk = size_t{4} * kSequenceOpEntriesMax;
  for (size_t at = 0; at < bytes.size(); at += kChunk) {
    const size_t length = std::min(kChunk, bytes.size() - at);
    Op op;
    op.type = OpType::kSequence;
    op.data_length = static_cast<uint32_t>(length);
    absl::Status status =
        AddSlotV2(op, ConstByteSpan(bytes.data() + at, length));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Writer::CheckOp(const Op& op, ConstByteSpan stored) const {
  const std::string name =
      absl::StrCat("the ", OpTypeName(op.type), " of block ", op.new_block);
  if (op_count() == op_count_max_) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is one op more than the ", op_count_max_,
                     " there is room for"));
  }
  if (uint64_t{op.new_block} + op.span_blocks() > UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is beyond the largest image"));
  }
  if (IsOrderedOp(op.type)) {
    if (op.source_bytes() > kSourceBytesMax - kBlockBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " reads beyond the largest image"));
    }
    if (is_v3() && unordered_seen_ && sequence_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          name,
          " stands behind a replace or zero; without a sequence copies "
          "and xors must come first"));
    }
  }
  if (!HasData(op.type)) return absl::OkStatus();
  const bool always =
      !is_v3() && (options_.compression == Compression::kGz ||
                   options_.compression == Compression::kBrotli);
  const uint64_t most = always ? kStoredBytesMaxV2 : op.span_bytes();
  if (op.span_bytes() > header_.unit_bytes_max() || stored.empty() ||
      stored.size() > most ||
      (options_.compression == Compression::kNone &&
       stored.size() != op.span_bytes())) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", stored.size(), " stored bytes for ",
                     op.span_bytes(), " are no unit of this file"));
  }
  return absl::OkStatus();
}

absl::Status Writer::AddCopy(uint32_t new_block, uint32_t source_block) {
  Op op;
  op.type = OpType::kCopy;
  op.new_block = new_block;
  op.source = source_block;
  return AddOp(op, {});
}

absl::Status Writer::AddXor(uint32_t new_block, uint64_t source_bytes,
                            ConstByteSpan stored) {
  Op op;
  op.type = OpType::kXor;
  op.new_block = new_block;
  op.source = source_bytes;
  return AddOp(op, stored);
}

absl::Status Writer::AddZero(uint32_t new_block) {
  Op op;
  op.type = OpType::kZero;
  op.new_block = new_block;
  return AddOp(op, {});
}

absl::Status Writer::AddReplace(uint32_t new_block, uint8_t span_log2,
                                ConstByteSpan stored) {
  if (span_log2 > kSpanLog2Max) {
    return absl::InvalidArgumentError(
        absl::StrCat("a unit of 2^", span_log2, " blocks at block ", new_block,
                     " is larger than any"));
  }
  Op op;
  op.type = OpType::kReplace;
  op.span_log2 = span_log2;
  op.new_block = new_block;
  return AddOp(op, stored);
}

absl::Status Writer::AddOp(Op op, ConstByteSpan stored) {
  DMU_CHECK(!finished_);
  if (absl::Status status = CheckOp(op, stored); !status.ok()) return status;
  op.data_length = static_cast<uint32_t>(stored.size());
  const bool ordered = IsOrderedOp(op.type);
  unordered_seen_ |= !ordered;
  ordered_ops_ += ordered ? 1 : 0;
  unit_checks_.push_back(HasData(op.type) ? UnitCheck(stored) : 0);
  hasher_.AddOp(op);
  return is_v3() ? AddOpV3(op, stored) : AddSlotV2(op, stored);
}

absl::Status Writer::AddOpV3(const Op& op, ConstByteSpan stored) {
  Op placed = op;
  if (op.type == OpType::kReplace) placed.source = data_next_;
  uint8_t record[kOpBytesV3];
  EncodeOpV3(placed, record);
  absl::Status status = Append(
      &ops_, header_.OpsOffset() + kOpBytesV3 * (op_count() - 1), record);
  if (status.ok()) status = Append(&data_, data_next_, stored);
  data_next_ += stored.size();
  return status;
}

absl::Status Writer::AddSlotV2(const Op& op, ConstByteSpan data) {
  Op placed = op;
  const bool has_offset =
      op.type == OpType::kReplace || op.type == OpType::kSequence;
  if (has_offset) placed.source = walk_->data_offset();
  uint8_t record[kOpBytesV2];
  EncodeOpV2(placed, options_.compression, record);
  // Without clusters op and data are one stream.
  Run* const data_run = header_.cluster_ops == 0 ? &ops_ : &data_;
  absl::Status status = Append(&ops_, walk_->slot_offset(), record);
  if (status.ok()) status = Append(data_run, walk_->data_offset(), data);
  if (!status.ok()) return status;
  ++slots_;
  DMU_CHECK(walk_->Step(placed));
  if (walk_->cluster_is_full()) return AddClusterOp();
  return absl::OkStatus();
}

absl::Status Writer::AddClusterOp() {
  // Data first: the op leads over it.
  absl::Status status = FlushRun(&data_);
  if (status.ok() && header_written_) {
    // The file can be read already. What an older file left where the next
    // cluster begins must be gone before anything leads there.
    status = WriteZeros(walk_->data_offset(), header_.ClusterBytes());
    if (status.ok()) status = sink_->Sync();
  }
  const bool early = walk_->slots_used() + 1 < header_.cluster_ops;
  if (status.ok() && early) status = ZeroRestOfCluster();
  if (!status.ok()) return status;
  Op op;
  op.type = OpType::kCluster;
  op.source = walk_->ClusterSource();
  uint8_t record[kOpBytesV2];
  EncodeOpV2(op, options_.compression, record);
  status = Append(&ops_, walk_->slot_offset(), record);
  ++slots_;
  DMU_CHECK(walk_->Step(op));
  return status;
}

}  // namespace dmu::cow
