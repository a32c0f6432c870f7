// SPDX-License-Identifier: Apache-2.0
//
// Goal: what is compressed comes back; what is not a whole, exact stream is
// refused, without a byte outside the unit and without taking memory.
// Method: every compressor, unit size and kind of data; then truncations,
// extensions and many random damages, with guard bytes behind the unit; then
// the streams that are special to one format.
#include <brotli/encode.h>
#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "daemon/cow/codec.h"
#include "daemon/cow/compressor.h"
#include "daemon/cow/decoder_arena.h"
#include "gtest/gtest.h"

namespace dmu::cow {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;

Bytes Data(const std::string& kind, size_t bytes) {
  Bytes data(bytes, 0);
  std::mt19937 random(static_cast<uint32_t>(bytes));
  if (kind == "text") {
    const std::string line = "a line of a configuration file = value 0123\n";
    for (size_t i = 0; i < bytes; ++i) {
      data[i] = static_cast<uint8_t>(line[i % line.size()]);
      if (i % 61 == 0) data[i] = static_cast<uint8_t>('a' + random() % 26);
    }
  } else if (kind == "many trees") {
    // Pieces of different distributions: brotli gives each a tree of its own.
    for (size_t i = 0; i < bytes; ++i) {
      static constexpr size_t kPieceBytes = 512;
      const auto piece = static_cast<uint32_t>(i / kPieceBytes) * 2654435761u;
      data[i] = static_cast<uint8_t>((piece >> 24) +
                                     random() % (1 + (piece >> 8) % 40) *
                                         (1 + random() % 3));
    }
  } else if (kind == "random") {
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  }
  return data;
}

Bytes CompressAlways(const char* compression, const Bytes& data) {
  const auto spec = ParseCompression(compression);
  if (!spec.ok()) return {};
  const auto unit_bytes = static_cast<uint32_t>(data.size());
  const auto compressor = Compressor::Create(*spec, unit_bytes);
  Bytes stored(Compressor::BoundBytes(unit_bytes));
  stored.resize(compressor->CompressAlways(data, stored));
  return stored;
}

std::unique_ptr<Codec> CodecFor(Compression compression) {
  return Codec::Create(CompressionBit(compression));
}

class CodecTest : public ::testing::TestWithParam<
                      std::tuple<const char*, uint32_t, const char*>> {
 protected:
  void SetUp() override {
    const auto spec = ParseCompression(std::get<0>(GetParam()));
    ASSERT_TRUE(spec.ok());
    compression_ = spec->compression;
    data_ = Data(std::get<2>(GetParam()), std::get<1>(GetParam()) * 1024);
    if (data_.size() == kUnitBytesMax) {
      // So that it never grows: what is stored is bounded by the same number.
      std::fill(data_.end() - kBlockBytes, data_.end(), uint8_t{0});
    }
    // brotli is slow to make: once for all tests.
    static auto* made = new std::map<ParamType, Bytes>;
    Bytes& stored = (*made)[GetParam()];
    if (stored.empty()) stored = CompressAlways(std::get<0>(GetParam()), data_);
    stored_ = stored;
    ASSERT_FALSE(stored_.empty());
    codec_ = CodecFor(compression_);
    ASSERT_NE(codec_, nullptr);
    out_.assign(data_.size() + kGuardBytes, kGuard);
  }

  IoStatus Decode(const Bytes& stored) {
    const IoStatus status = DecodeUnit(codec_.get(), compression_, stored,
                                       ByteSpan(out_.data(), data_.size()));
    for (size_t i = data_.size(); i < out_.size(); ++i) {
      EXPECT_EQ(out_[i], kGuard) << "written behind the unit";
    }
    return status;
  }

  bool OutIsData() const {
    return std::equal(data_.begin(), data_.end(), out_.begin());
  }

  Compression compression_ = Compression::kNone;
  Bytes data_;
  Bytes stored_;
  std::unique_ptr<Codec> codec_;
  Bytes out_;
};

TEST_P(CodecTest, RoundTrip) {
  // Twice: the context must be as new after a unit.
  for (int i = 0; i < 2; ++i) {
    std::fill(out_.begin(), out_.end() - kGuardBytes, uint8_t{0x11});
    ASSERT_EQ(Decode(stored_), IoStatus::kOk);
    EXPECT_TRUE(OutIsData());
  }
}

TEST_P(CodecTest, CompressGivesTheSameOrNothing) {
  const auto spec = ParseCompression(std::get<0>(GetParam()));
  auto compressor =
      Compressor::Create(*spec, static_cast<uint32_t>(data_.size()));
  ASSERT_NE(compressor, nullptr);
  Bytes smaller(data_.size());
  smaller.resize(compressor->Compress(data_, smaller));
  if (std::string(std::get<2>(GetParam())) == "zeros" &&
      compression_ != Compression::kNone) {
    EXPECT_FALSE(smaller.empty());
  }
  if (stored_.size() >= data_.size()) {
    EXPECT_TRUE(smaller.empty());
  } else if (!smaller.empty()) {
    EXPECT_EQ(smaller, stored_);
  }
}

TEST_P(CodecTest, NothingButTheWholeStreamIsTaken) {
  const size_t step = std::max<size_t>(1, stored_.size() / 97);
  for (size_t cut = 0; cut < stored_.size(); cut += step) {
    EXPECT_EQ(Decode(Bytes(stored_.begin(),
                           stored_.begin() + static_cast<ptrdiff_t>(cut))),
              IoStatus::kCorrupt)
        << cut << " of " << stored_.size() << " bytes";
  }
  Bytes longer = stored_;
  for (const uint8_t byte : {0, 3, 255}) {
    longer.resize(stored_.size());
    longer.push_back(byte);
    EXPECT_EQ(Decode(longer), IoStatus::kCorrupt) << "a byte too many";
  }
  longer = stored_;
  longer.insert(longer.end(), stored_.begin(), stored_.end());
  EXPECT_EQ(Decode(longer), IoStatus::kCorrupt) << "two streams";
  // And it still works.
  ASSERT_EQ(Decode(stored_), IoStatus::kOk);
  EXPECT_TRUE(OutIsData());
}

TEST_P(CodecTest, AnotherLengthOfUnitIsRefused) {
  for (const size_t bytes : {data_.size() - 1, data_.size() / 2}) {
    std::fill(out_.begin(), out_.end(), kGuard);
    EXPECT_EQ(DecodeUnit(codec_.get(), compression_, stored_,
                         ByteSpan(out_.data(), bytes)),
              IoStatus::kCorrupt);
    EXPECT_TRUE(std::all_of(out_.begin() + static_cast<ptrdiff_t>(bytes),
                            out_.end(),
                            [](uint8_t byte) { return byte == kGuard; }));
  }
  if (data_.size() == kUnitBytesMax) return;
  Bytes out(data_.size() * 2);
  EXPECT_EQ(DecodeUnit(codec_.get(), compression_, stored_, out),
            IoStatus::kCorrupt);
}

TEST_P(CodecTest, DamageStaysInsideTheUnit) {
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    Bytes damaged = stored_;
    // Half of it in the first bytes, where lengths and tables are.
    const size_t within =
        i % 2 == 0 ? damaged.size() : std::min<size_t>(48, damaged.size());
    for (int n = 0; n < 1 + i % 4; ++n) {
      damaged[random() % within] ^= static_cast<uint8_t>(1 + random() % 255);
    }
    const IoStatus status = Decode(damaged);
    EXPECT_TRUE(status == IoStatus::kOk || status == IoStatus::kCorrupt);
  }
  ASSERT_EQ(Decode(stored_), IoStatus::kOk);
  EXPECT_TRUE(OutIsData());
}

INSTANTIATE_TEST_SUITE_P(
    All, CodecTest,
    ::testing::Combine(::testing::Values("none", "gz", "gz,1", "brotli",
                                         "brotli,0", "brotli,5", "lz4", "zstd",
                                         "zstd,19"),
                       ::testing::Values(4u, 8u, 16u, 32u, 64u, 128u, 256u),
                       ::testing::Values("zeros", "text", "random")));

constexpr Compression kCompressors[] = {Compression::kGz, Compression::kBrotli,
                                        Compression::kLz4, Compression::kZstd};
constexpr const char* kNames[] = {"gz", "brotli", "lz4", "zstd"};

TEST(CodecSetTest, WhatIsNotServedHasNoCodec) {
  EXPECT_EQ(CodecFor(static_cast<Compression>(5)), nullptr);
  EXPECT_EQ(CodecFor(static_cast<Compression>(31)), nullptr);
  EXPECT_EQ(CodecFor(static_cast<Compression>(99)), nullptr);
  EXPECT_EQ(Codec::Create(CompressionBit(Compression::kGz) | 1u << 20),
            nullptr);
  EXPECT_NE(Codec::Create(0), nullptr);
}

TEST(CodecSetTest, OneCodecServesAMixedFile) {
  CompressionSet all = 0;
  for (const Compression each : kCompressors) all |= CompressionBit(each);
  const auto codec = Codec::Create(all);
  ASSERT_NE(codec, nullptr);
  Bytes out(64 * 1024);
  for (int round = 0; round < 3; ++round) {
    for (const char* kind : {"text", "random", "zeros"}) {
      const Bytes data = Data(kind, out.size());
      for (size_t i = 0; i < std::size(kCompressors); ++i) {
        Bytes stored = CompressAlways(kNames[i], data);
        ASSERT_EQ(DecodeUnit(codec.get(), kCompressors[i], stored, out),
                  IoStatus::kOk);
        EXPECT_EQ(out, data);
        // A bad unit of one must not be felt by the next.
        stored.pop_back();
        EXPECT_EQ(DecodeUnit(codec.get(), kCompressors[i], stored, out),
                  IoStatus::kCorrupt);
      }
    }
  }
}

TEST(CodecSetTest, ACompressorOutsideTheSetIsRefused) {
  const Bytes data = Data("text", kBlockBytes);
  Bytes out(data.size());
  for (size_t i = 0; i < std::size(kCompressors); ++i) {
    const Bytes stored = CompressAlways(kNames[i], data);
    CompressionSet others = CompressionBit(Compression::kNone);
    for (const Compression each : kCompressors) {
      if (each != kCompressors[i]) others |= CompressionBit(each);
    }
    const auto codec = Codec::Create(others);
    EXPECT_EQ(codec->Decode(kCompressors[i], stored, out), IoStatus::kCorrupt);
    EXPECT_EQ(Codec::Create(0)->Decode(kCompressors[i], stored, out),
              IoStatus::kCorrupt);
    EXPECT_EQ(DecodeUnit(nullptr, kCompressors[i], stored, out),
              IoStatus::kCorrupt);
    // Nor is one taken for another's.
    for (const Compression each : kCompressors) {
      if (each == kCompressors[i]) continue;
      EXPECT_EQ(codec->Decode(each, stored, out), IoStatus::kCorrupt)
          << kNames[i] << " as " << CompressionName(each);
    }
  }
  for (const Compression unknown :
       {static_cast<Compression>(5), static_cast<Compression>(99)}) {
    EXPECT_EQ(Codec::Create(0)->Decode(unknown, data, out), IoStatus::kCorrupt);
  }
}

TEST(DecodeUnitTest, RawUnits) {
  const Bytes data = Data("random", kBlockBytes);
  Bytes out(data.size());
  EXPECT_EQ(DecodeUnit(nullptr, Compression::kNone, data, out), IoStatus::kOk);
  EXPECT_EQ(out, data);
  // Read to where it is wanted already.
  EXPECT_EQ(DecodeUnit(nullptr, Compression::kNone, out, out), IoStatus::kOk);
  EXPECT_EQ(out, data);
  EXPECT_EQ(DecodeUnit(nullptr, Compression::kNone,
                       ConstByteSpan(data.data(), data.size() - 1), out),
            IoStatus::kCorrupt);
  EXPECT_EQ(DecodeUnit(nullptr, Compression::kNone, data,
                       ByteSpan(out.data(), out.size() - 1)),
            IoStatus::kCorrupt);
}

TEST(DecodeUnitTest, StoredLengthsAreBounded) {
  Bytes out(kUnitBytesMax + 1);
  const Bytes stored(kStoredBytesMax + 1);
  for (const Compression each : kCompressors) {
    const auto codec = CodecFor(each);
    EXPECT_EQ(codec->Decode(each, stored, ByteSpan(out.data(), kBlockBytes)),
              IoStatus::kCorrupt);
    EXPECT_EQ(codec->Decode(each, {}, ByteSpan(out.data(), kBlockBytes)),
              IoStatus::kCorrupt);
    EXPECT_EQ(codec->Decode(each, ConstByteSpan(stored.data(), 16), out),
              IoStatus::kCorrupt);
  }
}

// Version 2 keeps a gz or brotli block compressed whatever its length.
TEST(DecodeUnitTest, BlocksThatDidNotGetSmaller) {
  const Bytes random = Data("random", kBlockBytes);
  EXPECT_EQ(CompressAlways("gz", random).size(), 4107u);
  EXPECT_GT(CompressAlways("brotli", random).size(), kBlockBytes);
  for (size_t i = 0; i < 2; ++i) {
    const auto codec = CodecFor(kCompressors[i]);
    // A random part and zeros, of a share that gives 4096 bytes again.
    Bytes data;
    Bytes stored;
    for (size_t random_bytes = kBlockBytes - 200;
         stored.size() != kBlockBytes && random_bytes < kBlockBytes;
         ++random_bytes) {
      data = random;
      std::fill(data.begin() + static_cast<ptrdiff_t>(random_bytes), data.end(),
                uint8_t{0});
      stored = CompressAlways(kNames[i], data);
    }
    ASSERT_EQ(stored.size(), kBlockBytes) << kNames[i];
    Bytes out(kBlockBytes);
    ASSERT_EQ(DecodeUnit(codec.get(), kCompressors[i], stored, out),
              IoStatus::kOk);
    EXPECT_EQ(out, data) << kNames[i];
    ASSERT_EQ(DecodeUnit(codec.get(), Compression::kNone, stored, out),
              IoStatus::kOk);
    EXPECT_EQ(out, stored) << kNames[i];
  }
}

// One stream, flushed every flush_bytes (0: never), so with as many blocks.
Bytes Brotli(const Bytes& data, uint32_t window_log, bool large_window,
             size_t flush_bytes, uint32_t level = 11) {
  BrotliEncoderState* state =
      BrotliEncoderCreateInstance(nullptr, nullptr, nullptr);
  BrotliEncoderSetParameter(state, BROTLI_PARAM_QUALITY, level);
  BrotliEncoderSetParameter(state, BROTLI_PARAM_LARGE_WINDOW, large_window);
  BrotliEncoderSetParameter(state, BROTLI_PARAM_LGWIN, window_log);
  Bytes stored(data.size() * 2 + 1024);
  size_t out_left = stored.size();
  uint8_t* out = stored.data();
  if (flush_bytes == 0) flush_bytes = data.size();
  for (size_t at = 0; at < data.size(); at += flush_bytes) {
    size_t in_left = std::min(flush_bytes, data.size() - at);
    const uint8_t* in = data.data() + at;
    const bool last = at + in_left == data.size();
    EXPECT_TRUE(BrotliEncoderCompressStream(
        state, last ? BROTLI_OPERATION_FINISH : BROTLI_OPERATION_FLUSH,
        &in_left, &in, &out_left, &out, nullptr));
    EXPECT_EQ(in_left, 0u);
  }
  EXPECT_TRUE(BrotliEncoderIsFinished(state));
  BrotliEncoderDestroyInstance(state);
  stored.resize(stored.size() - out_left);
  return stored;
}

TEST(BrotliTest, EveryWindowAndManyBlocks) {
  const auto codec = CodecFor(Compression::kBrotli);
  for (const char* kind : {"many trees", "text"}) {
    const Bytes data = Data(kind, kUnitBytesMax);
    Bytes out(data.size());
    for (const uint32_t window_log : {10u, 16u, 18u, 22u, 24u}) {
      for (const size_t flush_bytes : {0u, 1000u, 9000u, 70000u}) {
        const Bytes stored = Brotli(data, window_log, false, flush_bytes, 9);
        ASSERT_EQ(codec->Decode(Compression::kBrotli, stored, out),
                  IoStatus::kOk)
            << kind << " window " << window_log << " flush " << flush_bytes;
        EXPECT_EQ(out, data);
      }
    }
    const Bytes stored = Brotli(data, 24, false, 0);
    ASSERT_EQ(codec->Decode(Compression::kBrotli, stored, out), IoStatus::kOk);
    EXPECT_EQ(out, data);
  }
}

TEST(BrotliTest, LargeWindowIsRefused) {
  const auto codec = CodecFor(Compression::kBrotli);
  const Bytes data = Data("text", 64 * 1024);
  Bytes out(data.size());
  for (const uint32_t window_log : {24u, 25u, 30u}) {
    EXPECT_EQ(codec->Decode(Compression::kBrotli,
                            Brotli(data, window_log, true, 0, 5), out),
              IoStatus::kCorrupt)
        << window_log;
  }
}

TEST(BrotliTest, AStreamThatAnnouncesMoreThanAUnitIsRefused) {
  const auto codec = CodecFor(Compression::kBrotli);
  // One block of 16 MiB: the decoder asks for a ring buffer as large.
  Bytes stored = Brotli(Bytes(16 << 20, 'x'), 24, false, 0, 5);
  ASSERT_LE(stored.size(), kStoredBytesMax);
  Bytes out(kUnitBytesMax);
  EXPECT_EQ(codec->Decode(Compression::kBrotli, stored, out),
            IoStatus::kCorrupt);
  const Bytes data = Data("text", kUnitBytesMax);
  ASSERT_EQ(
      codec->Decode(Compression::kBrotli, Brotli(data, 24, false, 0, 5), out),
      IoStatus::kOk);
  EXPECT_EQ(out, data);
}

// Writes a brotli stream by hand (RFC 7932, section 9).
class BrotliBits {
 public:
  // A window of 16 MiB.
  BrotliBits() { Put(0b1111, 4); }

  void Put(uint32_t value, int bits) {
    for (int i = 0; i < bits; ++i, ++used_) {
      if (used_ % 8 == 0) bytes_.push_back(0);
      bytes_.back() |= static_cast<uint8_t>((value >> i & 1) << used_ % 8);
    }
  }
  void PutHeader(uint32_t bytes, bool raw) {
    Put(0, 1);  // not the last
    // The length in as few groups of four bits as will do, at least four.
    const bool long_form = bytes > 65536;
    Put(long_form ? 1 : 0, 2);
    Put(bytes - 1, long_form ? 20 : 16);
    Put(raw ? 1 : 0, 1);
  }
  void PutRaw(const Bytes& data) {
    PutHeader(static_cast<uint32_t>(data.size()), true);
    used_ = bytes_.size() * 8;
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    used_ = bytes_.size() * 8;
  }
  // A prefix code of one symbol, which then takes no bits.
  void PutCode(uint32_t symbol, int bits) {
    Put(1, 2);
    Put(0, 2);
    Put(symbol, bits);
  }
  void Put256() {
    Put(1, 1);
    Put(7, 3);
    Put(127, 7);
  }
  // One byte, and as many and as large tables as there can be.
  void PutByteWithAllTrees(uint8_t byte) {
    PutHeader(1, false);
    for (int category = 0; category < 3; ++category) {
      Put256();       // block types
      PutCode(0, 9);  // of 258
      PutCode(0, 5);  // block lengths, of 26
      Put(0, 2);      // the first is 1
    }
    Put(3, 2);   // NPOSTFIX
    Put(15, 4);  // NDIRECT 120: 520 distance symbols
    for (int type = 0; type < 256; ++type) Put(0, 2);
    for (int map = 0; map < 2; ++map) {
      Put256();       // trees
      Put(0, 1);      // no runs
      PutCode(0, 8);  // every context has the first
      Put(0, 1);      // no move to front
    }
    for (int tree = 0; tree < 256; ++tree) PutCode(byte, 8);
    for (int tree = 0; tree < 256; ++tree) PutCode(136, 10);  // one literal
    for (int tree = 0; tree < 256; ++tree) PutCode(0, 10);
  }
  Bytes End() {
    Put(3, 2);
    return bytes_;
  }

 private:
  Bytes bytes_;
  size_t used_ = 0;  // bits
};

// What the size of the decoder's arena is made for: the ring buffer grows
// between, and lies among, the largest tables there can be.
TEST(BrotliTest, AllTheMemoryThatTheFormatCanAskFor) {
  BrotliBits bits;
  Bytes data;
  for (const size_t bytes : {100u, 3000u, 50000u, 60000u, 100000u}) {
    bits.PutByteWithAllTrees('t');
    data.push_back('t');
    const Bytes raw = Data("random", bytes);
    bits.PutRaw(raw);
    data.insert(data.end(), raw.begin(), raw.end());
  }
  bits.PutByteWithAllTrees('e');
  data.push_back('e');
  const Bytes stored = bits.End();
  ASSERT_LE(stored.size(), kStoredBytesMax);
  const auto codec = CodecFor(Compression::kBrotli);
  for (int i = 0; i < 2; ++i) {
    Bytes out(data.size());
    ASSERT_EQ(codec->Decode(Compression::kBrotli, stored, out), IoStatus::kOk);
    EXPECT_EQ(out, data);
  }
}

TEST(ZstdTest, OnlyOneFrameOfTodaysFormat) {
  const auto codec = CodecFor(Compression::kZstd);
  const Bytes data = Data("text", kBlockBytes);
  const Bytes stored = CompressAlways("zstd", data);
  Bytes out(data.size());
  ASSERT_EQ(codec->Decode(Compression::kZstd, stored, out), IoStatus::kOk);
  // A skippable frame of no bytes before it.
  Bytes skip = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0};
  EXPECT_EQ(codec->Decode(Compression::kZstd, skip, out), IoStatus::kCorrupt);
  skip.insert(skip.end(), stored.begin(), stored.end());
  EXPECT_EQ(codec->Decode(Compression::kZstd, skip, out), IoStatus::kCorrupt);
}

TEST(ZstdTest, TheFrameChecksumIsAChoice) {
  CompressionSpec spec = *ParseCompression("zstd");
  EXPECT_FALSE(spec.frame_checksum);
  const Bytes data = Data("text", 64 * 1024);
  Bytes plain(data.size());
  plain.resize(Compressor::Create(spec, kUnitBytesMax)->Compress(data, plain));
  spec.frame_checksum = true;
  Bytes checked(data.size());
  checked.resize(
      Compressor::Create(spec, kUnitBytesMax)->Compress(data, checked));
  EXPECT_EQ(checked.size(), plain.size() + 4);
  const auto codec = CodecFor(Compression::kZstd);
  Bytes out(data.size());
  EXPECT_EQ(codec->Decode(Compression::kZstd, checked, out), IoStatus::kOk);
  checked.back() ^= 1;
  EXPECT_EQ(codec->Decode(Compression::kZstd, checked, out),
            IoStatus::kCorrupt);
}

TEST(CompressorTest, BoundCoversEveryLibrarys) {
  for (uint32_t bytes = kBlockBytes; bytes <= kUnitBytesMax; bytes *= 2) {
    const size_t bound = Compressor::BoundBytes(bytes);
    EXPECT_GE(bound, compressBound(bytes));
    EXPECT_GE(bound, BrotliEncoderMaxCompressedSize(bytes));
    EXPECT_GE(bound,
              static_cast<size_t>(LZ4_compressBound(static_cast<int>(bytes))));
    EXPECT_GE(bound, ZSTD_compressBound(bytes) + 4);
  }
}

TEST(DecoderArenaTest, PiecesNeverOverlapAndComeBack) {
  constexpr size_t kBytes = 4096;
  auto arena = std::make_unique<DecoderArena<kBytes>>();
  struct Piece {
    uint8_t* memory;
    size_t bytes;
    uint8_t mark;
  };
  std::vector<Piece> live;
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0 && !live.empty()) {
      const size_t at = random() % live.size();
      const Piece piece = live[at];
      ASSERT_TRUE(
          std::all_of(piece.memory, piece.memory + piece.bytes,
                      [&](uint8_t byte) { return byte == piece.mark; }));
      arena->Free(piece.memory);
      live.erase(live.begin() + static_cast<ptrdiff_t>(at));
      continue;
    }
    const size_t bytes = random() % 5 == 0 ? random() % 2000 : random() % 100;
    auto* memory = static_cast<uint8_t*>(arena->Allocate(bytes));
    if (memory == nullptr) {
      ++refused;
      continue;
    }
    ASSERT_EQ(reinterpret_cast<uintptr_t>(memory) % 16, 0u);
    std::fill(memory, memory + bytes, static_cast<uint8_t>(i));
    live.push_back({memory, bytes, static_cast<uint8_t>(i)});
  }
  EXPECT_GT(refused, 0);
  arena->Free(nullptr);
  for (const Piece& piece : live) arena->Free(piece.memory);
  // All of it is one piece again.
  void* all = arena->Allocate(kBytes);
  EXPECT_NE(all, nullptr);
  EXPECT_EQ(arena->Allocate(0), nullptr);
  EXPECT_EQ(arena->Allocate(SIZE_MAX), nullptr);
  arena->Reset();
  EXPECT_EQ(arena->Allocate(kBytes), all);
}

TEST(CompressionSpecTest, Text) {
  for (const char* good : {"none", "gz", "gz,4", "brotli", "brotli,0",
                           "brotli,11", "lz4", "zstd", "zstd,-1"}) {
    EXPECT_TRUE(ParseCompression(good).ok()) << good;
  }
  for (const char* bad : {"gz,4,4", "zs,4", "zstd.4", "zstd,x", "gz,", "gz,99",
                          "GZ", "brotli,12", "brotli,-1", "none,1"}) {
    EXPECT_FALSE(ParseCompression(bad).ok()) << bad;
  }
  EXPECT_EQ(ParseCompression("brotli")->compression, Compression::kBrotli);
  EXPECT_EQ(ParseCompression("brotli")->level, 11);
}

}  // namespace
}  // namespace dmu::cow
