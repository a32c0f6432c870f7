// SPDX-License-Identifier: Apache-2.0
//
// compressor.cc - one small class per compressor, over the system's libraries.
#include "daemon/cow/compressor.h"

#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <bit>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

class NoCompressor : public Compressor {
 public:
  uint32_t Compress(ConstByteSpan, ByteSpan) override { return 0; }
};

class GzCompressor : public Compressor {
 public:
  ~GzCompressor() override {
    if (ready_) deflateEnd(&stream_);
  }

  bool Init(int level) {
    ready_ = deflateInit(&stream_, level) == Z_OK;
    return ready_;
  }

  uint32_t Compress(ConstByteSpan unit, ByteSpan out) override {
    if (deflateReset(&stream_) != Z_OK) return 0;
    // zlib does not write through next_in.
    stream_.next_in = const_cast<Bytef*>(unit.data());
    stream_.avail_in = static_cast<uInt>(unit.size());
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(unit.size() - 1);
    if (deflate(&stream_, Z_FINISH) != Z_STREAM_END) return 0;
    return static_cast<uint32_t>(stream_.total_out);
  }

 private:
  z_stream stream_ = {};
  bool ready_ = false;
};

class Lz4Compressor : public Compressor {
 public:
  Lz4Compressor() : state_(static_cast<size_t>(LZ4_sizeofState())) {}

  uint32_t Compress(ConstByteSpan unit, ByteSpan out) override {
    const int bytes = LZ4_compress_fast_extState(
        state_.data(), reinterpret_cast<const char*>(unit.data()),
        reinterpret_cast<char*>(out.data()), static_cast<int>(unit.size()),
        static_cast<int>(unit.size() - 1), /*acceleration=*/1);
    return bytes > 0 ? static_cast<uint32_t>(bytes) : 0;
  }

 private:
  std::vector<char> state_;  // operator new aligns it as lz4 asks (8)
};

class ZstdCompressor : public Compressor {
 public:
  ~ZstdCompressor() override { ZSTD_freeCCtx(context_); }

  bool Init(int level, uint32_t max_unit_bytes) {
    context_ = ZSTD_createCCtx();
    if (context_ == nullptr) return false;
    // A window larger than a unit would only cost the reader memory.
    const int window_log = std::bit_width(max_unit_bytes) - 1;
    // Four bytes per unit, which every zstd reader checks: damage is an error
    // then and not other data.
    return !ZSTD_isError(ZSTD_CCtx_setParameter(
               context_, ZSTD_c_compressionLevel, level)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(context_, ZSTD_c_windowLog,
                                                window_log)) &&
           !ZSTD_isError(
               ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 1));
  }

  uint32_t Compress(ConstByteSpan unit, ByteSpan out) override {
    const size_t bytes = ZSTD_compress2(context_, out.data(), unit.size() - 1,
                                        unit.data(), unit.size());
    return ZSTD_isError(bytes) ? 0 : static_cast<uint32_t>(bytes);
  }

 private:
  ZSTD_CCtx* context_ = nullptr;
};

absl::StatusOr<CompressionSpec> ParseName(absl::string_view name) {
  if (name == "none") return CompressionSpec{Compression::kNone, 0};
  if (name == "gz") return CompressionSpec{Compression::kGz, 9};
  if (name == "lz4") return CompressionSpec{Compression::kLz4, 0};
  if (name == "zstd") return CompressionSpec{Compression::kZstd, 3};
  if (name == "brotli") {
    return absl::UnimplementedError(
        "compression brotli is not written; use none, gz, lz4 or zstd");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown compression \"", name, "\"; use none, gz, lz4 or zstd"));
}

absl::Status CheckLevel(const CompressionSpec& spec) {
  int low = 0;
  int high = 0;
  switch (spec.compression) {
    case Compression::kGz:
      low = 1;
      high = 9;
      break;
    case Compression::kZstd:
      low = ZSTD_minCLevel();
      high = ZSTD_maxCLevel();
      break;
    case Compression::kLz4:
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("compression none takes no level");
  }
  if (spec.level >= low && spec.level <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("compression level ", spec.level, " is not from ", low,
                   " to ", high, " (", CompressionName(spec.compression), ")"));
}

}  // namespace

absl::StatusOr<CompressionSpec> ParseCompression(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ',');
  absl::StatusOr<CompressionSpec> spec = ParseName(parts[0]);
  if (!spec.ok() || parts.size() == 1) return spec;
  if (parts.size() > 2 || !absl::SimpleAtoi(parts[1], &spec->level)) {
    return absl::InvalidArgumentError(
        absl::StrCat("compression \"", text, "\" is not NAME or NAME,LEVEL"));
  }
  if (absl::Status status = CheckLevel(*spec); !status.ok()) return status;
  return spec;
}

std::unique_ptr<Compressor> Compressor::Create(const CompressionSpec& spec,
                                               uint32_t max_unit_bytes) {
  DMU_CHECK(max_unit_bytes >= kBlockBytes && max_unit_bytes <= kUnitBytesMax);
  switch (spec.compression) {
    case Compression::kNone:
      return std::make_unique<NoCompressor>();
    case Compression::kGz: {
      auto compressor = std::make_unique<GzCompressor>();
      if (!compressor->Init(spec.level)) return nullptr;
      return compressor;
    }
    case Compression::kLz4:
      return std::make_unique<Lz4Compressor>();
    case Compression::kZstd: {
      auto compressor = std::make_unique<ZstdCompressor>();
      if (!compressor->Init(spec.level, max_unit_bytes)) return nullptr;
      return compressor;
    }
    case Compression::kBrotli:
      break;
  }
  return nullptr;
}

}  // namespace dmu::cow
