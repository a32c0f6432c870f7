// SPDX-License-Identifier: Apache-2.0
//
// codec.cc - one small class per compressor, over the system's libraries.
#include "daemon/cow/codec.h"

#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <cstring>
#include <new>

namespace dmu::cow {
namespace {

class NoCodec : public Codec {
 public:
  IoStatus Decode(ConstByteSpan, ByteSpan) override {
    return IoStatus::kCorrupt;
  }
};

class GzCodec : public Codec {
 public:
  ~GzCodec() override {
    if (ready_) inflateEnd(&stream_);
  }

  bool Init() {
    stream_.zalloc = &GzCodec::Allocate;
    stream_.zfree = [](voidpf, voidpf) {};
    stream_.opaque = this;
    // A zlib stream (not gzip) with the largest window, as Android writes it.
    ready_ = inflateInit2(&stream_, MAX_WBITS) == Z_OK;
    return ready_;
  }

  IoStatus Decode(ConstByteSpan stored, ByteSpan out) override {
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
  // zlib allocates its window late, and only for a stream that does not end
  // where it should. It gets it from here, so that a bad unit allocates no more
  // than a good one. State (about 7 KiB) and window (32 KiB) are kept over
  // inflateReset, so the arena is never asked for more than these two.
  static voidpf Allocate(voidpf opaque, uInt items, uInt size) {
    auto* self = static_cast<GzCodec*>(opaque);
    const size_t bytes = (size_t{items} * size + 15) & ~size_t{15};
    if (bytes > sizeof(self->arena_) - self->arena_used_) return nullptr;
    void* memory = self->arena_ + self->arena_used_;
    self->arena_used_ += bytes;
    return memory;
  }

  z_stream stream_ = {};
  bool ready_ = false;
  size_t arena_used_ = 0;
  // Not initialised, so that pages nobody uses are not touched.
  alignas(16) uint8_t arena_[64 * 1024];
};

class Lz4Codec : public Codec {
 public:
  IoStatus Decode(ConstByteSpan stored, ByteSpan out) override {
    // Uses all of its input or fails.
    const int bytes = LZ4_decompress_safe(
        reinterpret_cast<const char*>(stored.data()),
        reinterpret_cast<char*>(out.data()), static_cast<int>(stored.size()),
        static_cast<int>(out.size()));
    return bytes >= 0 && static_cast<size_t>(bytes) == out.size()
               ? IoStatus::kOk
               : IoStatus::kCorrupt;
  }
};

class ZstdCodec : public Codec {
 public:
  ~ZstdCodec() override { ZSTD_freeDCtx(context_); }

  bool Init() {
    context_ = ZSTD_createDCtx();
    return context_ != nullptr;
  }

  IoStatus Decode(ConstByteSpan stored, ByteSpan out) override {
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

template <typename T>
std::unique_ptr<Codec> CreateWithInit() {
  // Default-initialised on purpose: see arena_.
  std::unique_ptr<T> codec(new (std::nothrow) T);
  if (codec == nullptr || !codec->Init()) return nullptr;
  return codec;
}

}  // namespace

std::unique_ptr<Codec> Codec::Create(Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return std::unique_ptr<Codec>(new (std::nothrow) NoCodec);
    case Compression::kGz:
      return CreateWithInit<GzCodec>();
    case Compression::kLz4:
      return std::unique_ptr<Codec>(new (std::nothrow) Lz4Codec);
    case Compression::kZstd:
      return CreateWithInit<ZstdCodec>();
    case Compression::kBrotli:
      break;
  }
  return nullptr;
}

IoStatus DecodeUnit(Codec* codec, ConstByteSpan stored, ByteSpan out) {
  if (stored.size() == out.size()) {
    std::memcpy(out.data(), stored.data(), out.size());
    return IoStatus::kOk;
  }
  // A unit that grew would have been stored raw, and lengths above this do not
  // fit what the libraries count with.
  if (stored.empty() || stored.size() > kUnitBytesMax || codec == nullptr) {
    return IoStatus::kCorrupt;
  }
  return codec->Decode(stored, out);
}

}  // namespace dmu::cow
