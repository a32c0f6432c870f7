// SPDX-License-Identifier: Apache-2.0
//
// format.h - the Android COW file, versions 1 to 3.
//
// Owns: every on-disk constant of Android's, the decoded forms, byte-wise
// encode and decode. Not: I/O, validation across structures (loader.h),
// decompression (codec.h), what is ours in a file (extension.h).
// Reader and writer meet here and nowhere else.
//
// Version 3: header (78 bytes) | scratch (buffer_size) | sequence (u32 each) |
// resume points (16 bytes each, resume_point_max of them) | op table (16 bytes
// each, op_count_max of them, op_count valid) | data, back to back in op order.
//
// Version 2: header (38 bytes) | scratch (buffer_size) | clusters | footer (84
// bytes, where the next op would stand). A cluster is room for cluster_ops ops
// of 20 bytes and behind it their data, back to back; its last op is a cluster
// op, which says how far the next cluster is. cluster_ops 0: op, its data, op,
// its data and so on. Labels and the merge sequence are ops. Version 1 is the
// same with a header of 34 bytes and no scratch region.
//
// All integers little-endian, packed, unaligned.
#ifndef DAEMON_COW_FORMAT_H_
#define DAEMON_COW_FORMAT_H_

#include <cstdint>

#include "daemon/base/types.h"

namespace dmu::cow {

inline constexpr uint64_t kMagic = 0x436f77634f572121;  // "!!WOcwoC"
inline constexpr uint32_t kPrefixBytes = 14;
// Of each version; kHeaderBytesMax is the largest.
inline constexpr uint16_t kHeaderBytesV1 = 34;
inline constexpr uint16_t kHeaderBytesV2 = 38;
inline constexpr uint16_t kHeaderBytesV3 = 78;
inline constexpr uint16_t kHeaderBytesMax = kHeaderBytesV3;
inline constexpr uint16_t kOpBytesV2 = 20;  // and version 1
inline constexpr uint16_t kOpBytesV3 = 16;
inline constexpr uint16_t kOpBytesMax = kOpBytesV2;
inline constexpr uint16_t kFooterBytes = 84;
inline constexpr uint32_t kResumePointBytes = 16;
inline constexpr uint32_t kResumePointMax = 4;
inline constexpr uint32_t kUnitBytesMax = 256 * 1024;
inline constexpr uint8_t kSpanLog2Max = 6;  // 64 blocks = 256 KiB
// Version 2 compresses single blocks and stores gz and brotli data even when it
// is larger than the block: zlib's worst case, rounded up.
inline constexpr uint32_t kStoredBytesMaxV2 = 8192;
// A sequence op of version 2 holds at most this many block numbers.
inline constexpr uint32_t kSequenceOpEntriesMax = 2048;
// Op numbers are packed beside other things in the index. 2^27 ops are 2 GiB of
// op table and 512 GiB of single-block changes.
inline constexpr uint64_t kOpsMax = uint64_t{1} << 27;

// The merge's progress: counter and state byte live in the file's first sector
// and are only ever written together, in one 512-byte write (progress.h).
inline constexpr uint64_t kMergeCounterOffset = 26;  // u64, all versions

// Scratch region, when buffer_size is not 0, directly behind the header: state
// byte, then {u64 new_block, u64 file_offset} entries ended by {0, 0}, then at
// +kScratchMetadataBytes one block per entry.
inline constexpr uint32_t kScratchBytes = 2 * 1024 * 1024;
inline constexpr uint32_t kScratchMetadataBytes = 8192;
inline constexpr uint32_t kScratchEntryBytes = 16;
inline constexpr uint32_t kScratchEntriesMax =
    (kScratchBytes - kScratchMetadataBytes) / kBlockBytes;
static_assert(kScratchEntriesMax == 510);

enum class ScratchState : uint8_t {
  kNotStarted = 0,
  kInProgress = 1,
  kWindowStaged = 2,  // Android: "read-ahead done"
};

// kCopy, kReplace, kZero and kXor are data ops: they give blocks. The others
// occur in versions 1 and 2 only.
enum class OpType : uint8_t {
  kCopy = 1,
  kReplace = 2,
  kZero = 3,
  kLabel = 4,
  kCluster = 5,
  kXor = 6,
  kSequence = 7,
  kFooter = 255,
};
// "copy", "replace", ...; "?" for a value not listed.
const char* OpTypeName(OpType type);
constexpr bool IsDataOp(OpType type) {
  return type == OpType::kCopy || type == OpType::kReplace ||
         type == OpType::kZero || type == OpType::kXor;
}
// Ops that read the old image: the order in which they are merged matters.
constexpr bool IsOrderedOp(OpType type) {
  return type == OpType::kCopy || type == OpType::kXor;
}
// Ops that own bytes of the file.
constexpr bool HasData(OpType type) {
  return type == OpType::kReplace || type == OpType::kXor ||
         type == OpType::kSequence;
}

enum class Compression : uint32_t {
  kNone = 0,
  kGz = 1,
  kBrotli = 2,
  kLz4 = 3,
  kZstd = 4,
};
// "none", "gz", ...; "?" for a value not listed.
const char* CompressionName(Compression compression);

// Several of them: bit 1 << Compression. A value that Compression does not have
// gives a bit that no codec serves.
using CompressionSet = uint32_t;
constexpr CompressionSet CompressionBit(Compression compression) {
  const auto value = static_cast<uint32_t>(compression);
  return CompressionSet{1} << (value < 31 ? value : 31);
}

struct Header {
  uint16_t major_version = 3;
  uint16_t minor_version = 0;
  uint16_t header_size = kHeaderBytesV3;
  uint16_t footer_size = 0;
  uint16_t op_size = kOpBytesV3;
  uint32_t block_size = kBlockBytes;
  uint32_t cluster_ops = 0;
  uint64_t num_merge_ops = 0;
  uint32_t buffer_size = kScratchBytes;  // 0 or kScratchBytes
  // The rest is in version 3 only; in a decoded version 2 header it is 0.
  uint64_t sequence_data_count = 0;
  uint32_t resume_point_count = 0;
  uint32_t resume_point_max = kResumePointMax;
  uint64_t op_count = 0;
  uint64_t op_count_max = 0;
  Compression compression = Compression::kNone;
  uint32_t max_unit_bytes = kBlockBytes;  // "compression factor"

  bool is_v3() const { return major_version == 3; }
  bool has_scratch() const { return buffer_size != 0; }
  // Bytes a unit has at most.
  uint32_t unit_bytes_max() const {
    return is_v3() ? max_unit_bytes : kBlockBytes;
  }

  uint64_t ScratchStateOffset() const { return header_size; }
  // File offset of the block of scratch entry i.
  uint64_t ScratchDataOffset(uint32_t i) const {
    return uint64_t{header_size} + kScratchMetadataBytes +
           uint64_t{kBlockBytes} * i;
  }

  // Version 2: where the first op stands.
  uint64_t FirstOpOffset() const { return uint64_t{header_size} + buffer_size; }
  // Version 2: bytes of a cluster's op area; 0 without clusters.
  uint64_t ClusterBytes() const { return uint64_t{cluster_ops} * kOpBytesV2; }

  // Version 3.
  uint64_t SequenceOffset() const {
    return uint64_t{header_size} + buffer_size;
  }
  uint64_t ResumeOffset() const {
    return SequenceOffset() + 4 * sequence_data_count;
  }
  uint64_t OpsOffset() const {
    return ResumeOffset() + uint64_t{kResumePointBytes} * resume_point_max;
  }
  uint64_t DataOffset() const {
    return OpsOffset() + kOpBytesV3 * op_count_max;
  }
};
// The header of a new file of version 2, with clusters of so many ops.
Header HeaderV2(uint32_t cluster_ops);

// One op, decoded. Equal in all versions.
struct Op {
  OpType type = OpType::kZero;
  uint8_t span_log2 = 0;  // covers 1 << span_log2 blocks; replace only
  // How the data is stored: kNone means raw, as long as the unit. In version 2
  // data of gz and brotli is compressed whatever its length.
  Compression compression = Compression::kNone;
  uint32_t data_length = 0;  // bytes this op owns in the file
  uint32_t new_block = 0;    // first block it gives, in the target image
  // copy: source block; xor: source byte offset; label: its number; cluster:
  // bytes from the end of this op to the next cluster; zero: 0. replace and
  // sequence: file offset of the data.
  uint64_t source = 0;
  // replace, xor: file offset of the data. Version 3 and 2 do not store it for
  // an xor: DecodeOp* leaves 0 there, OpTable (op_table.h) knows it.
  uint64_t data_offset = 0;

  uint32_t span_blocks() const { return uint32_t{1} << span_log2; }
  uint32_t span_bytes() const { return kBlockBytes << span_log2; }
  // copy, xor: where in the old image what it reads begins, in bytes; it reads
  // one block's worth.
  uint64_t source_bytes() const {
    return type == OpType::kCopy ? source * kBlockBytes : source;
  }
};

// Version 2: the end of a file that is complete.
struct Footer {
  uint64_t num_ops = 0;   // all ops but the footer
  uint64_t ops_size = 0;  // kOpBytesV2 * num_ops
  uint16_t data_length = 0;
  // Zeros in Android's files, and not looked at by any of its readers; the
  // second one is, up to Android 14, and must be zeros.
  uint8_t unused[32] = {};
  uint8_t checksum[32] = {};
};

struct ResumePoint {
  uint64_t label = 0;
  uint64_t op_count = 0;  // ops of the table up to the label
};

// Decoders never fail unless they say so: they turn bytes into numbers;
// loader.h judges them.

// `bytes`: the header_size of the version that stands in it, zeros behind.
Header DecodeHeader(const uint8_t bytes[kHeaderBytesMax]);
// Writes header.header_size bytes.
void EncodeHeader(const Header& header, uint8_t bytes[kHeaderBytesMax]);

// `compression`: the file's. False when type is not one of a version 3 file,
// span_log2 is above kSpanLog2Max or the reserved bits are not zero.
bool DecodeOpV3(const uint8_t bytes[kOpBytesV3], Compression compression,
                Op* op);
void EncodeOpV3(const Op& op, uint8_t bytes[kOpBytesV3]);

// False when type or compression are not known, or numbers are out of range
// (new_block 32 bits; source 48 bits but for labels).
bool DecodeOpV2(const uint8_t bytes[kOpBytesV2], Op* op);
// `stored_as`: the compression to write down, the same for all data ops of a
// file.
void EncodeOpV2(const Op& op, Compression stored_as, uint8_t bytes[kOpBytesV2]);

Footer DecodeFooter(const uint8_t bytes[kFooterBytes]);
void EncodeFooter(const Footer& footer, uint8_t bytes[kFooterBytes]);

ResumePoint DecodeResumePoint(const uint8_t bytes[kResumePointBytes]);
void EncodeResumePoint(const ResumePoint& point,
                       uint8_t bytes[kResumePointBytes]);

// CRC-32 (zlib's) of an encoded header, with the merge counter taken as zero,
// so that it holds at any merge state.
uint32_t HeaderChecksum(const Header& header);

}  // namespace dmu::cow

#endif  // DAEMON_COW_FORMAT_H_
