// SPDX-License-Identifier: Apache-2.0
//
// sparse_map.h - Android's sparse image format, version 1: where in a file the
// bytes of the image are that it stands for.
//
// The file is a header, then chunks: raw data, a pattern of four bytes, "don't
// care", and checksums of the image so far. What nobody cares for reads as
// zeros here. All little-endian.
// Memory: 16 bytes per piece, and no more pieces than the image has blocks; the
// data stay in the file.
#ifndef TOOLS_SPARSE_MAP_H_
#define TOOLS_SPARSE_MAP_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"

namespace dmu::tools {

class SparseMap {
 public:
  // Whether the file begins as such a one does. False for a block device,
  // which is an image by itself whatever it holds.
  static absl::StatusOr<bool> IsSparse(const File& file);

  // Reads the headers of all chunks and, when there are checksums, all data:
  // they are compared. kDataLoss, with the chunk and its offset, for what is
  // cut, counted wrongly or damaged; kUnimplemented for another version.
  static absl::StatusOr<SparseMap> Load(const File& file);

  uint64_t size_bytes() const { return uint64_t{blocks_} * block_bytes_; }

  // Bytes of the image, inside it, from the file it was loaded from. Any
  // thread.
  absl::Status ReadAt(const File& file, uint64_t offset, ByteSpan out) const;

  // The bytes from `offset` (inside the image) on that are all zeros without a
  // look at any data; 0 when the first one may be another.
  uint64_t ZerosAt(uint64_t offset) const;

 private:
  friend class SparseParser;

  // Reaches to the next one, the last to the end of the image.
  struct Piece {
    uint64_t value;  // of a fill its four bytes; else the offset in the file
    uint32_t first_block;
    bool is_fill;
  };

  size_t PieceAt(uint64_t block) const;
  uint64_t EndOf(size_t piece) const;  // bytes

  uint32_t block_bytes_ = 0;  // a multiple of 4
  uint32_t blocks_ = 0;
  std::vector<Piece> pieces_;  // ascending; none is empty
};

}  // namespace dmu::tools

#endif  // TOOLS_SPARSE_MAP_H_
