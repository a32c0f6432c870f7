// SPDX-License-Identifier: Apache-2.0
//
// target_reader.h - the target image, read from COW file and base as they are
// now, at any state of the merge.
//
// A block comes from the scratch region when a window is staged that holds it;
// else from the op that gives it, if that op is not merged yet; else from the
// base. Source blocks of ops that are not merged yet are intact in the base:
// that is what the merge order is for.
//
// One thread. A few decoded units and pages of the op table are kept.
#ifndef TOOLS_TARGET_READER_H_
#define TOOLS_TARGET_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "daemon/cow/codec.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/mapped_file.h"

namespace dmu::tools {

class TargetReader {
 public:
  // All must outlive it. source: what copies and xors read, when that is not
  // the base (an untouched old image beside a half-merged one); else nullptr.
  // kFailedPrecondition when an image does not fit, kResourceExhausted without
  // memory.
  static absl::StatusOr<TargetReader> Create(const CowFile& cow,
                                             const File& base,
                                             const File* source = nullptr);

  // For ReadUnit alone: no base is needed.
  static absl::StatusOr<TargetReader> CreateForUnits(const CowFile& cow);

  // From now on the files are read through mappings: for many small reads all
  // over the image. The files' pages count as this process's memory then.
  absl::Status UseMappings();

  uint64_t target_bytes() const { return target_bytes_; }

  // Bytes of the image from any offset on, inside it. kDataLoss when data in
  // the COW file is corrupt; its message says which.
  absl::Status ReadAt(uint64_t offset, ByteSpan out);

  // A piece of the image that is the same kind of thing throughout.
  struct Piece {
    uint32_t first_block = 0;
    uint32_t blocks = 0;
    bool zero = false;    // then `bytes` is empty
    ConstByteSpan bytes;  // valid until the next call
  };
  // The piece at `block` (inside the image), at most kPieceBlocks long, and not
  // longer than blocks_max (>= 1).
  static constexpr uint32_t kPieceBlocks = cow::kUnitBytesMax / kBlockBytes;
  absl::StatusOr<Piece> ReadPiece(uint32_t block,
                                  uint32_t blocks_max = kPieceBlocks);

  // The op and, when it has data, its unit, checked and decoded (of an xor what
  // is to be xored). Valid until the next call. For checks of a whole file.
  struct Unit {
    cow::Op op;
    ConstByteSpan bytes;
  };
  absl::StatusOr<Unit> ReadUnit(uint32_t op_number);

 private:
  // Direct-mapped; the units are few, since each may have 256 KiB. A page, with
  // its ops decoded, has 11 KiB.
  static constexpr uint32_t kUnits = 8;
  static constexpr uint32_t kPagesMax = 1024;
  static constexpr uint32_t kNone = UINT32_MAX;
  struct CachedPage {
    uint32_t number = kNone;
    cow::OpTable::Page page;
    std::vector<cow::Op> ops;
    std::vector<uint32_t> checks;
  };
  struct CachedUnit {
    uint32_t op = kNone;
    std::vector<uint8_t> bytes;
  };

  TargetReader(const CowFile& cow, const File* base, const File* source);

  absl::StatusOr<const CachedPage*> FindPage(uint32_t op_number);
  // The piece at `block`; bytes that are read for it go to `room`, which has
  // space for blocks_max blocks.
  absl::StatusOr<Piece> Find(uint32_t block, uint32_t blocks_max,
                             uint8_t* room);
  absl::StatusOr<Piece> ReadStaged(uint32_t block, uint64_t file_offset,
                                   uint8_t* room);
  absl::StatusOr<Piece> ReadOpAt(const cow::Index::Found& found, uint32_t block,
                                 uint32_t blocks_max, uint8_t* room);
  absl::StatusOr<Piece> ReadCopies(const CachedPage& page,
                                   const cow::Index::Found& found,
                                   uint32_t blocks_max, uint8_t* room);
  absl::StatusOr<Piece> ReadBase(uint32_t block, uint32_t blocks_max,
                                 uint8_t* room);
  // One of the three files, by its mapping if there is one.
  static absl::Status Read(const File& file,
                           const std::optional<MappedFile>& mapping,
                           uint64_t offset, ByteSpan out);
  absl::Status ReadCow(uint64_t offset, ByteSpan out) const;
  absl::Status ReadOld(const cow::Op& op, ByteSpan out);
  absl::StatusOr<ConstByteSpan> FindUnit(const cow::Op& op, uint32_t number,
                                         const uint32_t* check);
  absl::Status Corrupt(const cow::Op& op, uint32_t number,
                       const char* what) const;
  // The op that gives the block and is not merged.
  std::optional<cow::Index::Found> FindPending(uint32_t block) const;

  const CowFile* cow_;
  const File* base_;
  const File* source_;
  std::optional<MappedFile> cow_mapping_;
  std::optional<MappedFile> base_mapping_;
  std::optional<MappedFile> source_mapping_;  // the base's, unless it differs
  uint64_t target_bytes_ = 0;
  std::unique_ptr<cow::Codec> codec_;
  std::vector<cow::ScratchEntry> staged_;  // ascending by block
  std::vector<uint8_t> stored_;
  std::vector<uint8_t> out_;
  std::vector<CachedPage> pages_;
  std::vector<CachedUnit> units_;
};

}  // namespace dmu::tools

#endif  // TOOLS_TARGET_READER_H_
