// SPDX-License-Identifier: Apache-2.0
//
// compressor.cc - one small class per compressor, over the system's libraries.
#include "daemon/cow/compressor.h"

#include <brotli/encode.h>
#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

class NoCompressor : public Compressor {
 private:
  uint32_t Encode(ConstByteSpan unit, ByteSpan out) override {
    if (out.size() < unit.size()) return 0;
    std::memcpy(out.data(), unit.data(), unit.size());
    return static_cast<uint32_t>(unit.size());
  }
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

 private:
  uint32_t Encode(ConstByteSpan unit, ByteSpan out) override {
    if (deflateReset(&stream_) != Z_OK) return 0;
    // zlib does not write through next_in.
    stream_.next_in = const_cast<Bytef*>(unit.data());
    stream_.avail_in = static_cast<uInt>(unit.size());
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    if (deflate(&stream_, Z_FINISH) != Z_STREAM_END) return 0;
    return static_cast<uint32_t>(stream_.total_out);
  }

  z_stream stream_ = {};
  bool ready_ = false;
};

class Lz4Compressor : public Compressor {
 public:
  Lz4Compressor() : state_(static_cast<size_t>(LZ4_sizeofState())) {}

 private:
  uint32_t Encode(ConstByteSpan unit, ByteSpan out) override {
    const int bytes = LZ4_compress_fast_extState(
        state_.data(), reinterpret_cast<const char*>(unit.data()),
        reinterpret_cast<char*>(out.data()), static_cast<int>(unit.size()),
        static_cast<int>(out.size()), /*acceleration=*/1);
    return bytes > 0 ? static_cast<uint32_t>(bytes) : 0;
  }

  std::vector<char> state_;  // operator new aligns it as lz4 asks (8)
};

class BrotliCompressor : public Compressor {
 public:
  explicit BrotliCompressor(int level) : level_(level) {}

 private:
  uint32_t Encode(ConstByteSpan unit, ByteSpan out) override {
    // Android asks for BROTLI_DEFAULT_WINDOW whatever the unit. A window is 16
    // bytes short of its power of two; one that holds the unit finds as much.
    const int window_log =
        std::clamp(static_cast<int>(std::bit_width(unit.size())),
                   BROTLI_MIN_WINDOW_BITS, BROTLI_DEFAULT_WINDOW);
    size_t bytes = out.size();
    const bool done =
        BrotliEncoderCompress(level_, window_log, BROTLI_MODE_GENERIC,
                              unit.size(), unit.data(), &bytes, out.data());
    return done ? static_cast<uint32_t>(bytes) : 0;
  }

  const int level_;
};

class ZstdCompressor : public Compressor {
 public:
  ~ZstdCompressor() override { ZSTD_freeCCtx(context_); }

  bool Init(const CompressionSpec& spec, uint32_t max_unit_bytes) {
    context_ = ZSTD_createCCtx();
    if (context_ == nullptr) return false;
    // A window larger than a unit would only cost the reader memory.
    const int window_log = std::bit_width(max_unit_bytes) - 1;
    return !ZSTD_isError(ZSTD_CCtx_setParameter(
               context_, ZSTD_c_compressionLevel, spec.level)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(context_, ZSTD_c_windowLog,
                                                window_log)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag,
                                                spec.frame_checksum ? 1 : 0));
  }

 private:
  uint32_t Encode(ConstByteSpan unit, ByteSpan out) override {
    // Starts a new frame in the same context, whatever became of the last one:
    // tables are neither allocated nor, mostly, cleared again.
    const size_t bytes = ZSTD_compress2(context_, out.data(), out.size(),
                                        unit.data(), unit.size());
    return ZSTD_isError(bytes) ? 0 : static_cast<uint32_t>(bytes);
  }

  ZSTD_CCtx* context_ = nullptr;
};

absl::StatusOr<CompressionSpec> ParseName(absl::string_view name) {
  if (name == "none") return CompressionSpec{Compression::kNone, 0};
  if (name == "gz") return CompressionSpec{Compression::kGz, 9};
  if (name == "brotli") return CompressionSpec{Compression::kBrotli, 11};
  if (name == "lz4") return CompressionSpec{Compression::kLz4, 0};
  if (name == "zstd") return CompressionSpec{Compression::kZstd, 3};
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown compression \"", name, "\"; use none, gz, brotli, lz4 or zstd"));
}

absl::Status CheckLevel(const CompressionSpec& spec) {
  int low = 0;
  int high = 0;
  switch (spec.compression) {
    case Compression::kGz:
      low = 1;
      high = 9;
      break;
    case Compression::kBrotli:
      low = BROTLI_MIN_QUALITY;
      high = BROTLI_MAX_QUALITY;
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

uint32_t Compressor::Compress(ConstByteSpan unit, ByteSpan out) {
  DMU_CHECK(!unit.empty() && out.size() >= unit.size());
  return Encode(unit, out.first(unit.size() - 1));
}

uint32_t Compressor::CompressAlways(ConstByteSpan unit, ByteSpan out) {
  DMU_CHECK(!unit.empty() && unit.size() <= kUnitBytesMax);
  DMU_CHECK(out.size() >= BoundBytes(static_cast<uint32_t>(unit.size())));
  return Encode(unit, out);
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
      if (!compressor->Init(spec, max_unit_bytes)) return nullptr;
      return compressor;
    }
    case Compression::kBrotli:
      return std::make_unique<BrotliCompressor>(spec.level);
  }
  return nullptr;
}

}  // namespace dmu::cow
