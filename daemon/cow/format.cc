// SPDX-License-Identifier: Apache-2.0
//
// format.cc - bytes of the COW file to numbers and back; judges nothing.
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
static_assert(kAtMaxUnit + 4 == kHeaderBytes);

// source_info of an op: source in bits 0..47, zeros in 48..56, log2 of the
// blocks covered in 57..59, type in 60..63.
constexpr uint64_t kSourceMask = (uint64_t{1} << 48) - 1;
constexpr uint64_t kReservedMask = uint64_t{0x1ff} << 48;
constexpr int kSpanShift = 57;
constexpr int kTypeShift = 60;

enum ExtensionAt : uint32_t {
  kAtExtMagic = 0,
  kAtExtVersion = 8,
  kAtExtLength = 12,
  kAtExtBase = 16,
  kAtExtTarget = 24,
  kAtExtDataEnd = 32,
  kAtExtOpCount = 40,
  kAtExtHeaderCrc = 48,
  kAtExtZeros = 52,
  kAtExtCrc = 124,
};
static_assert(kAtExtCrc + 4 == kExtensionBytes);
static_assert(kExtensionBytes % kOpBytes == 0);

uint32_t Crc32(const uint8_t* bytes, uint32_t count) {
  return static_cast<uint32_t>(crc32(0, bytes, count));
}

}  // namespace

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

Header DecodeHeader(const uint8_t bytes[kHeaderBytes]) {
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

void EncodeHeader(const Header& h, uint8_t bytes[kHeaderBytes]) {
  StoreLe<uint64_t>(bytes + kAtMagic, kMagic);
  StoreLe<uint16_t>(bytes + kAtMajor, h.major_version);
  StoreLe<uint16_t>(bytes + kAtMinor, h.minor_version);
  StoreLe<uint16_t>(bytes + kAtHeaderSize, h.header_size);
  StoreLe<uint16_t>(bytes + kAtFooterSize, h.footer_size);
  StoreLe<uint16_t>(bytes + kAtOpSize, h.op_size);
  StoreLe<uint32_t>(bytes + kAtBlockSize, h.block_size);
  StoreLe<uint32_t>(bytes + kAtClusterOps, h.cluster_ops);
  StoreLe<uint64_t>(bytes + kAtNumMergeOps, h.num_merge_ops);
  StoreLe<uint32_t>(bytes + kAtBufferSize, h.buffer_size);
  StoreLe<uint64_t>(bytes + kAtSequenceCount, h.sequence_data_count);
  StoreLe<uint32_t>(bytes + kAtResumeCount, h.resume_point_count);
  StoreLe<uint32_t>(bytes + kAtResumeMax, h.resume_point_max);
  StoreLe<uint64_t>(bytes + kAtOpCount, h.op_count);
  StoreLe<uint64_t>(bytes + kAtOpCountMax, h.op_count_max);
  StoreLe<uint32_t>(bytes + kAtCompression,
                    static_cast<uint32_t>(h.compression));
  StoreLe<uint32_t>(bytes + kAtMaxUnit, h.max_unit_bytes);
}

bool DecodeOp(const uint8_t bytes[kOpBytes], Op* op) {
  const uint64_t info = LoadLe<uint64_t>(bytes + 8);
  const auto type = static_cast<OpType>(info >> kTypeShift);
  op->data_length = LoadLe<uint32_t>(bytes);
  op->new_block = LoadLe<uint32_t>(bytes + 4);
  op->type = type;
  op->span_log2 = static_cast<uint8_t>((info >> kSpanShift) & 7);
  op->source = info & kSourceMask;
  if ((info & kReservedMask) != 0 || op->span_log2 > kSpanLog2Max) return false;
  return type == OpType::kCopy || type == OpType::kReplace ||
         type == OpType::kZero || type == OpType::kXor;
}

void EncodeOp(const Op& op, uint8_t bytes[kOpBytes]) {
  DMU_CHECK(op.span_log2 <= kSpanLog2Max);
  DMU_CHECK((op.source & ~kSourceMask) == 0);
  StoreLe<uint32_t>(bytes, op.data_length);
  StoreLe<uint32_t>(bytes + 4, op.new_block);
  StoreLe<uint64_t>(bytes + 8,
                    op.source | uint64_t{op.span_log2} << kSpanShift |
                        static_cast<uint64_t>(op.type) << kTypeShift);
}

bool HasExtensionMagic(const uint8_t bytes[kExtensionBytes]) {
  return LoadLe<uint64_t>(bytes + kAtExtMagic) == kExtensionMagic;
}

uint64_t ExtensionOffset(const Header& header) {
  DMU_CHECK(header.op_count <= header.op_count_max);
  if (header.op_count_max - header.op_count < kExtensionBytes / kOpBytes) {
    return 0;
  }
  return header.DataOffset() - kExtensionBytes;
}

bool DecodeExtension(const uint8_t bytes[kExtensionBytes], Extension* ext) {
  if (!HasExtensionMagic(bytes) ||
      LoadLe<uint32_t>(bytes + kAtExtLength) != kExtensionBytes ||
      LoadLe<uint32_t>(bytes + kAtExtCrc) != Crc32(bytes, kAtExtCrc)) {
    return false;
  }
  ext->version = LoadLe<uint32_t>(bytes + kAtExtVersion);
  ext->base_bytes = LoadLe<uint64_t>(bytes + kAtExtBase);
  ext->target_bytes = LoadLe<uint64_t>(bytes + kAtExtTarget);
  ext->data_end = LoadLe<uint64_t>(bytes + kAtExtDataEnd);
  ext->op_count = LoadLe<uint64_t>(bytes + kAtExtOpCount);
  ext->header_crc = LoadLe<uint32_t>(bytes + kAtExtHeaderCrc);
  return true;
}

void EncodeExtension(const Extension& ext, uint8_t bytes[kExtensionBytes]) {
  StoreLe<uint64_t>(bytes + kAtExtMagic, kExtensionMagic);
  StoreLe<uint32_t>(bytes + kAtExtVersion, ext.version);
  StoreLe<uint32_t>(bytes + kAtExtLength, kExtensionBytes);
  StoreLe<uint64_t>(bytes + kAtExtBase, ext.base_bytes);
  StoreLe<uint64_t>(bytes + kAtExtTarget, ext.target_bytes);
  StoreLe<uint64_t>(bytes + kAtExtDataEnd, ext.data_end);
  StoreLe<uint64_t>(bytes + kAtExtOpCount, ext.op_count);
  StoreLe<uint32_t>(bytes + kAtExtHeaderCrc, ext.header_crc);
  std::memset(bytes + kAtExtZeros, 0, kAtExtCrc - kAtExtZeros);
  StoreLe<uint32_t>(bytes + kAtExtCrc, Crc32(bytes, kAtExtCrc));
}

uint32_t HeaderChecksum(const Header& header) {
  Header unmerged = header;
  unmerged.num_merge_ops = 0;
  uint8_t bytes[kHeaderBytes];
  EncodeHeader(unmerged, bytes);
  return Crc32(bytes, kHeaderBytes);
}

}  // namespace dmu::cow
