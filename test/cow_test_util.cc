// SPDX-License-Identifier: Apache-2.0
//
// cow_test_util.cc - see cow_test_util.h.
#include "test/cow_test_util.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "daemon/base/check.h"
#include "daemon/cow/codec.h"

namespace dmu::test {

Bytes FromHex(absl::string_view hex) {
  Bytes bytes;
  std::string digits;
  for (const char c : hex) {
    if (std::isxdigit(static_cast<unsigned char>(c))) digits += c;
  }
  DMU_CHECK(digits.size() % 2 == 0);
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(
        static_cast<uint8_t>(std::stoul(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<cow::Image>> LoadBytes(
    const Bytes& file, std::optional<uint64_t> label) {
  cow::Loader loader(file.size(), label);
  while (!loader.done()) {
    const cow::Loader::Want want = loader.want();
    DMU_CHECK(want.offset + want.bytes <= file.size());
    DMU_CHECK(want.bytes <= cow::Loader::kChunkBytes);
    // A copy of its own, so that a sanitizer sees a read beyond it.
    const Bytes piece(
        file.begin() + static_cast<int64_t>(want.offset),
        file.begin() + static_cast<int64_t>(want.offset + want.bytes));
    absl::Status status = loader.Feed(piece);
    if (!status.ok()) return status;
  }
  return loader.Take();
}

absl::Status MemorySink::WriteAt(uint64_t offset, ConstByteSpan bytes) {
  events.push_back({false, offset, Bytes(bytes.begin(), bytes.end())});
  Apply(events.back(), &file);
  return absl::OkStatus();
}

absl::Status MemorySink::Sync() {
  events.push_back({true, 0, {}});
  return absl::OkStatus();
}

absl::Status MemorySink::SetEnd(uint64_t bytes) {
  file.resize(bytes);
  return absl::OkStatus();
}

void Apply(const MemorySink::Event& event, Bytes* file) {
  if (event.sync) return;
  const uint64_t end = event.offset + event.bytes.size();
  if (file->size() < end) file->resize(end);
  std::copy(event.bytes.begin(), event.bytes.end(),
            file->begin() + static_cast<int64_t>(event.offset));
}

Bytes RandomBlock(std::mt19937* rng) {
  Bytes block(kBlockBytes);
  switch ((*rng)() % 4) {
    case 0:
      break;
    case 1:
      std::fill(block.begin(), block.end(), static_cast<uint8_t>((*rng)()));
      break;
    case 2:
      for (uint8_t& b : block) b = static_cast<uint8_t>('a' + (*rng)() % 4);
      break;
    default:
      for (uint8_t& b : block) b = static_cast<uint8_t>((*rng)());
  }
  return block;
}

Bytes RandomImage(std::mt19937* rng, uint32_t blocks) {
  Bytes image;
  for (uint32_t i = 0; i < blocks; ++i) {
    const Bytes block = RandomBlock(rng);
    image.insert(image.end(), block.begin(), block.end());
  }
  return image;
}

std::vector<cow::Op> OpsOf(const Bytes& file) {
  const cow::Header header = cow::DecodeHeader(file.data());
  DMU_CHECK(header.is_v3());
  std::vector<cow::Op> ops(header.op_count);
  uint64_t data = header.DataOffset();
  for (size_t i = 0; i < ops.size(); ++i) {
    DMU_CHECK(
        cow::DecodeOpV3(file.data() + header.OpsOffset() + i * cow::kOpBytesV3,
                        header.compression, &ops[i]));
    if (cow::HasData(ops[i].type)) ops[i].data_offset = data;
    data += ops[i].data_length;
  }
  return ops;
}

Bytes NaiveOpData(const Bytes& file, const cow::Op& op,
                  const Bytes& old_image) {
  Bytes data(op.span_bytes());
  if (cow::HasData(op.type)) {
    const auto codec = cow::Codec::Create(cow::CompressionBit(op.compression));
    const ConstByteSpan stored(file.data() + op.data_offset, op.data_length);
    DMU_CHECK(codec->Decode(op.compression, stored, data) == IoStatus::kOk);
  }
  if (cow::IsOrderedOp(op.type)) {
    for (size_t i = 0; i < kBlockBytes; ++i) {
      data[i] =
          static_cast<uint8_t>(data[i] ^ old_image[op.source_bytes() + i]);
    }
  }
  return data;
}

Bytes NaiveTarget(const Bytes& file, const Bytes& old_image,
                  uint32_t target_blocks) {
  Bytes target = old_image;
  target.resize(size_t{target_blocks} * kBlockBytes);
  for (const cow::Op& op : OpsOf(file)) {
    const Bytes data = NaiveOpData(file, op, old_image);
    DMU_CHECK(size_t{op.new_block} * kBlockBytes + data.size() <=
              target.size());
    std::copy(data.begin(), data.end(),
              target.begin() + int64_t{op.new_block} * kBlockBytes);
  }
  return target;
}

}  // namespace dmu::test
