// SPDX-License-Identifier: Apache-2.0
//
// view.cc - see view.h.
#include "daemon/merge/view.h"

#include <algorithm>

#include "daemon/base/check.h"

namespace dmu::merge {

Piece View::LookupOne(uint32_t block) const {
  Piece piece;
  piece.blocks = 1;
  // The scratch region and staging come first: for the blocks of a window they
  // hold the truth while base and source may be anything.
  if (const uint8_t* data = engine_.Staged(block)) {
    piece.where = Piece::Where::kStaged;
    piece.data = data;
    return piece;
  }
  if (engine_.InScratch(block, &piece.offset)) {
    piece.where = Piece::Where::kScratch;
    piece.position = static_cast<uint32_t>(engine_.merged_ops());
    return piece;
  }
  const auto found = image_.index.Find(block);
  if (!found.has_value() || found->position < engine_.merged_ops()) {
    piece.where = Piece::Where::kBase;
    piece.offset = uint64_t{block} * kBlockBytes;
    const uint32_t end = found.has_value()
                             ? found->new_block + found->span_blocks()
                             : image_.index.NextStart(block);
    // A scratch region that fits no merge order may name any block.
    piece.blocks = std::min(end, engine_.NextInScratch(block)) - block;
    return piece;
  }
  piece.op = found->op;
  piece.new_block = found->new_block;
  piece.span_log2 = found->span_log2;
  piece.position = found->position;
  switch (found->type) {
    case cow::OpType::kZero:
      piece.where = Piece::Where::kZero;
      return piece;
    case cow::OpType::kCopy:
      piece.where = Piece::Where::kCopy;
      return piece;
    case cow::OpType::kXor:
      piece.where = Piece::Where::kXor;
      return piece;
    default:
      break;
  }
  piece.where = Piece::Where::kUnit;
  piece.unit_block = block - found->new_block;
  const uint32_t end = found->new_block + found->span_blocks();
  piece.blocks = std::min(end, engine_.NextInScratch(block)) - block;
  return piece;
}

bool View::Join(Piece* piece, const Piece& next) {
  if (next.where != piece->where) return false;
  const uint64_t bytes = uint64_t{piece->blocks} * kBlockBytes;
  switch (piece->where) {
    case Piece::Where::kZero:
    case Piece::Where::kBase:
      break;
    case Piece::Where::kStaged:
      if (next.data != piece->data + bytes) return false;
      break;
    case Piece::Where::kScratch:
      if (next.offset != piece->offset + bytes) return false;
      break;
    case Piece::Where::kCopy:
      if (next.op != piece->op + piece->blocks) return false;
      break;
    case Piece::Where::kXor:
    case Piece::Where::kUnit:
      return false;
  }
  piece->position = std::min(piece->position, next.position);
  piece->blocks += next.blocks;
  return true;
}

Piece View::Lookup(uint32_t block, uint32_t blocks_max) const {
  DMU_CHECK(blocks_max >= 1);
  Piece piece = LookupOne(block);
  while (piece.blocks < blocks_max &&
         Join(&piece, LookupOne(block + piece.blocks))) {
  }
  piece.blocks = std::min(piece.blocks, blocks_max);
  return piece;
}

}  // namespace dmu::merge
