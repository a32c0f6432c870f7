// SPDX-License-Identifier: Apache-2.0
//
// header_check.cc - see header_check.h. Order: what the file is (magic,
// version), then the fixed fields, then the counts that lay out the file.
#include "daemon/cow/header_check.h"

#include <bit>
#include <cstring>

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

absl::Status CheckIdentity(ConstByteSpan bytes, uint16_t* header_size) {
  if (bytes.size() < kPrefixBytes) {
    return absl::DataLossError(
        absl::StrFormat("not a COW file: it has %u bytes, a header has %u or "
                        "more",
                        bytes.size(), kHeaderBytesV1));
  }
  const uint64_t magic = LoadLe<uint64_t>(bytes.data());
  if (magic != kMagic) {
    return absl::DataLossError(absl::StrFormat(
        "not a COW file: it begins with %016x, expected %016x", magic, kMagic));
  }
  const auto major = LoadLe<uint16_t>(bytes.data() + 8);
  const auto minor = LoadLe<uint16_t>(bytes.data() + 10);
  if (major < 1 || major > 3 || minor != 0) {
    return absl::UnimplementedError(absl::StrFormat(
        "the COW file has format version %u.%u; versions 1.0, 2.0 and 3.0 can "
        "be read",
        major, minor));
  }
  *header_size = major == 1   ? kHeaderBytesV1
                 : major == 2 ? kHeaderBytesV2
                              : kHeaderBytesV3;
  const auto stated = LoadLe<uint16_t>(bytes.data() + 12);
  if (stated != *header_size) {
    return absl::DataLossError(absl::StrFormat(
        "header field header_size at offset 12 is %u, expected %u for version "
        "%u; the file is corrupt",
        stated, *header_size, major));
  }
  if (bytes.size() < *header_size) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is truncated: it has %u bytes, its header alone has %u",
        bytes.size(), *header_size));
  }
  return absl::OkStatus();
}

absl::Status CheckFixedFields(const Header& h) {
  if (h.footer_size != (h.is_v3() ? 0 : kFooterBytes)) {
    return Corrupt("footer_size", 14, h.footer_size, h.is_v3() ? "0" : "84");
  }
  if (h.op_size != (h.is_v3() ? kOpBytesV3 : kOpBytesV2)) {
    return Corrupt("op_size", 16, h.op_size, h.is_v3() ? "16" : "20");
  }
  if (h.block_size != kBlockBytes) {
    if (h.block_size >= kSectorBytes && std::has_single_bit(h.block_size)) {
      return absl::UnimplementedError(absl::StrFormat(
          "the COW file uses blocks of %u bytes; only blocks of %u bytes can "
          "be read",
          h.block_size, kBlockBytes));
    }
    return Corrupt("block_size", 18, h.block_size, "4096");
  }
  if (h.is_v3() && h.cluster_ops != 0) {
    return Corrupt("cluster_ops", 22, h.cluster_ops, "0");
  }
  // One slot would be all cluster op.
  if (h.cluster_ops == 1) {
    return Corrupt("cluster_ops", 22, h.cluster_ops, "0 or more than 1");
  }
  if (h.buffer_size != 0 && h.buffer_size != kScratchBytes) {
    return Corrupt("buffer_size", 34, h.buffer_size, "0 or 2097152");
  }
  return absl::OkStatus();
}

absl::Status CheckCompression(const Header& h) {
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
  // Without ops (and so without a sequence) nothing behind the scratch region
  // need have been written.
  if (h.op_count == 0) return absl::OkStatus();
  const uint64_t ops_end = h.OpsOffset() + kOpBytesV3 * h.op_count;
  if (ops_end > file_bytes) return Truncated("op table", ops_end, file_bytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckHeader(ConstByteSpan bytes, uint64_t file_bytes,
                         Header* header) {
  uint16_t header_size = 0;
  if (absl::Status status = CheckIdentity(bytes, &header_size); !status.ok()) {
    return status;
  }
  uint8_t padded[kHeaderBytesMax] = {};
  std::memcpy(padded, bytes.data(), header_size);
  *header = DecodeHeader(padded);
  if (absl::Status status = CheckFixedFields(*header); !status.ok()) {
    return status;
  }
  if (header->SequenceOffset() > file_bytes) {
    return Truncated("scratch region", header->SequenceOffset(), file_bytes);
  }
  if (!header->is_v3()) return absl::OkStatus();
  if (absl::Status status = CheckCompression(*header); !status.ok()) {
    return status;
  }
  return CheckCounts(*header, file_bytes);
}

}  // namespace dmu::cow
