// SPDX-License-Identifier: Apache-2.0
//
// sparse_file.h - writes Android's sparse format, chunk by chunk and also
// wrongly, for tests of what reads it.
#ifndef TEST_SPARSE_FILE_H_
#define TEST_SPARSE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dmu::test {

class SparseFile {
 public:
  using Bytes = std::vector<uint8_t>;

  explicit SparseFile(uint32_t block_bytes = 4096, uint16_t header_bytes = 28,
                      uint16_t chunk_header_bytes = 12);

  SparseFile& Raw(const Bytes& data);  // whole blocks
  SparseFile& Fill(uint32_t blocks, uint32_t pattern);
  SparseFile& DontCare(uint32_t blocks);
  SparseFile& Crc();  // of the image so far
  // Anything.
  SparseFile& Chunk(uint16_t type, uint32_t blocks, uint32_t bytes,
                    const Bytes& data);

  // With the counts of what was added.
  Bytes Done() const;
  // What Done() stands for; not for images that are too large for memory.
  const Bytes& image() const { return image_; }

 private:
  const uint32_t block_bytes_;
  const uint16_t header_bytes_;
  const uint16_t chunk_header_bytes_;
  uint32_t blocks_ = 0;
  uint32_t chunks_ = 0;
  Bytes body_;
  Bytes image_;
};

// Overwrites the two or four bytes at `offset`.
void Put16(SparseFile::Bytes* file, size_t offset, uint16_t value);
void Put32(SparseFile::Bytes* file, size_t offset, uint32_t value);

}  // namespace dmu::test

#endif  // TEST_SPARSE_FILE_H_
