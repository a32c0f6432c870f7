// SPDX-License-Identifier: Apache-2.0
//
// target_reader.cc - see target_reader.h.
#include "tools/target_reader.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu::tools {
namespace {

bool ByBlock(const cow::ScratchEntry& a, const cow::ScratchEntry& b) {
  return a.new_block < b.new_block;
}

}  // namespace

TargetReader::TargetReader(const CowFile& cow, const File* base,
                           const File* source)
    : cow_(&cow),
      base_(base),
      source_(source != nullptr ? source : base),
      target_bytes_(cow::TargetBytes(*cow.image,
                                     base != nullptr ? base->size_bytes() : 0)),
      codec_(cow::Codec::Create(cow.image->compressions)),
      staged_(cow.image->progress.scratch),
      stored_(cow.image->stored_bytes_max),
      out_(cow::kUnitBytesMax),
      pages_(std::clamp(cow.image->ops.page_count(), 1u, kPagesMax)),
      units_(kUnits) {
  std::sort(staged_.begin(), staged_.end(), ByBlock);
}

absl::StatusOr<TargetReader> TargetReader::Create(const CowFile& cow,
                                                  const File& base,
                                                  const File* source) {
  absl::Status status =
      cow::CheckBase(*cow.image, base.size_bytes(), /*for_merge=*/false);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(base.path(), ": ", status.message()));
  }
  if (source != nullptr && source->size_bytes() < cow.image->source_end_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        source->path(), ": wrong source: it has ", source->size_bytes(),
        " bytes, the COW file reads it up to ", cow.image->source_end_bytes));
  }
  TargetReader reader(cow, &base, source);
  if (reader.codec_ == nullptr) {
    return absl::ResourceExhaustedError("no memory for a decompressor");
  }
  return reader;
}

absl::Status TargetReader::UseMappings() {
  absl::StatusOr<MappedFile> cow = MappedFile::Map(cow_->file);
  if (!cow.ok()) return cow.status();
  if (!base_->is_direct()) {
    absl::StatusOr<MappedFile> base = MappedFile::Map(*base_);
    if (!base.ok()) return base.status();
    base_mapping_.emplace(*std::move(base));
  }
  if (source_ != base_) {
    absl::StatusOr<MappedFile> source = MappedFile::Map(*source_);
    if (!source.ok()) return source.status();
    source_mapping_.emplace(*std::move(source));
  }
  cow_mapping_.emplace(*std::move(cow));
  return absl::OkStatus();
}

absl::Status TargetReader::Read(const File& file,
                                const std::optional<MappedFile>& mapping,
                                uint64_t offset, ByteSpan out) {
  if (mapping.has_value()) return mapping->ReadAt(offset, out);
  return file.ReadAt(offset, out);
}

absl::Status TargetReader::ReadCow(uint64_t offset, ByteSpan out) const {
  return Read(cow_->file, cow_mapping_, offset, out);
}

absl::StatusOr<TargetReader> TargetReader::CreateForUnits(const CowFile& cow) {
  TargetReader reader(cow, nullptr, nullptr);
  if (reader.codec_ == nullptr) {
    return absl::ResourceExhaustedError("no memory for a decompressor");
  }
  return reader;
}

std::optional<cow::Index::Found> TargetReader::FindPending(
    uint32_t block) const {
  std::optional<cow::Index::Found> found = cow_->image->index.Find(block);
  if (found.has_value() && found->position < cow_->image->progress.merged_ops) {
    found.reset();
  }
  return found;
}

absl::Status TargetReader::ReadAt(uint64_t offset, ByteSpan out) {
  while (!out.empty()) {
    const auto block = static_cast<uint32_t>(offset / kBlockBytes);
    const uint64_t within = offset % kBlockBytes;
    const uint64_t whole = out.size() / kBlockBytes;
    // Whole blocks go where they are wanted, a part of one by way of out_.
    const bool direct = within == 0 && whole > 0;
    absl::StatusOr<Piece> piece =
        direct ? Find(block,
                      static_cast<uint32_t>(
                          std::min<uint64_t>(whole, kPieceBlocks)),
                      out.data())
               : Find(block, 1, out_.data());
    if (!piece.ok()) return piece.status();
    const uint64_t bytes = std::min<uint64_t>(
        uint64_t{piece->blocks} * kBlockBytes - within, out.size());
    if (piece->zero) {
      std::memset(out.data(), 0, bytes);
    } else if (piece->bytes.data() != out.data()) {
      std::memcpy(out.data(), piece->bytes.data() + within, bytes);
    }
    out = out.subspan(bytes);
    offset += bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadPiece(
    uint32_t block, uint32_t blocks_max) {
  return Find(block, std::min(blocks_max, kPieceBlocks), out_.data());
}

absl::StatusOr<TargetReader::Piece> TargetReader::Find(uint32_t block,
                                                       uint32_t blocks_max,
                                                       uint8_t* room) {
  DMU_CHECK(blocks_max >= 1);
  if (!staged_.empty()) {
    const auto staged = std::lower_bound(staged_.begin(), staged_.end(),
                                         cow::ScratchEntry{block, 0}, ByBlock);
    if (staged != staged_.end() && staged->new_block == block) {
      return ReadStaged(block, staged->file_offset, room);
    }
  }
  const std::optional<cow::Index::Found> found = FindPending(block);
  if (found.has_value()) return ReadOpAt(*found, block, blocks_max, room);
  return ReadBase(block, blocks_max, room);
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadStaged(
    uint32_t block, uint64_t file_offset, uint8_t* room) {
  const ByteSpan bytes(room, kBlockBytes);
  absl::Status status = ReadCow(file_offset, bytes);
  if (!status.ok()) return status;
  return Piece{block, 1, false, bytes};
}

absl::StatusOr<const TargetReader::CachedPage*> TargetReader::FindPage(
    uint32_t op_number) {
  const cow::Image& image = *cow_->image;
  const cow::OpTable::Page page = image.ops.PageOf(op_number);
  CachedPage& cached = pages_[page.number % pages_.size()];
  if (cached.number == page.number) return &cached;
  cached.number = kNone;
  cached.page = page;
  cached.ops.resize(cow::OpTable::kPageOps);
  uint8_t bytes[cow::OpTable::kPageBytesMax];
  absl::Status status = ReadCow(page.offset, {bytes, page.bytes});
  if (!status.ok()) return status;
  if (!image.ops.DecodeAll(page, bytes, cached.ops.data())) {
    return absl::DataLossError(
        absl::StrCat(cow_->file.path(), ": the ops from ", page.first_op,
                     " on changed while the file was in use"));
  }
  if (image.unit_checks_offset != 0) {
    cached.checks.resize(page.ops);
    status = ReadCow(image.unit_checks_offset + uint64_t{4} * page.first_op,
                     {bytes, size_t{4} * page.ops});
    if (!status.ok()) return status;
    for (uint32_t i = 0; i < page.ops; ++i) {
      cached.checks[i] = LoadLe<uint32_t>(bytes + 4 * i);
    }
  }
  cached.number = page.number;
  return &cached;
}

absl::Status TargetReader::Corrupt(const cow::Op& op, uint32_t number,
                                   const char* what) const {
  return absl::DataLossError(
      absl::StrCat(cow_->file.path(), ": the data of op ", number, " (",
                   cow::OpTypeName(op.type), " of block ", op.new_block, ", ",
                   op.data_length, " bytes at offset ", op.data_offset, ") ",
                   what, "; the file is corrupt"));
}

absl::StatusOr<ConstByteSpan> TargetReader::FindUnit(const cow::Op& op,
                                                     uint32_t number,
                                                     const uint32_t* check) {
  CachedUnit& cached = units_[number % kUnits];
  const uint32_t unit_bytes = op.span_bytes();
  if (cached.op == number) {
    return ConstByteSpan(cached.bytes.data(), unit_bytes);
  }
  cached.op = kNone;
  if (cached.bytes.size() < unit_bytes) cached.bytes.resize(unit_bytes);
  if (op.data_length > stored_.size()) {
    return Corrupt(op, number, "changed while the file was in use");
  }
  const ByteSpan stored(stored_.data(), op.data_length);
  absl::Status status = ReadCow(op.data_offset, stored);
  if (!status.ok()) return status;
  if (check != nullptr && cow::UnitCheck(stored) != *check) {
    return Corrupt(op, number, "does not match its checksum");
  }
  const ByteSpan unit(cached.bytes.data(), unit_bytes);
  if (codec_->Decode(op.compression, stored, unit) != IoStatus::kOk) {
    return Corrupt(op, number,
                   absl::StrCat("does not decompress (",
                                cow::CompressionName(op.compression), ") to ",
                                unit_bytes, " bytes")
                       .c_str());
  }
  cached.op = number;
  return ConstByteSpan(unit);
}

absl::StatusOr<TargetReader::Unit> TargetReader::ReadUnit(uint32_t op_number) {
  const absl::StatusOr<const CachedPage*> page = FindPage(op_number);
  if (!page.ok()) return page.status();
  const uint32_t i = op_number - (*page)->page.first_op;
  Unit unit;
  unit.op = (*page)->ops[i];
  if (!cow::HasData(unit.op.type)) return unit;
  const uint32_t* check =
      (*page)->checks.empty() ? nullptr : &(*page)->checks[i];
  absl::StatusOr<ConstByteSpan> bytes = FindUnit(unit.op, op_number, check);
  if (!bytes.ok()) return bytes.status();
  unit.bytes = *bytes;
  return unit;
}

absl::Status TargetReader::ReadOld(const cow::Op& op, ByteSpan out) {
  if (source_ == base_) {
    return Read(*base_, base_mapping_, op.source_bytes(), out);
  }
  return Read(*source_, source_mapping_, op.source_bytes(), out);
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadOpAt(
    const cow::Index::Found& found, uint32_t block, uint32_t blocks_max,
    uint8_t* room) {
  if (found.type == cow::OpType::kZero) return Piece{block, 1, true, {}};
  const absl::StatusOr<const CachedPage*> page = FindPage(found.op);
  if (!page.ok()) return page.status();
  const uint32_t i = found.op - (*page)->page.first_op;
  const cow::Op& op = (*page)->ops[i];
  if (op.type != found.type || op.new_block != found.new_block ||
      op.span_log2 != found.span_log2) {
    return absl::DataLossError(
        absl::StrCat(cow_->file.path(), ": op ", found.op,
                     " changed while the file was in use"));
  }
  if (op.type == cow::OpType::kCopy) {
    return ReadCopies(**page, found, blocks_max, room);
  }
  const uint32_t* check =
      (*page)->checks.empty() ? nullptr : &(*page)->checks[i];
  const absl::StatusOr<ConstByteSpan> unit = FindUnit(op, found.op, check);
  if (!unit.ok()) return unit.status();
  if (op.type == cow::OpType::kReplace) {
    const uint32_t skip = block - op.new_block;
    const uint32_t left = std::min(op.span_blocks() - skip, blocks_max);
    return Piece{
        block, left, false,
        unit->subspan(size_t{skip} * kBlockBytes, size_t{left} * kBlockBytes)};
  }
  const ByteSpan bytes(room, kBlockBytes);
  if (absl::Status status = ReadOld(op, bytes); !status.ok()) return status;
  cow::XorOnto(unit->data(), kBlockBytes, bytes.data());
  return Piece{block, 1, false, bytes};
}

// Copies of adjacent sources to adjacent blocks become one read.
absl::StatusOr<TargetReader::Piece> TargetReader::ReadCopies(
    const CachedPage& page, const cow::Index::Found& found, uint32_t blocks_max,
    uint8_t* room) {
  const uint32_t first = found.op - page.page.first_op;
  const cow::Op& op = page.ops[first];
  const uint32_t limit =
      std::min({blocks_max, kPieceBlocks, page.page.ops - first});
  uint32_t blocks = 1;
  while (blocks < limit) {
    const cow::Op& next = page.ops[first + blocks];
    if (next.type != cow::OpType::kCopy ||
        next.new_block != op.new_block + blocks ||
        next.source != op.source + blocks) {
      break;
    }
    // Not one that is merged, staged or given by an earlier op.
    const std::optional<cow::Index::Found> pending =
        FindPending(next.new_block);
    if (!pending.has_value() || pending->op != found.op + blocks ||
        std::binary_search(staged_.begin(), staged_.end(),
                           cow::ScratchEntry{next.new_block, 0}, ByBlock)) {
      break;
    }
    ++blocks;
  }
  const ByteSpan bytes(room, size_t{blocks} * kBlockBytes);
  if (absl::Status status = ReadOld(op, bytes); !status.ok()) return status;
  return Piece{op.new_block, blocks, false, bytes};
}

absl::StatusOr<TargetReader::Piece> TargetReader::ReadBase(uint32_t block,
                                                           uint32_t blocks_max,
                                                           uint8_t* room) {
  // Up to the next op, merged or not; scratch blocks are blocks of ops too,
  // unless the file is corrupt.
  uint64_t end = uint64_t{block} + std::min(blocks_max, kPieceBlocks);
  if (blocks_max > 1) {
    end = std::min<uint64_t>(end, cow_->image->index.NextStart(block));
    const auto staged = std::upper_bound(staged_.begin(), staged_.end(),
                                         cow::ScratchEntry{block, 0}, ByBlock);
    if (staged != staged_.end()) {
      end = std::min<uint64_t>(end, staged->new_block);
    }
  }
  end = std::min(end, (target_bytes_ + kBlockBytes - 1) / kBlockBytes);
  const uint64_t offset = uint64_t{block} * kBlockBytes;
  const uint64_t stop = std::min(end * kBlockBytes, target_bytes_);
  if (base_->size_bytes() < stop) {
    return absl::FailedPreconditionError(
        absl::StrCat(base_->path(), ": block ", block,
                     " of the target comes from the base, which has only ",
                     base_->size_bytes(), " bytes"));
  }
  const auto blocks = static_cast<uint32_t>(end - block);
  const uint64_t bytes = stop - offset;
  // The last block of an image that does not fill it is padded with zeros.
  std::memset(room + bytes, 0, size_t{blocks} * kBlockBytes - bytes);
  absl::Status status =
      Read(*base_, base_mapping_, offset, ByteSpan(room, bytes));
  if (!status.ok()) return status;
  return Piece{block, blocks, false,
               ConstByteSpan(room, size_t{blocks} * kBlockBytes)};
}

}  // namespace dmu::tools
