// SPDX-License-Identifier: Apache-2.0
//
// codec.cc - one small class per compressor, over the system's libraries.
#include "daemon/cow/codec.h"

#include <brotli/decode.h>
#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <cstring>
#include <new>

#include "daemon/base/bytes.h"
#include "daemon/cow/decoder_arena.h"

namespace dmu::cow {
namespace {

// zlib keeps its state (about 7 KiB) and its window (32 KiB) over inflateReset,
// so it never asks for more than these two.
constexpr size_t kGzArenaBytes = 64 * 1024;

// What brotli's decoder holds at once for any valid stream of a unit, by the
// format's limits: 256 literal trees (2536 bytes each in libbrotli 1.0), 256
// command trees (4328) and 256 distance trees (3816 at most), which live for
// one meta-block, are 2.6 MiB; the ring buffer, which is made no larger than
// what the stream says will come, 256 KiB, and half of that while it grows;
// state and context maps, 35 KiB. The ring stays where the first meta-block
// left it, so a tree group may find both gaps around it too small by a byte:
// one more group of 1.1 MiB is room for any order. Encoders stay far below
// (0.9 MiB for data made to need many trees, 0.45 for files), and only what is
// used is touched. A stream that announces more than a unit does not fit, and
// is corrupt anyway.
constexpr size_t kBrotliArenaBytes = 4608 * 1024;

IoStatus DecodeRaw(ConstByteSpan stored, ByteSpan out) {
  if (stored.size() != out.size()) return IoStatus::kCorrupt;
  if (stored.data() != out.data()) {
    std::memmove(out.data(), stored.data(), out.size());
  }
  return IoStatus::kOk;
}

IoStatus DecodeLz4(ConstByteSpan stored, ByteSpan out) {
  // Uses all of its input or fails.
  const int bytes = LZ4_decompress_safe(
      reinterpret_cast<const char*>(stored.data()),
      reinterpret_cast<char*>(out.data()), static_cast<int>(stored.size()),
      static_cast<int>(out.size()));
  return bytes >= 0 && static_cast<size_t>(bytes) == out.size()
             ? IoStatus::kOk
             : IoStatus::kCorrupt;
}

}  // namespace

class Codec::Gz {
 public:
  ~Gz() {
    if (ready_) inflateEnd(&stream_);
  }

  bool Init() {
    // zlib allocates its window late, and only for a stream that does not end
    // where it should: from the arena a bad unit takes no more than a good one.
    stream_.zalloc = [](voidpf self, uInt items, uInt size) -> voidpf {
      return static_cast<Gz*>(self)->arena_.Allocate(size_t{items} * size);
    };
    stream_.zfree = [](voidpf self, voidpf memory) {
      static_cast<Gz*>(self)->arena_.Free(memory);
    };
    stream_.opaque = this;
    // A zlib stream (not gzip) with the largest window, as Android writes it.
    ready_ = inflateInit2(&stream_, MAX_WBITS) == Z_OK;
    return ready_;
  }

  IoStatus Decode(ConstByteSpan stored, ByteSpan out) {
    if (inflateReset(&stream_) != Z_OK) return IoStatus::kCorrupt;
    // zlib does not write through next_in.
    stream_.next_in = const_cast<Bytef*>(stored.data());
    stream_.avail_in = static_cast<uInt>(stored.size());
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    const int result = inflate(&stream_, Z_FINISH);
    const bool whole = result == Z_STREAM_END && stream_.avail_in == 0 &&
                       stream_.avail_out == 0;
    return whole ? IoStatus::kOk : IoStatus::kCorrupt;
  }

 private:
  z_stream stream_ = {};
  bool ready_ = false;
  DecoderArena<kGzArenaBytes> arena_;
};

class Codec::Brotli {
 public:
  IoStatus Decode(ConstByteSpan stored, ByteSpan out) {
    // The library's decoder serves one stream. A new one is 5 KiB of the arena.
    arena_.Reset();
    BrotliDecoderState* state = BrotliDecoderCreateInstance(
        [](void* self, size_t bytes) {
          return static_cast<Brotli*>(self)->arena_.Allocate(bytes);
        },
        [](void* self, void* memory) {
          static_cast<Brotli*>(self)->arena_.Free(memory);
        },
        this);
    if (state == nullptr) return IoStatus::kCorrupt;
    // "Large window" streams are not of the format (RFC 7932) and name windows
    // of up to 1 GiB. Refused is the library's default too.
    BrotliDecoderSetParameter(state, BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
    size_t in_left = stored.size();
    const uint8_t* in = stored.data();
    size_t out_left = out.size();
    uint8_t* next = out.data();
    const BrotliDecoderResult result = BrotliDecoderDecompressStream(
        state, &in_left, &in, &out_left, &next, nullptr);
    BrotliDecoderDestroyInstance(state);
    const bool whole = result == BROTLI_DECODER_RESULT_SUCCESS &&
                       in_left == 0 && out_left == 0;
    return whole ? IoStatus::kOk : IoStatus::kCorrupt;
  }

 private:
  DecoderArena<kBrotliArenaBytes> arena_;
};

class Codec::Zstd {
 public:
  ~Zstd() { ZSTD_freeDCtx(context_); }

  bool Init() {
    context_ = ZSTD_createDCtx();
    return context_ != nullptr;
  }

  IoStatus Decode(ConstByteSpan stored, ByteSpan out) {
    // Frames of formats before 0.8, which the library may also decode, make it
    // allocate; skippable ones give nothing.
    if (stored.size() < 4 ||
        LoadLe<uint32_t>(stored.data()) != ZSTD_MAGICNUMBER) {
      return IoStatus::kCorrupt;
    }
    // Decoding in one call works in `out` and needs no window of its own,
    // whatever window the frame asks for. It also takes several frames, which
    // is not what a unit is.
    const size_t frame =
        ZSTD_findFrameCompressedSize(stored.data(), stored.size());
    if (ZSTD_isError(frame) || frame != stored.size()) {
      return IoStatus::kCorrupt;
    }
    const size_t bytes = ZSTD_decompressDCtx(context_, out.data(), out.size(),
                                             stored.data(), stored.size());
    return !ZSTD_isError(bytes) && bytes == out.size() ? IoStatus::kOk
                                                       : IoStatus::kCorrupt;
  }

 private:
  ZSTD_DCtx* context_ = nullptr;
};

Codec::Codec() = default;
Codec::~Codec() = default;

std::unique_ptr<Codec> Codec::Create(CompressionSet set) {
  constexpr CompressionSet kServed =
      CompressionBit(Compression::kNone) | CompressionBit(Compression::kGz) |
      CompressionBit(Compression::kBrotli) | CompressionBit(Compression::kLz4) |
      CompressionBit(Compression::kZstd);
  if ((set & ~kServed) != 0) return nullptr;
  std::unique_ptr<Codec> codec(new (std::nothrow) Codec);
  if (codec == nullptr) return nullptr;
  codec->lz4_ = (set & CompressionBit(Compression::kLz4)) != 0;
  // `new T` and not `new T()`: the latter would write zeros over the arenas.
  if ((set & CompressionBit(Compression::kGz)) != 0) {
    codec->gz_.reset(new (std::nothrow) Gz);
    if (codec->gz_ == nullptr || !codec->gz_->Init()) return nullptr;
  }
  if ((set & CompressionBit(Compression::kBrotli)) != 0) {
    codec->brotli_.reset(new (std::nothrow) Brotli);
    if (codec->brotli_ == nullptr) return nullptr;
  }
  if ((set & CompressionBit(Compression::kZstd)) != 0) {
    codec->zstd_.reset(new (std::nothrow) Zstd);
    if (codec->zstd_ == nullptr || !codec->zstd_->Init()) return nullptr;
  }
  return codec;
}

IoStatus Codec::Decode(Compression compression, ConstByteSpan stored,
                       ByteSpan out) {
  // Longer ones do not fit what the libraries count with.
  if (stored.empty() || stored.size() > kStoredBytesMax || out.empty() ||
      out.size() > kUnitBytesMax) {
    return IoStatus::kCorrupt;
  }
  switch (compression) {
    case Compression::kNone:
      return DecodeRaw(stored, out);
    case Compression::kGz:
      if (gz_ != nullptr) return gz_->Decode(stored, out);
      break;
    case Compression::kBrotli:
      if (brotli_ != nullptr) return brotli_->Decode(stored, out);
      break;
    case Compression::kLz4:
      if (lz4_) return DecodeLz4(stored, out);
      break;
    case Compression::kZstd:
      if (zstd_ != nullptr) return zstd_->Decode(stored, out);
      break;
  }
  return IoStatus::kCorrupt;
}

IoStatus DecodeUnit(Codec* codec, Compression compression, ConstByteSpan stored,
                    ByteSpan out) {
  if (compression == Compression::kNone) return DecodeRaw(stored, out);
  if (codec == nullptr) return IoStatus::kCorrupt;
  return codec->Decode(compression, stored, out);
}

}  // namespace dmu::cow
