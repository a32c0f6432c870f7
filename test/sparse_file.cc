// SPDX-License-Identifier: Apache-2.0
//
// sparse_file.cc - see sparse_file.h.
#include "test/sparse_file.h"

#include <cstring>

namespace dmu::test {
namespace {

using Bytes = SparseFile::Bytes;

void Append16(Bytes* out, uint16_t value) {
  out->push_back(static_cast<uint8_t>(value));
  out->push_back(static_cast<uint8_t>(value >> 8));
}

void Append32(Bytes* out, uint32_t value) {
  Append16(out, static_cast<uint16_t>(value));
  Append16(out, static_cast<uint16_t>(value >> 16));
}

// Bit by bit, so that it has nothing in common with what is tested.
uint32_t SlowCrc32(const Bytes& bytes) {
  uint32_t crc = 0xffffffff;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
    }
  }
  return ~crc;
}

}  // namespace

SparseFile::SparseFile(uint32_t block_bytes, uint16_t header_bytes,
                       uint16_t chunk_header_bytes)
    : block_bytes_(block_bytes),
      header_bytes_(header_bytes),
      chunk_header_bytes_(chunk_header_bytes) {}

SparseFile& SparseFile::Raw(const Bytes& data) {
  image_.insert(image_.end(), data.begin(), data.end());
  return Chunk(0xcac1, static_cast<uint32_t>(data.size() / block_bytes_),
               static_cast<uint32_t>(chunk_header_bytes_ + data.size()), data);
}

SparseFile& SparseFile::Fill(uint32_t blocks, uint32_t pattern) {
  Bytes data;
  Append32(&data, pattern);
  for (uint64_t i = 0; i < uint64_t{blocks} * block_bytes_ / 4; ++i) {
    image_.insert(image_.end(), data.begin(), data.end());
  }
  return Chunk(0xcac2, blocks, chunk_header_bytes_ + 4u, data);
}

SparseFile& SparseFile::DontCare(uint32_t blocks) {
  image_.resize(image_.size() + uint64_t{blocks} * block_bytes_);
  return Chunk(0xcac3, blocks, chunk_header_bytes_, {});
}

SparseFile& SparseFile::Crc() {
  Bytes data;
  Append32(&data, SlowCrc32(image_));
  return Chunk(0xcac4, 0, chunk_header_bytes_ + 4u, data);
}

SparseFile& SparseFile::Chunk(uint16_t type, uint32_t blocks, uint32_t bytes,
                              const Bytes& data) {
  const size_t begin = body_.size();
  Append16(&body_, type);
  Append16(&body_, 0);
  Append32(&body_, blocks);
  Append32(&body_, bytes);
  body_.resize(begin + chunk_header_bytes_, 0xee);
  body_.insert(body_.end(), data.begin(), data.end());
  blocks_ += blocks;
  ++chunks_;
  return *this;
}

Bytes SparseFile::Done() const {
  Bytes file;
  Append32(&file, 0xed26ff3a);
  Append16(&file, 1);
  Append16(&file, 0);
  Append16(&file, header_bytes_);
  Append16(&file, chunk_header_bytes_);
  Append32(&file, block_bytes_);
  Append32(&file, blocks_);
  Append32(&file, chunks_);
  Append32(&file, 0);
  file.resize(header_bytes_, 0xee);
  file.insert(file.end(), body_.begin(), body_.end());
  return file;
}

void Put16(Bytes* file, size_t offset, uint16_t value) {
  std::memcpy(file->data() + offset, &value, sizeof(value));
}

void Put32(Bytes* file, size_t offset, uint32_t value) {
  std::memcpy(file->data() + offset, &value, sizeof(value));
}

}  // namespace dmu::test
