// SPDX-License-Identifier: Apache-2.0
//
// verity.h - the hash tree that "veritysetup format" puts behind or beside an
// image, as far as dm-verity must be told of it: its superblock, and whether
// its top fits a root hash. Pure: reads through what it is given.
//
// Served: format 1, SHA-256, a superblock.
#ifndef TOOLS_OTA_VERITY_H_
#define TOOLS_OTA_VERITY_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"

namespace dmu::ota {

// An image with its size, as it will be mapped.
struct ReadableImage {
  std::string name;  // for sentences
  uint64_t bytes = 0;
  std::function<absl::Status(uint64_t offset, ByteSpan out)> read;
};

struct VerityTree {
  uint32_t data_block_bytes = 0;
  uint32_t hash_block_bytes = 0;
  uint64_t data_blocks = 0;
  uint64_t first_hash_block = 0;  // of the image that has the tree
  std::string salt;               // hexadecimal; "-" for none

  uint64_t data_bytes() const { return data_blocks * data_block_bytes; }
};

// Reads the superblock at `offset` of `hashes` and the top of the tree behind
// it. kDataLoss when it is damaged, does not fit into the images, or its top
// has not this root hash (lower-case); kUnimplemented for what is not served.
// Data and hashes may be one image: the tree is behind the data then.
absl::StatusOr<VerityTree> ReadVerityTree(const ReadableImage& data,
                                          const ReadableImage& hashes,
                                          uint64_t offset,
                                          const std::string& root_hash);

// The table of target "verity" over two devices. restarts: what does not fit
// its hash restarts the machine; else it is an I/O error.
std::string VerityTable(const VerityTree& tree, const std::string& data_device,
                        const std::string& hash_device,
                        const std::string& root_hash, bool restarts);

}  // namespace dmu::ota

#endif  // TOOLS_OTA_VERITY_H_
