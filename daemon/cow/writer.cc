// SPDX-License-Identifier: Apache-2.0
//
// writer.cc - see writer.h. Ops and data are collected and written in large
// pieces, since they go to two places of the file.
#include "daemon/cow/writer.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

constexpr size_t kOpsBufferBytes = 64 * 1024;
constexpr size_t kDataBufferBytes = 1024 * 1024;
constexpr uint64_t kExtensionOps = kExtensionBytes / kOpBytes;

}  // namespace

absl::StatusOr<std::unique_ptr<Writer>> Writer::Create(
    Sink* sink, const WriterOptions& options) {
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
  Header header;
  header.buffer_size = options.scratch ? kScratchBytes : 0;
  header.op_count_max =
      options.op_count_max + (options.extension ? kExtensionOps : 0);
  header.compression = options.compression;
  header.max_unit_bytes = options.max_unit_bytes;
  std::unique_ptr<Writer> writer(new Writer(sink, options, header));
  if (absl::Status status = writer->Begin(); !status.ok()) return status;
  return writer;
}

Writer::Writer(Sink* sink, const WriterOptions& options, const Header& header)
    : sink_(sink),
      options_(options),
      header_(header),
      data_next_(header.DataOffset()) {
  ops_.reserve(kOpsBufferBytes);
  data_.reserve(kDataBufferBytes + kUnitBytesMax);
}

absl::Status Writer::Begin() {
  // Zeros up to the op table, the header's place first and made durable: from
  // here on there is no COW file until Finish.
  const std::vector<uint8_t> zeros(header_.OpsOffset());
  absl::Status status =
      sink_->WriteAt(0, ConstByteSpan(zeros.data(), kHeaderBytes));
  if (status.ok()) status = sink_->Sync();
  if (status.ok()) status = sink_->WriteAt(0, zeros);
  return status;
}

absl::Status Writer::AddOp(const Op& op) {
  DMU_CHECK(!finished_);
  if (header_.op_count == options_.op_count_max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "more ops than the ", options_.op_count_max, " there is room for"));
  }
  if (uint64_t{op.new_block} + op.span_blocks() > UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("block ", op.new_block, " is beyond the largest image"));
  }
  ops_.resize(ops_.size() + kOpBytes);
  EncodeOp(op, ops_.data() + ops_.size() - kOpBytes);
  ++header_.op_count;
  if (ops_.size() >= kOpsBufferBytes) return FlushOps();
  return absl::OkStatus();
}

absl::Status Writer::AddCopy(uint32_t new_block, uint32_t source_block) {
  if (copies_ended_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the copy of block ", source_block, " to ", new_block,
        " stands behind a replace or zero; copies must come first"));
  }
  Op op;
  op.type = OpType::kCopy;
  op.new_block = new_block;
  op.source = source_block;
  return AddOp(op);
}

absl::Status Writer::AddZero(uint32_t new_block) {
  copies_ended_ = true;
  Op op;
  op.type = OpType::kZero;
  op.new_block = new_block;
  return AddOp(op);
}

absl::Status Writer::AddReplace(uint32_t new_block, uint8_t span_log2,
                                ConstByteSpan stored) {
  const uint64_t unit_bytes = span_log2 <= kSpanLog2Max
                                  ? uint64_t{kBlockBytes} << span_log2
                                  : UINT64_MAX;
  if (unit_bytes > options_.max_unit_bytes || stored.empty() ||
      stored.size() > unit_bytes ||
      (options_.compression == Compression::kNone &&
       stored.size() != unit_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the unit at block ", new_block, " (", stored.size(),
                     " stored bytes for 2^", span_log2, " blocks) is no unit"));
  }
  copies_ended_ = true;
  Op op;
  op.type = OpType::kReplace;
  op.span_log2 = span_log2;
  op.data_length = static_cast<uint32_t>(stored.size());
  op.new_block = new_block;
  op.source = data_next_;
  if (absl::Status status = AddOp(op); !status.ok()) return status;
  data_.insert(data_.end(), stored.begin(), stored.end());
  data_next_ += stored.size();
  if (data_.size() >= kDataBufferBytes) return FlushData();
  return absl::OkStatus();
}

absl::Status Writer::FlushOps() {
  if (ops_.empty()) return absl::OkStatus();
  absl::Status status =
      sink_->WriteAt(header_.OpsOffset() + kOpBytes * ops_flushed_, ops_);
  ops_flushed_ += ops_.size() / kOpBytes;
  ops_.clear();
  return status;
}

absl::Status Writer::FlushData() {
  if (data_.empty()) return absl::OkStatus();
  absl::Status status = sink_->WriteAt(data_next_ - data_.size(), data_);
  data_.clear();
  return status;
}

absl::Status Writer::WriteExtension() {
  if (!options_.extension) return absl::OkStatus();
  Extension ext;
  ext.base_bytes = options_.base_bytes;
  ext.target_bytes = options_.target_bytes;
  ext.data_end = data_next_;
  ext.op_count = header_.op_count;
  ext.header_crc = HeaderChecksum(header_);
  uint8_t bytes[kExtensionBytes];
  EncodeExtension(ext, bytes);
  return sink_->WriteAt(ExtensionOffset(header_), bytes);
}

absl::Status Writer::Finish() {
  DMU_CHECK(!finished_);
  finished_ = true;
  absl::Status status = FlushOps();
  if (status.ok()) status = FlushData();
  if (status.ok()) status = WriteExtension();
  if (status.ok()) status = sink_->Sync();
  if (!status.ok()) return status;
  uint8_t bytes[kHeaderBytes];
  EncodeHeader(header_, bytes);
  status = sink_->WriteAt(0, bytes);
  if (status.ok()) status = sink_->Sync();
  return status;
}

}  // namespace dmu::cow
