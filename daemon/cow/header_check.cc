// SPDX-License-Identifier: Apache-2.0
//
// header_check.cc - see header_check.h. Order: what the file is (magic,
// version), then the fixed fields, then the counts that lay out the file.
#include "daemon/cow/header_check.h"

#include <bit>

#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"

namespace dmu::cow {
namespace {

absl::Status Corrupt(const char* field, uint64_t offset, uint64_t found,
                     const char* expected) {
  return absl::DataLossError(absl::StrFormat(
      "header field %s at offset %u is %u, expected %s; the file is corrupt",
      field, offset, found, expected));
}

absl::Status CheckIdentity(ConstByteSpan bytes) {
  if (bytes.size() < kPrefixBytes) {
    return absl::DataLossError(
        absl::StrFormat("not a COW file: it has %u bytes, a header has %u",
                        bytes.size(), kHeaderBytes));
  }
  const uint64_t magic = LoadLe<uint64_t>(bytes.data());
  if (magic != kMagic) {
    return absl::DataLossError(absl::StrFormat(
        "not a COW file: it begins with %016x, expected %016x", magic, kMagic));
  }
  const auto major = LoadLe<uint16_t>(bytes.data() + 8);
  const auto minor = LoadLe<uint16_t>(bytes.data() + 10);
  if (major != 3 || minor != 0) {
    return absl::UnimplementedError(absl::StrFormat(
        "the COW file has format version %u.%u; only version 3.0 can be read",
        major, minor));
  }
  if (bytes.size() < kHeaderBytes) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is truncated: it has %u bytes, its header alone has %u",
        bytes.size(), kHeaderBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckFixedFields(const Header& h) {
  if (h.header_size != kHeaderBytes) {
    return Corrupt("header_size", 12, h.header_size, "78");
  }
  if (h.footer_size != 0) {
    return Corrupt("footer_size", 14, h.footer_size, "0");
  }
  if (h.op_size != kOpBytes) return Corrupt("op_size", 16, h.op_size, "16");
  if (h.block_size != kBlockBytes) {
    if (h.block_size >= kSectorBytes && std::has_single_bit(h.block_size)) {
      return absl::UnimplementedError(absl::StrFormat(
          "the COW file uses blocks of %u bytes; only blocks of %u bytes can "
          "be read",
          h.block_size, kBlockBytes));
    }
    return Corrupt("block_size", 18, h.block_size, "4096");
  }
  if (h.cluster_ops != 0) {
    return Corrupt("cluster_ops", 22, h.cluster_ops, "0");
  }
  if (h.buffer_size != 0 && h.buffer_size != kScratchBytes) {
    return Corrupt("buffer_size", 34, h.buffer_size, "0 or 2097152");
  }
  return absl::OkStatus();
}

absl::Status CheckCompression(const Header& h) {
  if (h.compression == Compression::kBrotli) {
    return absl::UnimplementedError(
        "the COW file is compressed with brotli; none, gz, lz4 and zstd can be "
        "read");
  }
  if (h.compression > Compression::kZstd) {
    return Corrupt("compression_algorithm", 70,
                   static_cast<uint32_t>(h.compression), "0 to 4");
  }
  if (!std::has_single_bit(h.max_unit_bytes) ||
      h.max_unit_bytes < kBlockBytes || h.max_unit_bytes > kUnitBytesMax) {
    return Corrupt("max_compression_size", 74, h.max_unit_bytes,
                   "a power of two from 4096 to 262144");
  }
  return absl::OkStatus();
}

absl::Status Truncated(const char* part, uint64_t end, uint64_t file_bytes) {
  return absl::DataLossError(absl::StrFormat(
      "the COW file is truncated: its %s ends at %u, the file at %u", part, end,
      file_bytes));
}

absl::Status CheckCounts(const Header& h, uint64_t file_bytes) {
  if (h.op_count > h.op_count_max) {
    return Corrupt("op_count", 54, h.op_count, "at most op_count_max");
  }
  // Android counts ops in 32 bits; it also keeps DataOffset far from overflow.
  if (h.op_count_max > uint64_t{UINT32_MAX} + 1) {
    return Corrupt("op_count_max", 62, h.op_count_max, "at most 2^32");
  }
  if (h.op_count > kOpsMax) {
    return absl::UnimplementedError(
        absl::StrFormat("the COW file has %u ops; at most %u can be served",
                        h.op_count, kOpsMax));
  }
  if (h.num_merge_ops > h.op_count) {
    return Corrupt("num_merge_ops", 26, h.num_merge_ops, "at most op_count");
  }
  // Every entry names another op. Bounds the product below as well.
  if (h.sequence_data_count > h.op_count) {
    return Corrupt("sequence_data_count", 38, h.sequence_data_count,
                   "at most op_count");
  }
  if (h.SequenceOffset() > file_bytes) {
    return Truncated("scratch region", h.SequenceOffset(), file_bytes);
  }
  // Without ops (and so without a sequence) nothing behind the scratch region
  // need have been written.
  if (h.op_count == 0) return absl::OkStatus();
  const uint64_t ops_end = h.OpsOffset() + kOpBytes * h.op_count;
  if (ops_end > file_bytes) return Truncated("op table", ops_end, file_bytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckHeader(ConstByteSpan bytes, uint64_t file_bytes) {
  if (absl::Status status = CheckIdentity(bytes); !status.ok()) return status;
  const Header header = DecodeHeader(bytes.data());
  if (absl::Status status = CheckFixedFields(header); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckCompression(header); !status.ok()) {
    return status;
  }
  return CheckCounts(header, file_bytes);
}

}  // namespace dmu::cow
