// SPDX-License-Identifier: Apache-2.0
//
// sparse_map.cc - see sparse_map.h.
#include "tools/sparse_map.h"

#include <zlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kMagic = 0xed26ff3a;
constexpr uint16_t kMajorVersion = 1;
constexpr uint32_t kHeaderBytes = 28;
constexpr uint32_t kChunkHeaderBytes = 12;
constexpr uint32_t kFillBytes = 4;

enum ChunkType : uint16_t {
  kRaw = 0xcac1,
  kFill = 0xcac2,
  kDontCare = 0xcac3,
  kCrc32 = 0xcac4,
};

struct Chunk {
  uint16_t type;
  uint32_t blocks;
  uint32_t bytes;  // in the file, with its header
};

// The checksum of `count` times the bytes that have `crc`: the count may be
// that of a hole of terabytes.
uint32_t CrcOfRepeated(uLong crc, uint64_t bytes, uint64_t count) {
  uLong sum = crc32(0, nullptr, 0);
  for (; count > 0; count >>= 1) {
    if ((count & 1) != 0) {
      sum = crc32_combine(sum, crc, static_cast<z_off_t>(bytes));
    }
    crc = crc32_combine(crc, crc, static_cast<z_off_t>(bytes));
    bytes *= 2;
  }
  return static_cast<uint32_t>(sum);
}

}  // namespace

// Walks over a file's chunks once.
class SparseParser {
 public:
  SparseParser(const File& file, bool with_sums)
      : file_(file), with_sums_(with_sums) {}

  absl::StatusOr<SparseMap> Parse() {
    absl::Status status = Header();
    for (number_ = 0; status.ok() && number_ < chunks_; ++number_) {
      status = NextChunk();
    }
    if (!status.ok()) return status;
    if (blocks_ != map_.blocks_) {
      return Bad(absl::StrCat("its ", chunks_, " chunks are ", blocks_,
                              " blocks; expected ", map_.blocks_));
    }
    if (at_ != file_.size_bytes()) {
      return Bad(absl::StrCat("the last chunk ends at ", at_, ", the file has ",
                              file_.size_bytes(), " bytes"));
    }
    return std::move(map_);
  }

  bool has_sums() const { return has_sums_; }

 private:
  absl::Status Bad(const std::string& what) const {
    return absl::DataLossError(
        absl::StrCat(file_.path(), " is a damaged sparse image: ", what));
  }
  absl::Status BadChunk(const std::string& what) const {
    return Bad(absl::StrCat("chunk ", number_, " at offset ", at_, " ", what));
  }

  absl::Status Header() {
    uint8_t bytes[kHeaderBytes];
    if (file_.size_bytes() < sizeof(bytes)) {
      return Bad(absl::StrCat("it has ", file_.size_bytes(),
                              " bytes; its header alone has ", kHeaderBytes));
    }
    absl::Status status = file_.ReadAt(0, bytes);
    if (!status.ok()) return status;
    const uint32_t magic = LoadLe<uint32_t>(bytes);
    if (magic != kMagic) {
      return Bad(
          absl::StrFormat("it begins with %08x; expected %08x", magic, kMagic));
    }
    const uint16_t major = LoadLe<uint16_t>(bytes + 4);
    if (major != kMajorVersion) {
      return absl::UnimplementedError(absl::StrCat(
          file_.path(), ": a sparse image of version ", major, ".",
          LoadLe<uint16_t>(bytes + 6), "; served is ", kMajorVersion));
    }
    const uint16_t header_bytes = LoadLe<uint16_t>(bytes + 8);
    chunk_header_bytes_ = LoadLe<uint16_t>(bytes + 10);
    if (header_bytes < kHeaderBytes ||
        chunk_header_bytes_ < kChunkHeaderBytes) {
      return Bad(absl::StrCat("its headers have ", header_bytes, " and ",
                              chunk_header_bytes_, " bytes; expected ",
                              kHeaderBytes, " and ", kChunkHeaderBytes,
                              ", or more"));
    }
    map_.block_bytes_ = LoadLe<uint32_t>(bytes + 12);
    map_.blocks_ = LoadLe<uint32_t>(bytes + 16);
    chunks_ = LoadLe<uint32_t>(bytes + 20);
    // The sum at 24 is 0 in all files, whoever writes them.
    if (map_.block_bytes_ == 0 || map_.block_bytes_ % kFillBytes != 0) {
      return Bad(absl::StrCat("its blocks have ", map_.block_bytes_,
                              " bytes; expected a multiple of ", kFillBytes));
    }
    if (map_.size_bytes() > INT64_MAX) {
      return Bad(absl::StrCat("it stands for ", map_.size_bytes(),
                              " bytes; no file can have them"));
    }
    at_ = header_bytes;
    return absl::OkStatus();
  }

  uint64_t Left() const {
    return at_ < file_.size_bytes() ? file_.size_bytes() - at_ : 0;
  }

  absl::Status NextChunk() {
    uint8_t bytes[kChunkHeaderBytes];
    if (Left() < chunk_header_bytes_) {
      return BadChunk(absl::StrCat("is cut: ", Left(), " bytes are left, its ",
                                   "header has ", chunk_header_bytes_));
    }
    absl::Status status = file_.ReadAt(at_, bytes);
    if (!status.ok()) return status;
    const Chunk chunk = {LoadLe<uint16_t>(bytes), LoadLe<uint32_t>(bytes + 4),
                         LoadLe<uint32_t>(bytes + 8)};
    status = Check(chunk);
    if (status.ok()) status = Take(chunk);
    at_ += chunk.bytes;
    return status;
  }

  // Sizes alone; nothing of the data is read.
  absl::Status Check(const Chunk& chunk) const {
    uint64_t data_bytes = 0;
    switch (chunk.type) {
      case kRaw:
        data_bytes = uint64_t{chunk.blocks} * map_.block_bytes_;
        break;
      case kFill:
      case kCrc32:
        data_bytes = kFillBytes;
        break;
      case kDontCare:
        break;
      default:
        return BadChunk(absl::StrFormat("has type %04x; expected cac1 to cac4",
                                        chunk.type));
    }
    if (chunk.bytes != chunk_header_bytes_ + data_bytes) {
      return BadChunk(absl::StrCat("has ", chunk.bytes, " bytes; expected ",
                                   chunk_header_bytes_ + data_bytes));
    }
    if (chunk.bytes > Left()) {
      return BadChunk(absl::StrCat("is cut: it has ", chunk.bytes, " bytes, ",
                                   Left(), " are left"));
    }
    if (chunk.type == kCrc32 && chunk.blocks != 0) {
      return BadChunk(absl::StrCat("is a checksum of ", chunk.blocks,
                                   " blocks; expected none"));
    }
    if (chunk.blocks > map_.blocks_ - blocks_) {
      return BadChunk(absl::StrCat("has ", chunk.blocks, " blocks, from ",
                                   blocks_, " on; the image has ",
                                   map_.blocks_));
    }
    return absl::OkStatus();
  }

  absl::Status Take(const Chunk& chunk) {
    const uint64_t data_at = at_ + chunk_header_bytes_;
    const uint64_t image_bytes = uint64_t{chunk.blocks} * map_.block_bytes_;
    uint8_t pattern[kFillBytes] = {};
    absl::Status status;
    if (chunk.type == kFill || chunk.type == kCrc32) {
      status = file_.ReadAt(data_at, pattern);
      if (!status.ok()) return status;
    }
    switch (chunk.type) {
      case kRaw:
        Add(chunk.blocks, data_at, /*is_fill=*/false);
        if (with_sums_) status = SumData(data_at, image_bytes);
        break;
      case kFill:
      case kDontCare: {
        Add(chunk.blocks, LoadLe<uint32_t>(pattern), /*is_fill=*/true);
        if (!with_sums_) break;
        const uint32_t sum =
            CrcOfRepeated(crc32(0, pattern, kFillBytes), kFillBytes,
                          image_bytes / kFillBytes);
        sum_ = static_cast<uint32_t>(
            crc32_combine(sum_, sum, static_cast<z_off_t>(image_bytes)));
        break;
      }
      default:
        has_sums_ = true;
        if (with_sums_ && LoadLe<uint32_t>(pattern) != sum_) {
          return BadChunk(absl::StrFormat(
              "says that the %u blocks before it have checksum %08x; found "
              "%08x",
              blocks_, LoadLe<uint32_t>(pattern), sum_));
        }
    }
    blocks_ += chunk.blocks;
    return status;
  }

  void Add(uint32_t blocks, uint64_t value, bool is_fill) {
    if (blocks == 0) return;
    if (!map_.pieces_.empty()) {
      const SparseMap::Piece& last = map_.pieces_.back();
      if (is_fill && last.is_fill && last.value == value) return;
    }
    map_.pieces_.push_back({value, blocks_, is_fill});
  }

  absl::Status SumData(uint64_t offset, uint64_t bytes) {
    buffer_.resize(1 << 20);
    for (uint64_t done = 0; done < bytes;) {
      const size_t part = std::min<uint64_t>(buffer_.size(), bytes - done);
      absl::Status status =
          file_.ReadAt(offset + done, ByteSpan(buffer_.data(), part));
      if (!status.ok()) return status;
      sum_ = static_cast<uint32_t>(
          crc32(sum_, buffer_.data(), static_cast<uInt>(part)));
      done += part;
    }
    return absl::OkStatus();
  }

  const File& file_;
  const bool with_sums_;
  SparseMap map_;
  uint32_t chunk_header_bytes_ = 0;
  uint32_t chunks_ = 0;
  uint32_t number_ = 0;
  uint32_t blocks_ = 0;  // of the chunks so far
  uint64_t at_ = 0;      // offset in the file
  bool has_sums_ = false;
  uint32_t sum_ = 0;  // of the image so far
  std::vector<uint8_t> buffer_;
};

absl::StatusOr<bool> SparseMap::IsSparse(const File& file) {
  uint8_t bytes[4];
  if (file.is_block_device() || file.size_bytes() < sizeof(bytes)) return false;
  absl::Status status = file.ReadAt(0, bytes);
  if (!status.ok()) return status;
  return LoadLe<uint32_t>(bytes) == kMagic;
}

absl::StatusOr<SparseMap> SparseMap::Load(const File& file) {
  SparseParser parser(file, /*with_sums=*/false);
  absl::StatusOr<SparseMap> map = parser.Parse();
  if (!map.ok() || !parser.has_sums()) return map;
  // Only few files have sums, and they cost reading everything.
  return SparseParser(file, /*with_sums=*/true).Parse();
}

size_t SparseMap::PieceAt(uint64_t block) const {
  const auto after = std::upper_bound(pieces_.begin(), pieces_.end(), block,
                                      [](uint64_t wanted, const Piece& piece) {
                                        return wanted < piece.first_block;
                                      });
  DMU_CHECK(after != pieces_.begin());
  return static_cast<size_t>(after - pieces_.begin()) - 1;
}

uint64_t SparseMap::EndOf(size_t piece) const {
  const uint64_t end =
      piece + 1 < pieces_.size() ? pieces_[piece + 1].first_block : blocks_;
  return end * block_bytes_;
}

absl::Status SparseMap::ReadAt(const File& file, uint64_t offset,
                               ByteSpan out) const {
  DMU_CHECK(offset <= size_bytes() && out.size() <= size_bytes() - offset);
  if (out.empty()) return absl::OkStatus();
  for (size_t at = PieceAt(offset / block_bytes_); !out.empty(); ++at) {
    const Piece& piece = pieces_[at];
    const size_t bytes = std::min<uint64_t>(out.size(), EndOf(at) - offset);
    if (piece.is_fill) {
      uint8_t pattern[kFillBytes];
      StoreLe<uint32_t>(pattern, static_cast<uint32_t>(piece.value));
      for (size_t i = 0; i < bytes; ++i) {
        out[i] = pattern[(offset + i) % kFillBytes];
      }
    } else {
      const uint64_t begin = uint64_t{piece.first_block} * block_bytes_;
      absl::Status status =
          file.ReadAt(piece.value + (offset - begin), out.first(bytes));
      if (!status.ok()) return status;
    }
    offset += bytes;
    out = out.subspan(bytes);
  }
  return absl::OkStatus();
}

uint64_t SparseMap::ZerosAt(uint64_t offset) const {
  const size_t at = PieceAt(offset / block_bytes_);
  const Piece& piece = pieces_[at];
  return piece.is_fill && piece.value == 0 ? EndOf(at) - offset : 0;
}

}  // namespace dmu::tools
