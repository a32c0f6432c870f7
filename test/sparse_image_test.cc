// SPDX-License-Identifier: Apache-2.0
//
// Goal: an image in Android's sparse format is read as the image it stands for,
// whoever wrote it, and a COW file made from it is the one made from the plain
// image; a file that is cut, counted wrongly or damaged is refused with a
// sentence that says where.
// Method: files of a writer of the test's own and of Debian's img2simg.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "test/cow_test_util.h"
#include "test/sparse_file.h"
#include "test/temp_file.h"
#include "tools/cow_create.h"
#include "tools/image_extract.h"
#include "tools/image_source.h"

namespace dmu::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using tools::ImageSource;

// Everything at once, and pieces of any size anywhere.
void ExpectReads(const ImageSource& source, const Bytes& image) {
  ASSERT_EQ(source.size_bytes(), image.size());
  Bytes all(image.size(), 0xa5);
  ASSERT_TRUE(source.ReadAt(0, all).ok());
  EXPECT_TRUE(all == image);
  std::mt19937 rng(3);
  for (int i = 0; i < 300; ++i) {
    const size_t offset = rng() % image.size();
    const size_t bytes =
        std::min<size_t>(rng() % 40'000, image.size() - offset);
    Bytes piece(bytes, 0xa5);
    ASSERT_TRUE(source.ReadAt(offset, piece).ok());
    ASSERT_TRUE(std::equal(piece.begin(), piece.end(), image.begin() + offset))
        << bytes << " bytes at " << offset;
    const uint64_t zeros = source.ZerosAt(offset);
    ASSERT_LE(zeros, image.size() - offset);
    ASSERT_TRUE(std::all_of(image.begin() + offset,
                            image.begin() + offset + zeros,
                            [](uint8_t byte) { return byte == 0; }));
  }
}

// The same image in chunks of random kinds and lengths.
SparseFile InChunks(const Bytes& image, std::mt19937* rng, SparseFile file) {
  for (size_t at = 0; at < image.size();) {
    const size_t bytes =
        std::min<size_t>((1 + (*rng)() % 9) * 4096, image.size() - at);
    const auto begin = image.begin() + at;
    const bool zero = std::all_of(begin, begin + bytes,
                                  [](uint8_t byte) { return byte == 0; });
    if (zero && (*rng)() % 2 == 0) {
      file.DontCare(static_cast<uint32_t>(bytes / 4096));
    } else if (zero) {
      file.Fill(static_cast<uint32_t>(bytes / 4096), 0);
    } else {
      file.Raw(Bytes(begin, begin + bytes));
    }
    if ((*rng)() % 8 == 0) file.Crc();
    at += bytes;
  }
  return file;
}

TEST(SparseImageTest, AnyLayoutIsReadAsItsImage) {
  std::mt19937 rng(1);
  for (int round = 0; round < 20; ++round) {
    const Bytes image = RandomImage(&rng, 64);
    const uint16_t more = round % 3 * 4;
    const SparseFile file =
        InChunks(image, &rng,
                 SparseFile(4096, static_cast<uint16_t>(28 + more),
                            static_cast<uint16_t>(12 + more)));
    ASSERT_TRUE(file.image() == image);
    const auto source = ImageSource::Open(WriteTemp("any.simg", file.Done()));
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_TRUE(source->is_sparse());
    ExpectReads(*source, image);
  }
}

TEST(SparseImageTest, PatternsBlocksOfAnySizeAndEmptyChunks) {
  std::mt19937 rng(2);
  for (const uint32_t block_bytes : {4u, 1024u, 4096u, 65536u}) {
    SparseFile file(block_bytes);
    Bytes data(size_t{3} * block_bytes);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(rng());
    file.Fill(2, 0x04030201).Fill(3, 0x04030201).Fill(0, 9).Raw(data).Crc();
    file.DontCare(0).DontCare(2).Fill(1, 0).Raw({}).Fill(5, 0xffffffff).Crc();
    const auto source =
        ImageSource::Open(WriteTemp("pattern.simg", file.Done()));
    ASSERT_TRUE(source.ok()) << source.status();
    ExpectReads(*source, file.image());
  }
}

// What a hole stands for is not gone through byte by byte.
TEST(SparseImageTest, AHoleOfTebibytes) {
  SparseFile file;
  file.Chunk(0xcac3, 0x7fffffff, 12, {});
  const auto source = ImageSource::Open(WriteTemp("hole.simg", file.Done()));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->size_bytes(), uint64_t{0x7fffffff} * 4096);
  EXPECT_EQ(source->ZerosAt(5), source->size_bytes() - 5);
  // crc32 of 8 TiB - 4096 of zeros, by the algebra of CRCs.
  Bytes bytes = file.Chunk(0xcac4, 0, 16, {1, 2, 3, 4}).Done();
  const auto wrong = ImageSource::Open(WriteTemp("hole.simg", bytes));
  EXPECT_TRUE(absl::IsDataLoss(wrong.status()));
  EXPECT_THAT(std::string(wrong.status().message()),
              HasSubstr("have checksum 04030201; found"));
}

TEST(SparseImageTest, FilesOfImg2simg) {
  std::mt19937 rng(4);
  const Bytes image = RandomImage(&rng, 700);
  const std::string raw = WriteTemp("raw.img", image);
  for (const char* flags : {"", "-s"}) {
    const std::string path = TempPath("tool.simg");
    fs::remove(path);
    // Debian's knows no -s; then it is the same once more.
    const std::string command = "img2simg " + std::string(flags) + " '" + raw +
                                "' '" + path + "' 2>/dev/null";
    if (std::system(command.c_str()) != 0) {
      ASSERT_STRNE(flags, "") << command;
      continue;
    }
    const auto source = ImageSource::Open(path);
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_TRUE(source->is_sparse());
    ExpectReads(*source, image);
  }
}

// Debian's reader takes files of the test's writer: they are the format.
TEST(SparseImageTest, Simg2imgReadsFilesOfThisTest) {
  std::mt19937 rng(5);
  const Bytes image = RandomImage(&rng, 128);
  const std::string path =
      WriteTemp("own.simg", InChunks(image, &rng, SparseFile()).Done());
  const std::string out = TempPath("own.img");
  fs::remove(out);
  ASSERT_EQ(std::system(("simg2img '" + path + "' '" + out + "'").c_str()), 0);
  EXPECT_TRUE(ReadWhole(out) == image);
}

TEST(SparseImageTest, TheCowFileIsThatOfThePlainImages) {
  std::mt19937 rng(6);
  const Bytes old_image = RandomImage(&rng, 256);
  Bytes new_image = old_image;
  for (int i = 0; i < 60; ++i) {
    const Bytes block = RandomBlock(&rng);
    std::copy(block.begin(), block.end(),
              new_image.begin() + (rng() % 256) * 4096);
  }
  const std::string old_raw = WriteTemp("old.img", old_image);
  const std::string new_raw = WriteTemp("new.img", new_image);
  const std::string old_sparse =
      WriteTemp("old.simg", InChunks(old_image, &rng, SparseFile()).Done());
  const std::string new_sparse =
      WriteTemp("new.simg", InChunks(new_image, &rng, SparseFile()).Done());
  tools::CreateOptions options;
  options.threads = 3;
  options.force = true;
  options.old_path = old_raw;
  options.new_path = new_raw;
  options.output_path = TempPath("raw.cow");
  ASSERT_TRUE(tools::CreateCow(options).ok());
  const Bytes expected = ReadWhole(options.output_path);
  for (const std::string& from : {old_raw, old_sparse}) {
    for (const std::string& to : {new_raw, new_sparse}) {
      options.old_path = from;
      options.new_path = to;
      options.output_path = TempPath("sparse.cow");
      const auto summary = tools::CreateCow(options);
      ASSERT_TRUE(summary.ok()) << summary.status();
      EXPECT_TRUE(ReadWhole(options.output_path) == expected)
          << from << " " << to;
    }
  }
  options.output_path = old_sparse;
  EXPECT_TRUE(absl::IsInvalidArgument(tools::CreateCow({options}).status()));
}

TEST(SparseImageTest, NoWholeBlocksNoCowFile) {
  const std::string path =
      WriteTemp("small.simg", SparseFile(1024).Fill(3, 7).Done());
  tools::CreateOptions options;
  options.old_path = options.new_path = path;
  options.estimate = true;
  const absl::Status status = tools::CreateCow(options).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is a sparse image of 3072 bytes, which is not"));
}

TEST(SparseImageTest, ExtractWritesThePlainImage) {
  std::mt19937 rng(7);
  const Bytes image = RandomImage(&rng, 600);
  SparseFile file = InChunks(image, &rng, SparseFile());
  file.DontCare(30'000);
  tools::ImageExtractOptions options;
  options.input_path = WriteTemp("in.simg", file.Done());
  options.output_path = TempPath("out.img");
  fs::remove(options.output_path);
  const auto bytes = tools::ExtractImage(options);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, file.image().size());
  EXPECT_TRUE(ReadWhole(options.output_path) == file.image());
  EXPECT_TRUE(absl::IsAlreadyExists(tools::ExtractImage(options).status()));
  options.force = true;
  EXPECT_TRUE(tools::ExtractImage(options).ok());
  options.output_path = options.input_path;
  EXPECT_TRUE(absl::IsInvalidArgument(tools::ExtractImage(options).status()));
  EXPECT_TRUE(ReadWhole(options.input_path) == file.Done());
}

struct BadCase {
  const char* name;
  absl::StatusCode code;
  const char* says;
  Bytes file;
};

Bytes With32(Bytes file, size_t offset, uint32_t value) {
  Put32(&file, offset, value);
  return file;
}

Bytes With16(Bytes file, size_t offset, uint16_t value) {
  Put16(&file, offset, value);
  return file;
}

Bytes Cut(Bytes file, size_t bytes) {
  file.resize(bytes);
  return file;
}

std::vector<BadCase> BadCases() {
  constexpr auto kBad = absl::StatusCode::kDataLoss;
  const Bytes data(8192, 0x11);
  // Chunks at 28 (raw, 8204 bytes), 8232 (fill, 16), 8248 (don't care, 12) and
  // 8260 (sum, 16); 8276 in all, 10 blocks.
  const Bytes good = SparseFile().Raw(data).Fill(5, 7).DontCare(3).Crc().Done();
  Bytes longer = good;
  longer.push_back(0);
  return {
      {"header cut", kBad, "it has 20 bytes; its header alone has 28",
       Cut(good, 20)},
      {"version 2", absl::StatusCode::kUnimplemented, "version 2.0; served",
       With16(good, 4, 2)},
      {"header too small", kBad, "headers have 24 and 12", With16(good, 8, 24)},
      {"chunk header too small", kBad, "headers have 28 and 8",
       With16(good, 10, 8)},
      {"blocks of nothing", kBad, "blocks have 0 bytes", With32(good, 12, 0)},
      {"odd blocks", kBad, "blocks have 4098 bytes; expected a multiple of 4",
       With32(good, 12, 4098)},
      {"no file can have them", kBad, "no file can have them",
       With32(With32(good, 12, 0xfffffffc), 16, 0xffffffff)},
      {"other block size", kBad,
       "chunk 0 at offset 28 has 8204 bytes; expected 16396",
       With32(good, 12, 8192)},
      {"fewer blocks", kBad, "chunk 2 at offset 8248 has 3 blocks, from 7 on",
       With32(good, 16, 9)},
      {"more blocks", kBad, "its 4 chunks are 10 blocks; expected 11",
       With32(good, 16, 11)},
      {"fewer chunks", kBad, "the last chunk ends at 8260, the file has 8276",
       With32(good, 20, 3)},
      {"more chunks", kBad, "chunk 4 at offset 8276 is cut: 0 bytes are left",
       With32(good, 20, 5)},
      {"unknown type", kBad, "chunk 1 at offset 8232 has type cac5",
       With16(good, 8232, 0xcac5)},
      {"raw larger than its blocks", kBad, "has 8208 bytes; expected 8204",
       With32(good, 28 + 8, 8208)},
      {"raw of terabytes", kBad, "has 8204 bytes; expected",
       With32(good, 28 + 4, 0xffffffff)},
      {"fill with more", kBad, "has 20 bytes; expected 16",
       With32(good, 8232 + 8, 20)},
      {"don't care with data", kBad, "has 16 bytes; expected 12",
       With32(good, 8248 + 8, 16)},
      {"sum of blocks", kBad, "is a checksum of 1 blocks",
       With32(good, 8260 + 4, 1)},
      {"too many blocks", kBad, "chunk 1 at offset 8232 has 9 blocks, from 2",
       With32(good, 8232 + 4, 9)},
      {"blocks beyond 32 bits", kBad, "has 4294967295 blocks, from 2 on",
       With32(good, 8232 + 4, 0xffffffff)},
      {"raw cut", kBad, "chunk 0 at offset 28 is cut: it has 8204 bytes",
       Cut(good, 8000)},
      {"fill cut", kBad, "chunk 1 at offset 8232 is cut: it has 16 bytes, 14",
       Cut(good, 8246)},
      {"chunk header cut", kBad, "chunk 2 at offset 8248 is cut: 5 bytes",
       Cut(good, 8253)},
      {"data damaged", kBad, "says that the 10 blocks before it have checksum",
       With32(good, 100, 1)},
      {"fill damaged", kBad, "says that the 10 blocks before it have checksum",
       With32(good, 8232 + 12, 8)},
      {"sum damaged", kBad, "chunk 3 at offset 8260 says",
       With32(good, 8260 + 12, 0)},
      {"something behind", kBad, "ends at 8276, the file has 8277", longer},
  };
}

TEST(SparseImageTest, WhatIsWrongIsRefusedWithASentence) {
  for (const BadCase& bad : BadCases()) {
    const std::string path = WriteTemp("bad.simg", bad.file);
    const absl::Status status = ImageSource::Open(path).status();
    EXPECT_EQ(status.code(), bad.code) << bad.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.says)) << bad.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST(SparseImageTest, OtherFilesAreTheirBytes) {
  std::mt19937 rng(8);
  Bytes image = RandomImage(&rng, 4);
  for (const size_t bytes : {size_t{0}, size_t{3}, image.size()}) {
    const auto source =
        ImageSource::Open(WriteTemp("plain.img", Cut(image, bytes)));
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_FALSE(source->is_sparse());
    EXPECT_EQ(source->size_bytes(), bytes);
    if (bytes > 0) ExpectReads(*source, Cut(image, bytes));
  }
}

}  // namespace
}  // namespace dmu::test
