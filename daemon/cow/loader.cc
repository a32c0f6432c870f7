// SPDX-License-Identifier: Apache-2.0
//
// loader.cc - the steps of reading a COW file and what each one checks.
#include "daemon/cow/loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/header_check.h"

namespace dmu::cow {
namespace {

// The first read: header and, behind it, the state byte of the scratch region.
constexpr uint32_t kFirstBytes = kSectorBytes;
static_assert(kScratchStateOffset < kFirstBytes);
static_assert(Loader::kChunkBytes % kOpBytes == 0);

const char* TypeName(OpType type) {
  switch (type) {
    case OpType::kCopy:
      return "copy";
    case OpType::kReplace:
      return "replace";
    case OpType::kZero:
      return "zero";
    case OpType::kXor:
      return "xor";
  }
  return "?";
}

uint64_t BlocksOf(uint64_t bytes) {
  return bytes / kBlockBytes + (bytes % kBlockBytes != 0);
}

absl::Status CheckExtension(const Extension& ext, const Header& header,
                            uint32_t header_crc) {
  if (ext.version != 1) {
    return absl::UnimplementedError(absl::StrFormat(
        "the COW file's extension record has version %u; only version 1 can be "
        "read",
        ext.version));
  }
  if (ext.header_crc != header_crc) {
    return absl::DataLossError(absl::StrFormat(
        "the header has checksum %08x, the extension record says %08x; the "
        "file is corrupt",
        header_crc, ext.header_crc));
  }
  constexpr uint64_t kImageBytesMax = uint64_t{UINT32_MAX} * kBlockBytes;
  if (ext.base_bytes > kImageBytesMax || ext.target_bytes > kImageBytesMax ||
      ext.base_bytes % kSectorBytes != 0 ||
      ext.target_bytes % kSectorBytes != 0 ||
      ext.data_end < header.DataOffset()) {
    return absl::DataLossError(absl::StrFormat(
        "the extension record says: base %u bytes, target %u bytes, data up to "
        "%u, which cannot be; the file is corrupt",
        ext.base_bytes, ext.target_bytes, ext.data_end));
  }
  return absl::OkStatus();
}

}  // namespace

Loader::Loader(uint64_t file_bytes)
    : file_bytes_(file_bytes), image_(std::make_unique<Image>()) {
  SetRange(0, std::min<uint64_t>(file_bytes, kFirstBytes));
}

Loader::~Loader() = default;

void Loader::SetRange(uint64_t offset, uint64_t bytes) {
  DMU_CHECK(offset <= file_bytes_ && bytes <= file_bytes_ - offset);
  next_offset_ = offset;
  end_offset_ = offset + bytes;
}

Loader::Want Loader::want() const {
  if (step_ == Step::kDone || step_ == Step::kFailed) return {};
  return {next_offset_, static_cast<uint32_t>(std::min<uint64_t>(
                            end_offset_ - next_offset_, kChunkBytes))};
}

bool Loader::done() const { return step_ == Step::kDone; }

std::unique_ptr<Image> Loader::Take() {
  DMU_CHECK(done());
  return std::move(image_);
}

absl::Status Loader::Feed(ConstByteSpan bytes) {
  DMU_CHECK(step_ != Step::kDone && step_ != Step::kFailed);
  DMU_CHECK(bytes.size() == want().bytes);
  next_offset_ += bytes.size();
  absl::Status status = FeedStep(bytes);
  if (status.ok() && next_offset_ == end_offset_ && step_ != Step::kDone) {
    status = Enter(static_cast<Step>(static_cast<int>(step_) + 1));
  }
  if (!status.ok()) step_ = Step::kFailed;
  return status;
}

absl::Status Loader::FeedStep(ConstByteSpan bytes) {
  switch (step_) {
    case Step::kHeader:
      return TakeHeader(bytes);
    case Step::kExtension:
      return TakeExtension(bytes);
    case Step::kScratch:
      return TakeScratch(bytes);
    case Step::kOps:
      return TakeOps(bytes);
    case Step::kSequence:
      return TakeSequence(bytes);
    case Step::kOrder:
      TakeOrder(bytes);
      return absl::OkStatus();
    case Step::kDone:
    case Step::kFailed:
      break;
  }
  DMU_CHECK(false);
  return absl::OkStatus();
}

absl::Status Loader::Enter(Step step) {
  const Header& h = image_->header;
  step_ = step;
  if (step_ == Step::kExtension) {
    const uint64_t offset = ExtensionOffset(h);
    // A file without data may end before the spare slots do.
    if (offset != 0 && offset <= file_bytes_ &&
        kExtensionBytes <= file_bytes_ - offset) {
      SetRange(offset, kExtensionBytes);
      return absl::OkStatus();
    }
    step_ = Step::kScratch;
  }
  if (step_ == Step::kScratch) {
    if (scratch_state_ == ScratchState::kWindowStaged) {
      SetRange(kScratchStateOffset + 1, kScratchMetadataBytes - 1);
      return absl::OkStatus();
    }
    step_ = Step::kOps;
  }
  if (step_ == Step::kOps) {
    data_next_ = h.DataOffset();
    absl::Status status =
        builder_.Reserve(static_cast<uint32_t>(h.op_count),
                         static_cast<uint32_t>(h.sequence_data_count));
    if (!status.ok()) return status;
    if (h.op_count != 0) {
      SetRange(h.OpsOffset(), kOpBytes * h.op_count);
      return absl::OkStatus();
    }
    step_ = Step::kSequence;
  }
  if (step_ == Step::kSequence) {
    if (absl::Status status = CheckTotals(); !status.ok()) return status;
    if (absl::Status status = builder_.Sort(); !status.ok()) return status;
    if (h.sequence_data_count != 0) {
      SetRange(h.SequenceOffset(), 4 * h.sequence_data_count);
      return absl::OkStatus();
    }
    step_ = Step::kOrder;
  }
  if (step_ == Step::kOrder) {
    FinishIndex();
    if (has_copies_) {
      ops_seen_ = 0;
      SetRange(h.OpsOffset(), kOpBytes * h.op_count);
      return absl::OkStatus();
    }
  }
  step_ = Step::kDone;
  return absl::OkStatus();
}

absl::Status Loader::TakeHeader(ConstByteSpan bytes) {
  if (absl::Status status = CheckHeader(bytes, file_bytes_); !status.ok()) {
    return status;
  }
  Header& h = image_->header;
  h = DecodeHeader(bytes.data());
  header_crc_ = HeaderChecksum(h);
  // Android's writer goes on counting labels when the resume area is full.
  h.resume_point_count = std::min(h.resume_point_count, h.resume_point_max);
  if (h.buffer_size == 0) return absl::OkStatus();
  const uint8_t state = bytes[kScratchStateOffset];
  if (state > static_cast<uint8_t>(ScratchState::kWindowStaged)) {
    return absl::DataLossError(absl::StrFormat(
        "the merge state at offset %u is %u, expected 0, 1 or 2; the file is "
        "corrupt",
        kScratchStateOffset, state));
  }
  scratch_state_ = static_cast<ScratchState>(state);
  return absl::OkStatus();
}

absl::Status Loader::TakeExtension(ConstByteSpan bytes) {
  if (!HasExtensionMagic(bytes.data())) return absl::OkStatus();
  Extension ext;
  if (!DecodeExtension(bytes.data(), &ext)) {
    return absl::DataLossError(absl::StrFormat(
        "the extension record at offset %u does not match its checksum; the "
        "COW file is incomplete or corrupt, make it again",
        ExtensionOffset(image_->header)));
  }
  // Ops were appended by a writer that does not know the record: what it says
  // no longer holds.
  if (ext.op_count != image_->header.op_count) return absl::OkStatus();
  absl::Status status = CheckExtension(ext, image_->header, header_crc_);
  if (!status.ok()) return status;
  image_->extension = ext;
  image_->has_extension = true;
  return absl::OkStatus();
}

absl::Status Loader::TakeScratch(ConstByteSpan bytes) {
  if (!DecodeScratchMetadata(bytes.data(), &scratch_)) {
    return absl::DataLossError(absl::StrFormat(
        "the list of staged blocks at offset %u is corrupt; a merge was "
        "interrupted and cannot be taken up from this file",
        kScratchStateOffset + 1));
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeOps(ConstByteSpan bytes) {
  for (size_t at = 0; at < bytes.size(); at += kOpBytes) {
    const uint32_t number = ops_seen_++;
    Op op;
    if (!DecodeOp(bytes.data() + at, &op)) {
      return absl::DataLossError(absl::StrFormat(
          "op %u at offset %u is not an op (last 8 bytes: %016x); the file is "
          "corrupt",
          number, next_offset_ - bytes.size() + at,
          LoadLe<uint64_t>(bytes.data() + at + 8)));
    }
    if (absl::Status status = TakeOp(op, number); !status.ok()) return status;
    builder_.Add(op);
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeOp(const Op& op, uint32_t number) {
  if (op.type == OpType::kXor) {
    return absl::UnimplementedError(absl::StrFormat(
        "op %u (block %u) is an xor op; copy, replace and zero can be read",
        number, op.new_block));
  }
  const uint64_t end_block = uint64_t{op.new_block} + op.span_blocks();
  // The last block number means "none" in the index.
  if (end_block > Index::kNoBlock) {
    return absl::DataLossError(absl::StrFormat(
        "op %u reaches block %u, beyond the largest image; the file is corrupt",
        number, end_block - 1));
  }
  image_->span_blocks = std::max(image_->span_blocks, end_block);
  image_->merge_bytes += op.span_bytes();
  if (op.type == OpType::kReplace) return TakeReplace(op, number);
  if (op.span_log2 != 0 || op.data_length != 0) {
    return absl::DataLossError(absl::StrFormat(
        "op %u (%s of block %u) has %u data bytes and covers %u blocks, "
        "expected none and one; the file is corrupt",
        number, TypeName(op.type), op.new_block, op.data_length,
        op.span_blocks()));
  }
  if (op.type == OpType::kCopy) {
    if (op.source >= Index::kNoBlock) {
      return absl::DataLossError(absl::StrFormat(
          "op %u copies from block %u, beyond the largest image; the file is "
          "corrupt",
          number, op.source));
    }
    image_->source_blocks = std::max(image_->source_blocks, op.source + 1);
    has_copies_ = true;
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeReplace(const Op& op, uint32_t number) {
  const Header& h = image_->header;
  if (op.span_bytes() > h.max_unit_bytes) {
    return absl::DataLossError(absl::StrFormat(
        "op %u (replace of block %u) is a unit of %u bytes, the header allows "
        "%u; the file is corrupt",
        number, op.new_block, op.span_bytes(), h.max_unit_bytes));
  }
  if (op.data_length == 0 || op.data_length > op.span_bytes() ||
      (h.compression == Compression::kNone &&
       op.data_length != op.span_bytes())) {
    return absl::DataLossError(absl::StrFormat(
        "op %u (replace of block %u, %u bytes, compression %s) has %u data "
        "bytes; the file is corrupt",
        number, op.new_block, op.span_bytes(), CompressionName(h.compression),
        op.data_length));
  }
  if (op.source != data_next_) {
    return absl::DataLossError(absl::StrFormat(
        "the data of op %u (replace of block %u) is said to be at %u, expected "
        "%u; the file is corrupt",
        number, op.new_block, op.source, data_next_));
  }
  if (data_next_ > file_bytes_ || op.data_length > file_bytes_ - data_next_) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is truncated: the data of op %u (replace of block %u) "
        "ends at %u, the file at %u",
        number, op.new_block, data_next_ + op.data_length, file_bytes_));
  }
  data_next_ += op.data_length;
  image_->data_bytes += op.data_length;
  return absl::OkStatus();
}

absl::Status Loader::CheckTotals() const {
  if (!image_->has_extension) return absl::OkStatus();
  const Extension& ext = image_->extension;
  if (ext.data_end != data_next_) {
    return absl::DataLossError(absl::StrFormat(
        "the data ends at %u, the extension record says %u; the file is "
        "corrupt",
        data_next_, ext.data_end));
  }
  if (image_->span_blocks > BlocksOf(ext.target_bytes) ||
      image_->source_blocks > BlocksOf(ext.base_bytes)) {
    return absl::DataLossError(absl::StrFormat(
        "ops write up to block %u and read up to block %u, but the images have "
        "%u and %u blocks; the file is corrupt",
        image_->span_blocks, image_->source_blocks, BlocksOf(ext.target_bytes),
        BlocksOf(ext.base_bytes)));
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeSequence(ConstByteSpan bytes) {
  for (size_t at = 0; at < bytes.size(); at += 4) {
    absl::Status status =
        builder_.AddToSequence(LoadLe<uint32_t>(bytes.data() + at));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Loader::FinishIndex() {
  image_->index = builder_.Finish();
  image_->progress = JudgeProgress(image_->index, image_->header.num_merge_ops,
                                   scratch_state_, std::move(scratch_));
}

void Loader::TakeOrder(ConstByteSpan bytes) {
  for (size_t at = 0; at < bytes.size(); at += kOpBytes) {
    Op op;
    // It held the first time; if the file changed since, what changed is
    // unknown, and the file must not be merged.
    if (!DecodeOp(bytes.data() + at, &op)) {
      image_->order_error = absl::StrFormat(
          "op %u changed while the file was being read", ops_seen_);
      op.type = OpType::kZero;
    }
    if (image_->order_error.empty()) CheckOrder(op, ops_seen_);
    ++ops_seen_;
  }
}

void Loader::CheckOrder(const Op& op, uint32_t number) {
  if (op.type == OpType::kCopy) CheckCopyOrder(op, number);
  if (image_->index.duplicate_count() == 0) return;
  const std::optional<Index::Found> own = image_->index.Find(op.new_block);
  if (own.has_value() && own->op != number && own->type == OpType::kCopy) {
    // M runs the copy again at the place of its duplicate, when its source may
    // be gone.
    image_->order_error = absl::StrFormat(
        "block %u is given by op %u, a copy, and again by op %u", op.new_block,
        own->op, number);
  }
}

void Loader::CheckCopyOrder(const Op& op, uint32_t number) {
  if (op.source == op.new_block) return;
  const Index& index = image_->index;
  const std::optional<Index::Found> writer =
      index.Find(static_cast<uint32_t>(op.source));
  if (!writer.has_value() ||
      index.PositionOf(writer->op) >= index.PositionOf(number)) {
    return;
  }
  image_->order_error = absl::StrFormat(
      "op %u copies block %u to block %u, but op %u, which comes before it in "
      "the merge order, overwrites block %u",
      number, op.source, op.new_block, writer->op, op.source);
}

absl::Status CheckBase(const Image& image, uint64_t base_bytes,
                       bool for_merge) {
  if (image.has_extension) {
    const Extension& ext = image.extension;
    const uint64_t larger = std::max(ext.base_bytes, ext.target_bytes);
    if (base_bytes != ext.base_bytes && base_bytes != larger) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "wrong base: it has %u bytes, the COW file was made from an image of "
          "%u bytes; give the image it was made from",
          base_bytes, ext.base_bytes));
    }
    if (for_merge && base_bytes < ext.target_bytes) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "the base has %u bytes, the target image %u; grow the base to %u "
          "bytes before merging",
          base_bytes, ext.target_bytes, ext.target_bytes));
    }
    return absl::OkStatus();
  }
  const uint64_t blocks = base_bytes / kBlockBytes;
  if (image.source_blocks > blocks) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "wrong base: it has %u blocks, the COW file copies from block %u",
        blocks, image.source_blocks - 1));
  }
  if (for_merge && image.span_blocks > blocks) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the base has %u blocks, the target image at least %u; grow the base "
        "before merging",
        blocks, image.span_blocks));
  }
  return absl::OkStatus();
}

uint64_t TargetBytes(const Image& image, uint64_t base_bytes) {
  if (image.has_extension) return image.extension.target_bytes;
  return std::max(base_bytes, image.span_blocks * kBlockBytes);
}

}  // namespace dmu::cow
