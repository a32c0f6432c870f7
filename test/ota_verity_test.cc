// SPDX-License-Identifier: Apache-2.0
//
// Goal: the hash trees of veritysetup are taken, with the table that
// dm-verity wants; one that is damaged, does not fit the images or has another
// root hash is refused with a sentence.
// Method: trees made by veritysetup, in memory, with fields changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "test/cow_test_util.h"
#include "tools/ota/verity.h"

namespace dmu::test {
namespace {

namespace fs = std::filesystem;
using ota::ReadableImage;
using ota::ReadVerityTree;
using testing::HasSubstr;

ReadableImage ImageOf(const std::string& name, const Bytes& bytes) {
  return {.name = name,
          .bytes = bytes.size(),
          .read = [&bytes](uint64_t offset, ByteSpan out) {
            if (offset > bytes.size() || out.size() > bytes.size() - offset) {
              return absl::InternalError("a read beyond the end");
            }
            std::memcpy(out.data(), bytes.data() + offset, out.size());
            return absl::OkStatus();
          }};
}

struct Made {
  Bytes data;    // with the tree, when it is behind
  Bytes hashes;  // else
  uint64_t offset = 0;
  std::string root_hash;
};

// A tree over so many random bytes, behind them or in an image of its own.
Made Make(uint64_t data_bytes, bool is_one, const std::string& flags) {
  const fs::path folder = testing::TempDir();
  const std::string data = folder / "data";
  const std::string hashes = is_one ? data : std::string(folder / "hashes");
  const std::string root = folder / "root";
  std::mt19937 rng(7);
  Made made;
  made.data.resize(data_bytes);
  for (uint8_t& byte : made.data) byte = static_cast<uint8_t>(rng());
  fs::remove(folder / "hashes");
  std::ofstream(data, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(made.data.data()),
             static_cast<std::streamsize>(made.data.size()));
  made.offset = is_one ? data_bytes : 0;
  const std::string command =
      absl::StrCat("/usr/sbin/veritysetup format ", data, " ", hashes,
                   " --hash-offset=", made.offset, " --root-hash-file=", root,
                   " ", flags, " >/dev/null");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
  };
  made.data = read(data);
  if (!is_one) made.hashes = read(hashes);
  const Bytes text = read(root);
  made.root_hash = std::string(text.begin(), text.begin() + 64);
  return made;
}

TEST(VerityTest, TreesOfVeritysetup) {
  for (const bool is_one : {true, false}) {
    for (const uint32_t data_block : {4096u, 1024u}) {
      for (const uint32_t hash_block : {4096u, 512u}) {
        for (const char* salt : {"", "--salt=-", "--salt=00ff10"}) {
          const std::string flags =
              absl::StrCat("--data-block-size=", data_block,
                           " --hash-block-size=", hash_block, " ", salt,
                           " --data-blocks=", (1 << 20) / data_block);
          const Made made = Make(1 << 20, is_one, flags);
          const ReadableImage data = ImageOf("root", made.data);
          const ReadableImage hashes = ImageOf("root-hash", made.hashes);
          const auto tree = ReadVerityTree(data, is_one ? data : hashes,
                                           made.offset, made.root_hash);
          ASSERT_TRUE(tree.ok()) << flags << ": " << tree.status();
          EXPECT_EQ(tree->data_bytes(), 1u << 20);
          const std::string first = absl::StrCat(
              ((is_one ? 1 << 20 : 0) + 512 + hash_block - 1) / hash_block);
          const std::string table =
              VerityTable(*tree, "/dev/a", "/dev/b", made.root_hash, false);
          EXPECT_THAT(table, HasSubstr(absl::StrCat(
                                 "1 /dev/a /dev/b ", data_block, " ",
                                 hash_block, " ", (1 << 20) / data_block, " ",
                                 first, " sha256 ", made.root_hash, " ")));
          if (*salt != '\0') {
            EXPECT_TRUE(table.ends_with(
                std::strcmp(salt, "--salt=-") == 0 ? " -" : " 00ff10"))
                << table;
          }
          EXPECT_EQ(
              VerityTable(*tree, "/dev/a", "/dev/b", made.root_hash, true),
              table + " 1 restart_on_corruption");
        }
      }
    }
  }
}

struct BadCase {
  const char* name;
  absl::StatusCode code;
  const char* says;
  size_t at;  // in the superblock
  uint64_t value;
  size_t bytes;
};

TEST(VerityTest, WhatIsWrongIsRefusedWithASentence) {
  constexpr auto kBad = absl::StatusCode::kDataLoss;
  constexpr auto kNotServed = absl::StatusCode::kUnimplemented;
  const std::vector<BadCase> cases = {
      {"signature", kBad, "no superblock", 0, 'w', 1},
      {"version", kNotServed, "superblock 2", 8, 2, 4},
      {"hash type", kNotServed, "hash type 0", 12, 0, 4},
      {"algorithm", kNotServed, "algorithm sha512", 35, 0x323135, 3},
      {"data block of nothing", kBad, "blocks of 0 and", 64, 0, 4},
      {"odd data block", kBad, "blocks of 4097", 64, 4097, 4},
      {"large hash block", kBad, "and 8192 bytes", 68, 8192, 4},
      {"one block", kBad, "it is of 1 blocks", 72, 1, 8},
      {"more blocks than there are", kBad, "it is of 257 blocks", 72, 257, 8},
      {"blocks beyond 64 bits", kBad, "blocks", 72, UINT64_MAX, 8},
      {"long salt", kBad, "a salt of 257", 80, 257, 2},
      {"other salt", kBad, "its root hash is", 88, 0x1234, 2},
      {"top of the tree", kBad, "its root hash is", 4096 + 77, 0x1234, 2},
  };
  const Made good = Make(1 << 20, /*is_one=*/true, "--data-blocks=256");
  for (const BadCase& bad : cases) {
    Made made = good;
    std::memcpy(made.data.data() + made.offset + bad.at, &bad.value, bad.bytes);
    const ReadableImage image = ImageOf("root", made.data);
    const absl::Status status =
        ReadVerityTree(image, image, made.offset, made.root_hash).status();
    EXPECT_EQ(status.code(), bad.code) << bad.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.says)) << bad.name;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("root: the hash tree at 1048576 of root"));
  }
  // A bit of the root hash, an image that ends too soon, another offset.
  const ReadableImage image = ImageOf("root", good.data);
  std::string other = good.root_hash;
  other[5] = other[5] == '0' ? '1' : '0';
  EXPECT_TRUE(absl::IsDataLoss(
      ReadVerityTree(image, image, good.offset, other).status()));
  for (const uint64_t offset :
       {uint64_t{0}, uint64_t{4096}, uint64_t{100}, uint64_t{1} << 40}) {
    EXPECT_TRUE(absl::IsDataLoss(
        ReadVerityTree(image, image, offset, good.root_hash).status()));
  }
  for (size_t bytes = good.offset; bytes < good.data.size(); bytes += 4096) {
    Bytes cut(good.data.begin(), good.data.begin() + bytes);
    const ReadableImage shorter = ImageOf("root", cut);
    EXPECT_TRUE(absl::IsDataLoss(
        ReadVerityTree(shorter, shorter, good.offset, good.root_hash).status()))
        << bytes;
  }
}

}  // namespace
}  // namespace dmu::test
