// SPDX-License-Identifier: Apache-2.0
//
// verity.cc - see verity.h.
#include "tools/ota/verity.h"

#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "daemon/base/bytes.h"
#include "tools/sha256.h"

namespace dmu::ota {
namespace {

constexpr uint32_t kSuperblockBytes = 512;
constexpr uint32_t kSaltBytesMax = 256;
constexpr uint32_t kDigestBytes = 32;
constexpr uint8_t kSignature[8] = {'v', 'e', 'r', 'i', 't', 'y', 0, 0};
constexpr char kAlgorithm[] = "sha256";
// Offsets in the superblock.
enum : size_t {
  kAtVersion = 8,
  kAtHashType = 12,
  kAtAlgorithm = 32,
  kAtDataBlockBytes = 64,
  kAtHashBlockBytes = 68,
  kAtDataBlocks = 72,
  kAtSaltBytes = 80,
  kAtSalt = 88,
};

std::string Hex(const uint8_t* bytes, size_t count) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes), count));
}

bool IsBlockSize(uint32_t bytes) {
  return bytes >= kSectorBytes && bytes <= kBlockBytes &&
         (bytes & (bytes - 1)) == 0;
}

// Blocks of all levels; 0 for a tree that no device can have.
uint64_t TreeBlocks(const VerityTree& tree) {
  const uint64_t digests = tree.hash_block_bytes / kDigestBytes;
  uint64_t blocks = 0;
  for (uint64_t level = tree.data_blocks; level > 1;) {
    level = (level + digests - 1) / digests;
    blocks += level;
  }
  return blocks;
}

class Reader {
 public:
  Reader(const ReadableImage& data, const ReadableImage& hashes,
         uint64_t offset)
      : data_(data), hashes_(hashes), offset_(offset) {}

  absl::Status Superblock(VerityTree* tree) {
    if (offset_ % kSectorBytes != 0 || offset_ >= hashes_.bytes ||
        hashes_.bytes - offset_ < kSuperblockBytes) {
      return Bad(absl::StrCat("the image has ", hashes_.bytes, " bytes"));
    }
    uint8_t bytes[kSuperblockBytes];
    absl::Status status = hashes_.read(offset_, bytes);
    if (!status.ok()) return status;
    if (std::memcmp(bytes, kSignature, sizeof(kSignature)) != 0) {
      return Bad("no superblock of dm-verity is there");
    }
    const uint32_t version = LoadLe<uint32_t>(bytes + kAtVersion);
    const uint32_t hash_type = LoadLe<uint32_t>(bytes + kAtHashType);
    const char* algorithm = reinterpret_cast<const char*>(bytes + kAtAlgorithm);
    const std::string name(algorithm, strnlen(algorithm, 32));
    if (version != 1 || hash_type != 1 || name != kAlgorithm) {
      return absl::UnimplementedError(absl::StrCat(
          Where(), ": superblock ", version, ", hash type ", hash_type,
          ", algorithm ", name, "; served are 1, 1 and ", kAlgorithm));
    }
    tree->data_block_bytes = LoadLe<uint32_t>(bytes + kAtDataBlockBytes);
    tree->hash_block_bytes = LoadLe<uint32_t>(bytes + kAtHashBlockBytes);
    tree->data_blocks = LoadLe<uint64_t>(bytes + kAtDataBlocks);
    const uint16_t salt_bytes = LoadLe<uint16_t>(bytes + kAtSaltBytes);
    if (!IsBlockSize(tree->data_block_bytes) ||
        !IsBlockSize(tree->hash_block_bytes) || salt_bytes > kSaltBytesMax) {
      return Bad(absl::StrCat("blocks of ", tree->data_block_bytes, " and ",
                              tree->hash_block_bytes, " bytes, a salt of ",
                              salt_bytes));
    }
    salt_.assign(bytes + kAtSalt, bytes + kAtSalt + salt_bytes);
    tree->salt = salt_bytes == 0 ? "-" : Hex(salt_.data(), salt_bytes);
    tree->first_hash_block =
        (offset_ + kSuperblockBytes + tree->hash_block_bytes - 1) /
        tree->hash_block_bytes;
    return Sizes(*tree);
  }

  absl::Status Top(const VerityTree& tree, const std::string& root_hash) {
    std::vector<uint8_t> block(tree.hash_block_bytes);
    absl::Status status =
        hashes_.read(tree.first_hash_block * tree.hash_block_bytes, block);
    if (!status.ok()) return status;
    tools::Sha256 sum;
    sum.Update(salt_);
    sum.Update(block);
    const std::string found = sum.Finish();
    if (found == root_hash) return absl::OkStatus();
    return Bad(
        absl::StrCat("its root hash is ", found, "; expected ", root_hash));
  }

 private:
  std::string Where() const {
    return absl::StrCat(data_.name, ": the hash tree at ", offset_, " of ",
                        hashes_.name);
  }
  absl::Status Bad(const std::string& what) const {
    return absl::DataLossError(absl::StrCat(Where(), ": ", what));
  }

  absl::Status Sizes(const VerityTree& tree) const {
    // Where the tree is behind the data, these end before it.
    const uint64_t room = &data_ == &hashes_ ? offset_ : data_.bytes;
    if (tree.data_blocks < 2 ||
        tree.data_blocks > room / tree.data_block_bytes) {
      return Bad(absl::StrCat("it is of ", tree.data_blocks, " blocks of ",
                              tree.data_block_bytes, " bytes; the image has ",
                              room, " bytes"));
    }
    const uint64_t has = hashes_.bytes / tree.hash_block_bytes;
    const uint64_t needs = TreeBlocks(tree);
    if (tree.first_hash_block > has || needs > has - tree.first_hash_block) {
      return Bad(absl::StrCat("it needs ", needs, " blocks from ",
                              tree.first_hash_block, " on; the image has ",
                              has));
    }
    return absl::OkStatus();
  }

  const ReadableImage& data_;
  const ReadableImage& hashes_;
  const uint64_t offset_;
  std::vector<uint8_t> salt_;
};

}  // namespace

absl::StatusOr<VerityTree> ReadVerityTree(const ReadableImage& data,
                                          const ReadableImage& hashes,
                                          uint64_t offset,
                                          const std::string& root_hash) {
  Reader reader(data, hashes, offset);
  VerityTree tree;
  absl::Status status = reader.Superblock(&tree);
  if (status.ok()) status = reader.Top(tree, root_hash);
  if (!status.ok()) return status;
  return tree;
}

std::string VerityTable(const VerityTree& tree, const std::string& data_device,
                        const std::string& hash_device,
                        const std::string& root_hash, bool restarts) {
  return absl::StrCat("1 ", data_device, " ", hash_device, " ",
                      tree.data_block_bytes, " ", tree.hash_block_bytes, " ",
                      tree.data_blocks, " ", tree.first_hash_block, " ",
                      kAlgorithm, " ", root_hash, " ", tree.salt,
                      restarts ? " 1 restart_on_corruption" : "");
}

}  // namespace dmu::ota
