// SPDX-License-Identifier: Apache-2.0
//
// format.h - the Android COW file, version 3, and our extension record.
//
// Owns: every on-disk constant, the decoded forms, byte-wise encode and decode.
// Not: I/O, validation across structures (loader.h), decompression (codec.h).
// Reader and writer meet here and nowhere else.
//
// File: header (78 bytes) | scratch (buffer_size) | sequence (u32 each) |
// resume points (16 bytes each, resume_point_max of them) | op table (16 bytes
// each, op_count_max of them, op_count valid) | data, back to back in op order.
// All integers little-endian, packed, unaligned.
#ifndef DAEMON_COW_FORMAT_H_
#define DAEMON_COW_FORMAT_H_

#include <cstdint>

#include "daemon/base/types.h"

namespace dmu::cow {

inline constexpr uint64_t kMagic = 0x436f77634f572121;  // "!!WOcwoC"
inline constexpr uint32_t kPrefixBytes = 14;
inline constexpr uint16_t kHeaderBytes = 78;
inline constexpr uint16_t kOpBytes = 16;
inline constexpr uint32_t kResumePointBytes = 16;
inline constexpr uint32_t kResumePointMax = 4;
inline constexpr uint32_t kUnitBytesMax = 256 * 1024;
inline constexpr uint8_t kSpanLog2Max = 6;  // 64 blocks = 256 KiB
// Op numbers are packed beside type and span into 32 bits (index.h). 2^27 ops
// are 2 GiB of op table and 512 GiB of single-block changes.
inline constexpr uint64_t kOpsMax = uint64_t{1} << 27;

// The merge's progress: these two live in the file's first sector and are only
// ever written together, in one 512-byte write (progress.h).
inline constexpr uint64_t kMergeCounterOffset = 26;            // u64
inline constexpr uint64_t kScratchStateOffset = kHeaderBytes;  // u8

// Scratch region, when buffer_size is not 0: state byte at kScratchStateOffset,
// then {u64 new_block, u64 file_offset} entries ended by {0, 0}, then at
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

enum class OpType : uint8_t { kCopy = 1, kReplace = 2, kZero = 3, kXor = 6 };

enum class Compression : uint32_t {
  kNone = 0,
  kGz = 1,
  kBrotli = 2,
  kLz4 = 3,
  kZstd = 4,
};
// "none", "gz", ...; "?" for a value not listed.
const char* CompressionName(Compression compression);

struct Header {
  uint16_t major_version = 3;
  uint16_t minor_version = 0;
  uint16_t header_size = kHeaderBytes;
  uint16_t footer_size = 0;
  uint16_t op_size = kOpBytes;
  uint32_t block_size = kBlockBytes;
  uint32_t cluster_ops = 0;
  uint64_t num_merge_ops = 0;
  uint32_t buffer_size = kScratchBytes;  // 0 or kScratchBytes
  uint64_t sequence_data_count = 0;
  uint32_t resume_point_count = 0;
  uint32_t resume_point_max = kResumePointMax;
  uint64_t op_count = 0;
  uint64_t op_count_max = 0;
  Compression compression = Compression::kNone;
  uint32_t max_unit_bytes = kBlockBytes;  // "compression factor"

  uint64_t SequenceOffset() const {
    return uint64_t{header_size} + buffer_size;
  }
  uint64_t ResumeOffset() const {
    return SequenceOffset() + 4 * sequence_data_count;
  }
  uint64_t OpsOffset() const {
    return ResumeOffset() + uint64_t{kResumePointBytes} * resume_point_max;
  }
  uint64_t DataOffset() const { return OpsOffset() + kOpBytes * op_count_max; }
};

// One entry of the op table, decoded.
struct Op {
  OpType type = OpType::kZero;
  uint8_t span_log2 = 0;     // covers 1 << span_log2 blocks; replace only
  uint32_t data_length = 0;  // bytes this op owns in the data area
  uint32_t new_block = 0;    // first block it gives, in the target image
  // copy: source block; replace: file offset; xor: source byte offset; zero: 0
  uint64_t source = 0;

  uint32_t span_blocks() const { return uint32_t{1} << span_log2; }
  uint32_t span_bytes() const { return kBlockBytes << span_log2; }
};

// Our extension record. It stands in the last kExtensionBytes / kOpBytes spare
// slots of the op table (between op_count and op_count_max), an address that is
// known on a block device too and that Android's readers never look at. It
// names the header by checksum, and the header is the last thing that is
// written, after all else is durable: a file whose record checks is complete,
// and one that is not has no header.
//
// Record: magic u64 | version u32 | kExtensionBytes u32 | base_bytes u64 |
// target_bytes u64 | data_end u64 | op_count u64 | header_crc u32 | zeros |
// CRC-32 of the 124 bytes before it u32.
inline constexpr uint64_t kExtensionMagic = 0x3154584555534d44;  // "DMSUEXT1"
inline constexpr uint32_t kExtensionBytes = 128;
struct Extension {
  uint32_t version = 1;
  uint64_t base_bytes = 0;    // size of the image the delta was made from
  uint64_t target_bytes = 0;  // size of the image it leads to
  uint64_t data_end = 0;      // file offset behind the last data byte
  uint64_t op_count = 0;      // must equal the header's: detects an append by
                              // a writer that does not know this record
  uint32_t header_crc = 0;    // CRC-32 of the header with num_merge_ops zero
};

// Decoders never fail: they turn bytes into numbers; loader.h judges them.
Header DecodeHeader(const uint8_t bytes[kHeaderBytes]);
void EncodeHeader(const Header& header, uint8_t bytes[kHeaderBytes]);

// False when type is not one of OpType's values, span_log2 is above
// kSpanLog2Max or the reserved bits are not zero.
bool DecodeOp(const uint8_t bytes[kOpBytes], Op* op);
void EncodeOp(const Op& op, uint8_t bytes[kOpBytes]);

// Whether a record was meant to stand here.
bool HasExtensionMagic(const uint8_t bytes[kExtensionBytes]);
// Where the record of a file stands, if it has one; 0 when its op table has no
// room for one. Needs op_count <= op_count_max.
uint64_t ExtensionOffset(const Header& header);
// False when magic, length or record checksum do not match.
bool DecodeExtension(const uint8_t bytes[kExtensionBytes], Extension* ext);
void EncodeExtension(const Extension& ext, uint8_t bytes[kExtensionBytes]);

// CRC-32 (zlib's) of an encoded header, with the merge counter taken as zero,
// so that it holds at any merge state.
uint32_t HeaderChecksum(const Header& header);

}  // namespace dmu::cow

#endif  // DAEMON_COW_FORMAT_H_
