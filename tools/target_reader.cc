// SPDX-License-Identifier: Apache-2.0
//
// target_reader.cc - see target_reader.h.
#include "tools/target_reader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kPieceBlocks = cow::kUnitBytesMax / kBlockBytes;

bool ByBlock(const cow::ScratchEntry& a, const cow::ScratchEntry& b) {
  return a.new_block < b.new_block;
}

}  // namespace

TargetReader::TargetReader(const CowFile& cow, const File& base)
    : cow_(&cow),
      base_(&base),
      target_bytes_(cow::TargetBytes(*cow.image, base.size_bytes())),
      codec_(cow::Codec::Create(cow.image->header.compression)),
      staged_(cow.image->progress.scratch),
      stored_(cow::kUnitBytesMax),
      out_(cow::kUnitBytesMax) {
  std::sort(staged_.begin(), staged_.end(), ByBlock);
}

absl::StatusOr<TargetReader> TargetReader::Create(const CowFile& cow,
                                                  const File& base) {
  absl::Status status =
      cow::CheckBase(*cow.image, base.size_bytes(), /*for_merge=*/false);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(base.path(), ": ", status.message()));
  }
  TargetReader reader(cow, base);
  if (reader.codec_ == nullptr) {
    return absl::ResourceExhaustedError("no memory for a decompressor");
  }
  return reader;
}

std::optional<cow::Index::Found> TargetReader::FindPending(
    uint32_t block) const {
  const cow::Index& index = cow_->image->index;
  std::optional<cow::Index::Found> found = index.Find(block);
  if (found.has_value() &&
      index.PositionOf(found->op) < cow_->image->progress.merged_ops) {
    found.reset();
  }
  return found;
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadPiece(uint32_t block) {
  const auto staged = std::lower_bound(staged_.begin(), staged_.end(),
                                       cow::ScratchEntry{block, 0}, ByBlock);
  if (staged != staged_.end() && staged->new_block == block) {
    return ReadStaged(block, staged->file_offset);
  }
  const std::optional<cow::Index::Found> found = FindPending(block);
  if (found.has_value()) return ReadOpAt(*found, block);
  return ReadBase(block);
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadStaged(
    uint32_t block, uint64_t file_offset) {
  unit_op_ = -1;
  const ByteSpan bytes(out_.data(), kBlockBytes);
  absl::Status status = cow_->file.ReadAt(file_offset, bytes);
  if (!status.ok()) return status;
  return Piece{block, 1, false, bytes};
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadOpAt(
    const cow::Index::Found& found, uint32_t block) {
  if (found.type == cow::OpType::kZero) return Piece{block, 1, true, {}};
  const absl::StatusOr<cow::Op> op = ReadOp(*cow_, found.op);
  if (!op.ok()) return op.status();
  if (op->type != found.type || op->new_block != found.new_block ||
      op->span_log2 != found.span_log2) {
    return absl::DataLossError(
        absl::StrCat(cow_->file.path(), ": op ", found.op,
                     " changed while the file was in use"));
  }
  if (op->type == cow::OpType::kReplace) return ReadUnit(found, *op, block);
  unit_op_ = -1;
  const ByteSpan bytes(out_.data(), kBlockBytes);
  absl::Status status = base_->ReadAt(op->source * kBlockBytes, bytes);
  if (!status.ok()) return status;
  return Piece{block, 1, false, bytes};
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadUnit(
    const cow::Index::Found& found, const cow::Op& op, uint32_t block) {
  const ByteSpan unit(out_.data(), op.span_bytes());
  if (unit_op_ != found.op) {
    unit_op_ = -1;
    const ByteSpan stored(stored_.data(),
                          std::min<size_t>(op.data_length, stored_.size()));
    absl::Status status = cow_->file.ReadAt(op.source, stored);
    if (!status.ok()) return status;
    if (cow::DecodeUnit(codec_.get(), stored, unit) != IoStatus::kOk) {
      return absl::DataLossError(absl::StrCat(
          cow_->file.path(), ": the data of op ", found.op, " (block ",
          op.new_block, ", ", op.data_length, " bytes at offset ", op.source,
          ") does not decompress to ", op.span_bytes(),
          " bytes; the file is corrupt"));
    }
    unit_op_ = found.op;
  }
  const uint32_t skip = block - op.new_block;
  const uint32_t left = op.span_blocks() - skip;
  return Piece{block, left, false, unit.subspan(size_t{skip} * kBlockBytes)};
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadBase(uint32_t block) {
  unit_op_ = -1;
  // Up to the next op, merged or not; scratch blocks are blocks of ops too,
  // unless the file is corrupt.
  uint64_t end = std::min<uint64_t>(cow_->image->index.NextStart(block),
                                    uint64_t{block} + kPieceBlocks);
  const auto staged = std::upper_bound(staged_.begin(), staged_.end(),
                                       cow::ScratchEntry{block, 0}, ByBlock);
  if (staged != staged_.end()) end = std::min<uint64_t>(end, staged->new_block);
  end = std::min(end, (target_bytes_ + kBlockBytes - 1) / kBlockBytes);
  const uint64_t offset = uint64_t{block} * kBlockBytes;
  const uint64_t stop = std::min(end * kBlockBytes, target_bytes_);
  if (base_->size_bytes() < stop) {
    return absl::FailedPreconditionError(
        absl::StrCat(base_->path(), ": block ", block,
                     " of the target comes from the base, "
                     "which has only ",
                     base_->size_bytes(), " bytes"));
  }
  const auto blocks = static_cast<uint32_t>(end - block);
  // The last block of an image that does not fill it is padded with zeros.
  std::fill_n(out_.begin() + static_cast<int64_t>(stop - offset),
              uint64_t{blocks} * kBlockBytes - (stop - offset), uint8_t{0});
  absl::Status status =
      base_->ReadAt(offset, ByteSpan(out_.data(), stop - offset));
  if (!status.ok()) return status;
  return Piece{block, blocks, false,
               ConstByteSpan(out_.data(), uint64_t{blocks} * kBlockBytes)};
}

}  // namespace dmu::tools
