// SPDX-License-Identifier: Apache-2.0
//
// decoder_arena.h - the memory a decompressor may take while it decodes.
//
// Owns: which parts of one fixed piece of memory are given out. Libraries get
// it as their allocator, so that no stream, however made, takes from the heap
// or takes more than this. The books are kept beside the memory and not in it.
#ifndef DAEMON_COW_DECODER_ARENA_H_
#define DAEMON_COW_DECODER_ARENA_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dmu::cow {

template <size_t kBytes>
class DecoderArena {
 public:
  // The first gap that is large enough, aligned to 16; nullptr when there is
  // none. Contents are undefined.
  void* Allocate(size_t bytes) {
    if (bytes > kBytes || live_ == kPiecesMax) return nullptr;
    bytes = std::max<size_t>((bytes + 15) & ~size_t{15}, 16);
    size_t begin = 0;
    size_t at = 0;
    while (at < live_ && pieces_[at].begin - begin < bytes) {
      begin = pieces_[at].end;
      ++at;
    }
    if (at == live_ && kBytes - begin < bytes) return nullptr;
    std::copy_backward(pieces_ + at, pieces_ + live_, pieces_ + live_ + 1);
    pieces_[at] = {begin, begin + bytes};
    ++live_;
    return memory_ + begin;
  }

  // A piece that Allocate gave, or nullptr.
  void Free(const void* memory) {
    for (size_t i = 0; i < live_; ++i) {
      if (memory_ + pieces_[i].begin != memory) continue;
      std::copy(pieces_ + i + 1, pieces_ + live_, pieces_ + i);
      --live_;
      return;
    }
  }

  // Takes everything back.
  void Reset() { live_ = 0; }

 private:
  // brotli's decoder holds ten pieces at a time, zlib's two.
  static constexpr size_t kPiecesMax = 32;
  struct Piece {
    size_t begin;
    size_t end;
  };

  size_t live_ = 0;
  Piece pieces_[kPiecesMax];  // live_ of them, ascending
  // Not initialised: pages nobody uses are not touched.
  alignas(16) uint8_t memory_[kBytes];
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_DECODER_ARENA_H_
