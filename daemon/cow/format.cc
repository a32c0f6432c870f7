// SPDX-License-Identifier: Apache-2.0
//
// format.cc - bytes of the COW file to numbers and back; judges nothing
// that more than one field decides.
#include "daemon/cow/format.h"

#include <zlib.h>

#include <cstring>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

// Field offsets of the header, versions 2 and 3 up to 34, version 3 behind.
enum HeaderAt : uint32_t {
  kAtMagic = 0,
  kAtMajor = 8,
  kAtMinor = 10,
  kAtHeaderSize = 12,
  kAtFooterSize = 14,
  kAtOpSize = 16,
  kAtBlockSize = 18,
  kAtClusterOps = 22,
  kAtNumMergeOps = 26,
  kAtBufferSize = 34,
  kAtSequenceCount = 38,
  kAtResumeCount = 46,
  kAtResumeMax = 50,
  kAtOpCount = 54,
  kAtOpCountMax = 62,
  kAtCompression = 70,
  kAtMaxUnit = 74,
};
static_assert(kAtNumMergeOps == kMergeCounterOffset);
static_assert(kAtMaxUnit + 4 == kHeaderBytesV3);
static_assert(kAtBufferSize == kHeaderBytesV1);
static_assert(kAtSequenceCount == kHeaderBytesV2);

// source_info of a version 3 op: source in bits 0..47, zeros in 48..56, log2 of
// the blocks covered in 57..59, type in 60..63.
constexpr uint64_t kSourceMask = (uint64_t{1} << 48) - 1;
constexpr uint64_t kReservedMask = uint64_t{0x1ff} << 48;
constexpr int kSpanShift = 57;
constexpr int kTypeShift = 60;

// A version 2 op.
enum OpV2At : uint32_t {
  kAtType = 0,
  kAtOpCompression = 1,
  kAtDataLength = 2,
  kAtNewBlock = 4,
  kAtSource = 12,
};
static_assert(kAtSource + 8 == kOpBytesV2);

enum FooterAt : uint32_t {
  kAtFooterType = 0,
  kAtFooterLength = 2,  // of what follows it and the 16 bytes behind: 64
  kAtOpsSize = 4,
  kAtNumOps = 12,
  kAtUnused = 20,
  kAtChecksum = 52,
};
static_assert(kAtChecksum + sizeof(Footer::checksum) == kFooterBytes);

bool IsKnown(Compression compression) {
  return compression <= Compression::kZstd;
}

}  // namespace

const char* OpTypeName(OpType type) {
  switch (type) {
    case OpType::kCopy:
      return "copy";
    case OpType::kReplace:
      return "replace";
    case OpType::kZero:
      return "zero";
    case OpType::kLabel:
      return "label";
    case OpType::kCluster:
      return "cluster";
    case OpType::kXor:
      return "xor";
    case OpType::kSequence:
      return "sequence";
    case OpType::kFooter:
      return "footer";
  }
  return "?";
}

const char* CompressionName(Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return "none";
    case Compression::kGz:
      return "gz";
    case Compression::kBrotli:
      return "brotli";
    case Compression::kLz4:
      return "lz4";
    case Compression::kZstd:
      return "zstd";
  }
  return "?";
}

Header HeaderV2(uint32_t cluster_ops) {
  Header h;
  h.major_version = 2;
  h.header_size = kHeaderBytesV2;
  h.footer_size = kFooterBytes;
  h.op_size = kOpBytesV2;
  h.cluster_ops = cluster_ops;
  h.resume_point_max = 0;
  h.max_unit_bytes = 0;
  return h;
}

Header DecodeHeader(const uint8_t bytes[kHeaderBytesMax]) {
  Header h;
  h.major_version = LoadLe<uint16_t>(bytes + kAtMajor);
  h.minor_version = LoadLe<uint16_t>(bytes + kAtMinor);
  h.header_size = LoadLe<uint16_t>(bytes + kAtHeaderSize);
  h.footer_size = LoadLe<uint16_t>(bytes + kAtFooterSize);
  h.op_size = LoadLe<uint16_t>(bytes + kAtOpSize);
  h.block_size = LoadLe<uint32_t>(bytes + kAtBlockSize);
  h.cluster_ops = LoadLe<uint32_t>(bytes + kAtClusterOps);
  h.num_merge_ops = LoadLe<uint64_t>(bytes + kAtNumMergeOps);
  h.buffer_size = LoadLe<uint32_t>(bytes + kAtBufferSize);
  if (!h.is_v3()) {
    // There is less than this of them; what the caller gave in its place is not
    // the header's.
    if (h.major_version < 2) h.buffer_size = 0;
    h.resume_point_max = 0;
    h.max_unit_bytes = 0;
    return h;
  }
  h.sequence_data_count = LoadLe<uint64_t>(bytes + kAtSequenceCount);
  h.resume_point_count = LoadLe<uint32_t>(bytes + kAtResumeCount);
  h.resume_point_max = LoadLe<uint32_t>(bytes + kAtResumeMax);
  h.op_count = LoadLe<uint64_t>(bytes + kAtOpCount);
  h.op_count_max = LoadLe<uint64_t>(bytes + kAtOpCountMax);
  h.compression =
      static_cast<Compression>(LoadLe<uint32_t>(bytes + kAtCompression));
  h.max_unit_bytes = LoadLe<uint32_t>(bytes + kAtMaxUnit);
  return h;
}

void EncodeHeader(const Header& h, uint8_t bytes[kHeaderBytesMax]) {
  StoreLe<uint64_t>(bytes + kAtMagic, kMagic);
  StoreLe<uint16_t>(bytes + kAtMajor, h.major_version);
  StoreLe<uint16_t>(bytes + kAtMinor, h.minor_version);
  StoreLe<uint16_t>(bytes + kAtHeaderSize, h.header_size);
  StoreLe<uint16_t>(bytes + kAtFooterSize, h.footer_size);
  StoreLe<uint16_t>(bytes + kAtOpSize, h.op_size);
  StoreLe<uint32_t>(bytes + kAtBlockSize, h.block_size);
  StoreLe<uint32_t>(bytes + kAtClusterOps, h.cluster_ops);
  StoreLe<uint64_t>(bytes + kAtNumMergeOps, h.num_merge_ops);
  if (h.major_version < 2) return;
  StoreLe<uint32_t>(bytes + kAtBufferSize, h.buffer_size);
  if (!h.is_v3()) return;
  StoreLe<uint64_t>(bytes + kAtSequenceCount, h.sequence_data_count);
  StoreLe<uint32_t>(bytes + kAtResumeCount, h.resume_point_count);
  StoreLe<uint32_t>(bytes + kAtResumeMax, h.resume_point_max);
  StoreLe<uint64_t>(bytes + kAtOpCount, h.op_count);
  StoreLe<uint64_t>(bytes + kAtOpCountMax, h.op_count_max);
  StoreLe<uint32_t>(bytes + kAtCompression,
                    static_cast<uint32_t>(h.compression));
  StoreLe<uint32_t>(bytes + kAtMaxUnit, h.max_unit_bytes);
}

bool DecodeOpV3(const uint8_t bytes[kOpBytesV3], Compression compression,
                Op* op) {
  const uint64_t info = LoadLe<uint64_t>(bytes + 8);
  *op = Op();
  op->type = static_cast<OpType>(info >> kTypeShift);
  op->data_length = LoadLe<uint32_t>(bytes);
  op->new_block = LoadLe<uint32_t>(bytes + 4);
  op->span_log2 = static_cast<uint8_t>((info >> kSpanShift) & 7);
  op->source = info & kSourceMask;
  if ((info & kReservedMask) != 0 || op->span_log2 > kSpanLog2Max) return false;
  if (!IsDataOp(op->type)) return false;
  if (op->type == OpType::kReplace) op->data_offset = op->source;
  // The rule of version 3, for every compressor: as long as the unit is raw.
  if (HasData(op->type) && op->data_length != op->span_bytes()) {
    op->compression = compression;
  }
  return true;
}

void EncodeOpV3(const Op& op, uint8_t bytes[kOpBytesV3]) {
  DMU_CHECK(op.span_log2 <= kSpanLog2Max);
  DMU_CHECK((op.source & ~kSourceMask) == 0);
  StoreLe<uint32_t>(bytes, op.data_length);
  StoreLe<uint32_t>(bytes + 4, op.new_block);
  StoreLe<uint64_t>(bytes + 8,
                    op.source | uint64_t{op.span_log2} << kSpanShift |
                        static_cast<uint64_t>(op.type) << kTypeShift);
}

bool DecodeOpV2(const uint8_t bytes[kOpBytesV2], Op* op) {
  *op = Op();
  op->type = static_cast<OpType>(bytes[kAtType]);
  const auto compression = static_cast<Compression>(bytes[kAtOpCompression]);
  const uint64_t new_block = LoadLe<uint64_t>(bytes + kAtNewBlock);
  op->data_length = LoadLe<uint16_t>(bytes + kAtDataLength);
  op->new_block = static_cast<uint32_t>(new_block);
  op->source = LoadLe<uint64_t>(bytes + kAtSource);
  if (op->type == OpType::kFooter) return true;
  switch (op->type) {
    case OpType::kLabel:
      return true;
    case OpType::kCopy:
    case OpType::kReplace:
    case OpType::kZero:
    case OpType::kXor:
    case OpType::kCluster:
    case OpType::kSequence:
      break;
    default:
      return false;
  }
  if (new_block > UINT32_MAX || !IsKnown(compression)) return false;
  // How far a cluster op leads is bounded by the file, and judged there.
  if (op->type == OpType::kCluster) return true;
  if ((op->source & ~kSourceMask) != 0) return false;
  if (op->type == OpType::kReplace) op->data_offset = op->source;
  if (op->type == OpType::kReplace || op->type == OpType::kXor) {
    // A block that did not get smaller is stored raw by lz4 and zstd only.
    const bool always =
        compression == Compression::kGz || compression == Compression::kBrotli;
    op->compression = op->data_length == kBlockBytes && !always
                          ? Compression::kNone
                          : compression;
  }
  return true;
}

void EncodeOpV2(const Op& op, Compression stored_as,
                uint8_t bytes[kOpBytesV2]) {
  DMU_CHECK(op.span_log2 == 0 && op.data_length <= UINT16_MAX);
  const bool compressed =
      op.type == OpType::kReplace || op.type == OpType::kXor;
  bytes[kAtType] = static_cast<uint8_t>(op.type);
  bytes[kAtOpCompression] =
      compressed ? static_cast<uint8_t>(stored_as) : uint8_t{0};
  StoreLe<uint16_t>(bytes + kAtDataLength,
                    static_cast<uint16_t>(op.data_length));
  StoreLe<uint64_t>(bytes + kAtNewBlock, op.new_block);
  StoreLe<uint64_t>(bytes + kAtSource, op.source);
}

Footer DecodeFooter(const uint8_t bytes[kFooterBytes]) {
  Footer footer;
  footer.data_length = LoadLe<uint16_t>(bytes + kAtFooterLength);
  footer.ops_size = LoadLe<uint64_t>(bytes + kAtOpsSize);
  footer.num_ops = LoadLe<uint64_t>(bytes + kAtNumOps);
  std::memcpy(footer.unused, bytes + kAtUnused, sizeof(footer.unused));
  std::memcpy(footer.checksum, bytes + kAtChecksum, sizeof(footer.checksum));
  return footer;
}

void EncodeFooter(const Footer& footer, uint8_t bytes[kFooterBytes]) {
  std::memset(bytes, 0, kFooterBytes);
  bytes[kAtFooterType] = static_cast<uint8_t>(OpType::kFooter);
  StoreLe<uint16_t>(bytes + kAtFooterLength, kFooterBytes - kOpBytesV2);
  StoreLe<uint64_t>(bytes + kAtOpsSize, footer.ops_size);
  StoreLe<uint64_t>(bytes + kAtNumOps, footer.num_ops);
  std::memcpy(bytes + kAtUnused, footer.unused, sizeof(footer.unused));
  std::memcpy(bytes + kAtChecksum, footer.checksum, sizeof(footer.checksum));
}

ResumePoint DecodeResumePoint(const uint8_t bytes[kResumePointBytes]) {
  return {LoadLe<uint64_t>(bytes), LoadLe<uint64_t>(bytes + 8)};
}

void EncodeResumePoint(const ResumePoint& point,
                       uint8_t bytes[kResumePointBytes]) {
  StoreLe<uint64_t>(bytes, point.label);
  StoreLe<uint64_t>(bytes + 8, point.op_count);
}

uint32_t HeaderChecksum(const Header& header) {
  Header unmerged = header;
  unmerged.num_merge_ops = 0;
  uint8_t bytes[kHeaderBytesMax] = {};
  EncodeHeader(unmerged, bytes);
  return static_cast<uint32_t>(crc32(0, bytes, header.header_size));
}

}  // namespace dmu::cow
