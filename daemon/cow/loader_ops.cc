// SPDX-License-Identifier: Apache-2.0
//
// loader_ops.cc - what each op must be, by itself and in the merge order.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "daemon/cow/loader.h"

namespace dmu::cow {
namespace {

// "op 12 (xor of block 40)"
std::string Name(const Op& op, uint32_t number) {
  return absl::StrFormat("op %u (%s of block %u)", number, OpTypeName(op.type),
                         op.new_block);
}

}  // namespace

absl::Status Loader::TakeOp(const Op& op) {
  Image& image = *image_;
  const uint64_t end_block = uint64_t{op.new_block} + op.span_blocks();
  // The last block number means "none" in the index.
  if (end_block > Index::kNoBlock) {
    return absl::DataLossError(absl::StrFormat(
        "%s reaches beyond the largest image; the file is corrupt",
        Name(op, ops_taken())));
  }
  if (op.type != OpType::kReplace && op.span_log2 != 0) {
    return absl::DataLossError(
        absl::StrFormat("%s covers %u blocks, expected one; the file is "
                        "corrupt",
                        Name(op, ops_taken()), op.span_blocks()));
  }
  if (HasData(op.type)) {
    if (absl::Status status = CheckUnit(op); !status.ok()) return status;
    if (absl::Status status = CheckData(op); !status.ok()) return status;
    image.data_bytes += op.data_length;
    image.stored_bytes_max = std::max(image.stored_bytes_max, op.data_length);
    image.compressions |= CompressionBit(op.compression);
  } else if (op.data_length != 0) {
    return absl::DataLossError(absl::StrFormat(
        "%s has %u data bytes, expected none; the file is corrupt",
        Name(op, ops_taken()), op.data_length));
  }
  if (absl::Status status = CheckSource(op); !status.ok()) return status;
  image.span_blocks = std::max(image.span_blocks, end_block);
  image.merge_bytes += op.span_bytes();
  hasher_.AddOp(op);
  return builder_.Add(op);
}

// How much data the op may have for what it gives.
absl::Status Loader::CheckUnit(const Op& op) const {
  const Header& h = image_->header;
  if (op.span_bytes() > h.unit_bytes_max()) {
    return absl::DataLossError(absl::StrFormat(
        "%s is a unit of %u bytes, the header allows %u; the file is corrupt",
        Name(op, ops_taken()), op.span_bytes(), h.unit_bytes_max()));
  }
  const bool raw = op.compression == Compression::kNone;
  const uint32_t most = h.is_v3() ? op.span_bytes() : kStoredBytesMaxV2;
  if (op.data_length == 0 || op.data_length > most ||
      (raw && op.data_length != op.span_bytes())) {
    return absl::DataLossError(absl::StrFormat(
        "%s, %u bytes, compression %s, has %u data bytes; the file is corrupt",
        Name(op, ops_taken()), op.span_bytes(), CompressionName(op.compression),
        op.data_length));
  }
  return absl::OkStatus();
}

// Whether the op's data is where it must be, inside the file.
absl::Status Loader::CheckData(const Op& op) const {
  if (op.type == OpType::kSequence &&
      (op.data_length == 0 || op.data_length % 4 != 0 ||
       op.data_length / 4 > kSequenceOpEntriesMax)) {
    return absl::DataLossError(absl::StrFormat(
        "the sequence op after op %u has %u data bytes, expected 4 each for 1 "
        "to %u entries; the file is corrupt",
        ops_taken(), op.data_length, kSequenceOpEntriesMax));
  }
  // An xor does not say where its data is.
  if (op.type != OpType::kXor && op.source != data_next_) {
    return absl::DataLossError(absl::StrFormat(
        "the data of %s is said to be at %u, expected %u; the file is corrupt",
        Name(op, ops_taken()), op.source, data_next_));
  }
  if (data_next_ > file_bytes_ || op.data_length > file_bytes_ - data_next_) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is truncated: the data of %s ends at %u, the file at %u",
        Name(op, ops_taken()), data_next_ + op.data_length, file_bytes_));
  }
  return absl::OkStatus();
}

absl::Status Loader::CheckSource(const Op& op) {
  if (!IsOrderedOp(op.type)) return absl::OkStatus();
  constexpr uint64_t kSourceMax = uint64_t{Index::kNoBlock - 1} * kBlockBytes;
  const bool fits = op.type == OpType::kCopy ? op.source < Index::kNoBlock
                                             : op.source <= kSourceMax;
  if (!fits) {
    return absl::DataLossError(absl::StrFormat(
        "%s reads the old image at %u, beyond the largest image; the file is "
        "corrupt",
        Name(op, ops_taken()), op.source));
  }
  image_->source_end_bytes =
      std::max(image_->source_end_bytes, op.source_bytes() + kBlockBytes);
  has_ordered_ = true;
  return absl::OkStatus();
}

void Loader::CheckOrder(const Op& op, uint32_t number) {
  if (!IsOrderedOp(op.type)) return;
  const Index& index = image_->index;
  const std::optional<Index::Found> own = index.Find(op.new_block);
  // The op of a block that an earlier op gives is never carried out.
  if (!own.has_value() || own->op != number) return;
  const uint64_t first = op.source_bytes() / kBlockBytes;
  const uint64_t last = (op.source_bytes() + kBlockBytes - 1) / kBlockBytes;
  for (uint64_t block = first; block <= last; ++block) {
    const std::optional<Index::Found> writer =
        index.Find(static_cast<uint32_t>(block));
    // An op may overwrite what it reads itself.
    if (!writer.has_value() || writer->op == number ||
        writer->position >= own->position) {
      continue;
    }
    image_->order_error = absl::StrFormat(
        "%s reads block %u of the old image, but op %u, which comes before it "
        "in the merge order, overwrites that block",
        Name(op, number), block, writer->op);
    return;
  }
}

}  // namespace dmu::cow
