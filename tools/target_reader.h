// SPDX-License-Identifier: Apache-2.0
//
// target_reader.h - the target image, read from COW file and base as they are
// now, at any state of the merge.
//
// A block comes from the scratch region when a window is staged that holds it;
// else from the op that gives it, if that op is not merged yet; else from the
// base. Source blocks of copies that are not merged yet are intact in the base:
// that is what the merge order is for.
#ifndef TOOLS_TARGET_READER_H_
#define TOOLS_TARGET_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "daemon/cow/codec.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"

namespace dmu::tools {

class TargetReader {
 public:
  // Both must outlive it. kFailedPrecondition when the base does not fit,
  // kUnimplemented for a compressor that is not served.
  static absl::StatusOr<TargetReader> Create(const CowFile& cow,
                                             const File& base);

  uint64_t target_bytes() const { return target_bytes_; }

  // A piece of the image that is the same kind of thing throughout.
  struct Piece {
    uint32_t first_block = 0;
    uint32_t blocks = 0;
    bool zero = false;    // then `bytes` is empty
    ConstByteSpan bytes;  // valid until the next call
  };
  // The piece at `block` (inside the image), at most 64 blocks long.
  // kDataLoss when data in the COW file is corrupt.
  absl::StatusOr<Piece> ReadPiece(uint32_t block);

 private:
  TargetReader(const CowFile& cow, const File& base);

  absl::StatusOr<Piece> ReadStaged(uint32_t block, uint64_t file_offset);
  absl::StatusOr<Piece> ReadOpAt(const cow::Index::Found& found,
                                 uint32_t block);
  absl::StatusOr<Piece> ReadUnit(const cow::Index::Found& found,
                                 const cow::Op& op, uint32_t block);
  absl::StatusOr<Piece> ReadBase(uint32_t block);
  // The op that gives the block and is not merged.
  std::optional<cow::Index::Found> FindPending(uint32_t block) const;

  const CowFile* cow_;
  const File* base_;
  uint64_t target_bytes_ = 0;
  std::unique_ptr<cow::Codec> codec_;
  std::vector<cow::ScratchEntry> staged_;  // ascending by block
  std::vector<uint8_t> stored_;
  std::vector<uint8_t> out_;
  int64_t unit_op_ = -1;  // the op whose unit `out_` holds
};

}  // namespace dmu::tools

#endif  // TOOLS_TARGET_READER_H_
