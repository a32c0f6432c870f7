// SPDX-License-Identifier: Apache-2.0
//
// diff_compare.cc - see diff_compare.h. Every byte is looked at while it is in
// the cache of the core that read it: compared first, and hashed once where the
// images agree.
#include "tools/diff_compare.h"

#include <algorithm>
#include <cstring>

#include "daemon/cow/unit_check.h"
#include "tools/parallel.h"

namespace dmu::tools {
namespace {

// Read at a time, from either image: both pieces fit a core's second-level
// cache beside each other.
constexpr uint32_t kPieceBlocks = 32;
static_assert(kChunkBlocks % kPieceBlocks == 0);

bool IsZero(const uint8_t* block) {
  // Zero at the front, and every byte equal to the one eight before it.
  uint64_t first;
  std::memcpy(&first, block, sizeof(first));
  return first == 0 && std::memcmp(block, block + 8, kBlockBytes - 8) == 0;
}

uint64_t HashBlock(const uint8_t* block) {
  return cow::Digest(ConstByteSpan(block, kBlockBytes));
}

ConstByteSpan BytesOf(const uint64_t* hashes, uint64_t count) {
  // Little-endian by definition, which is what every machine served here is.
  return ConstByteSpan(reinterpret_cast<const uint8_t*>(hashes), count * 8);
}

class Comparer {
 public:
  Comparer(const DiffImage& old_image, const DiffImage& new_image,
           Comparison* result)
      : old_(old_image), new_(new_image), result_(*result) {}

  absl::Status Chunk(uint64_t chunk) {
    const uint64_t begin = chunk * kChunkBlocks;
    const uint64_t end = begin + kChunkBlocks;
    for (uint64_t at = begin; at < end; at += kPieceBlocks) {
      absl::Status status = Piece(at);
      if (!status.ok()) return status;
    }
    if (begin < new_.blocks) {
      const uint64_t count =
          std::min<uint64_t>(kChunkBlocks, new_.blocks - begin);
      result_.target_checks[chunk] =
          cow::UnitCheck(BytesOf(&result_.new_hashes[begin], count));
    }
    return absl::OkStatus();
  }

 private:
  static uint32_t BlocksAt(const DiffImage& image, uint64_t first) {
    if (first >= image.blocks) return 0;
    return static_cast<uint32_t>(
        std::min<uint64_t>(kPieceBlocks, image.blocks - first));
  }

  static absl::Status Read(const DiffImage& image, uint64_t first,
                           uint32_t blocks, uint8_t* out) {
    if (blocks == 0) return absl::OkStatus();
    return image.read(OffsetOf(first), ByteSpan(out, OffsetOf(blocks)));
  }

  absl::Status Piece(uint64_t first) {
    thread_local std::vector<uint8_t> bytes(2 * OffsetOf(kPieceBlocks));
    uint8_t* const old_bytes = bytes.data();
    uint8_t* const new_bytes = bytes.data() + OffsetOf(kPieceBlocks);
    const uint32_t old_count = BlocksAt(old_, first);
    const uint32_t new_count = BlocksAt(new_, first);
    absl::Status status = Read(old_, first, old_count, old_bytes);
    if (status.ok()) status = Read(new_, first, new_count, new_bytes);
    if (!status.ok()) return status;
    for (uint32_t i = 0; i < std::max(old_count, new_count); ++i) {
      Block(first + i, i < old_count ? old_bytes + OffsetOf(i) : nullptr,
            i < new_count ? new_bytes + OffsetOf(i) : nullptr);
    }
    return absl::OkStatus();
  }

  uint64_t Hash(const uint8_t* block, bool* zero) const {
    *zero = IsZero(block);
    return *zero ? result_.zero_hash : HashBlock(block);
  }

  // nullptr: the image does not reach this far.
  void Block(uint64_t number, const uint8_t* old_block,
             const uint8_t* new_block) {
    bool zero = false;
    if (old_block != nullptr) {
      result_.old_hashes[number] = Hash(old_block, &zero);
    }
    if (new_block == nullptr) return;
    if (old_block != nullptr &&
        std::memcmp(old_block, new_block, kBlockBytes) == 0) {
      result_.new_hashes[number] = result_.old_hashes[number];
      result_.kinds[number] = BlockKind::kSame;
      return;
    }
    result_.new_hashes[number] = Hash(new_block, &zero);
    result_.kinds[number] = zero ? BlockKind::kZero : BlockKind::kReplace;
  }

  const DiffImage& old_;
  const DiffImage& new_;
  Comparison& result_;
};

}  // namespace

absl::Status CompareImages(const DiffImage& old_image,
                           const DiffImage& new_image, unsigned threads,
                           const std::function<void(uint64_t)>& done,
                           Comparison* result) {
  const std::vector<uint8_t> zeros(kBlockBytes);
  result->zero_hash = HashBlock(zeros.data());
  result->old_hashes.resize(old_image.blocks);
  result->new_hashes.resize(new_image.blocks);
  result->kinds.resize(new_image.blocks);
  result->target_checks.resize(ChunksOf(new_image.blocks));
  const uint64_t blocks = std::max(old_image.blocks, new_image.blocks);
  const uint64_t bytes =
      OffsetOf(uint64_t{old_image.blocks} + new_image.blocks);
  const uint64_t chunks = ChunksOf(blocks);
  Comparer comparer(old_image, new_image, result);
  absl::Status status = ParallelFor(chunks, threads, [&](uint64_t chunk) {
    absl::Status piece = comparer.Chunk(chunk);
    // Shares that add up to the whole whatever the images' sizes.
    done(bytes * (chunk + 1) / chunks - bytes * chunk / chunks);
    return piece;
  });
  if (!status.ok()) return status;
  result->any_replace = std::find(result->kinds.begin(), result->kinds.end(),
                                  BlockKind::kReplace) != result->kinds.end();
  return absl::OkStatus();
}

}  // namespace dmu::tools
