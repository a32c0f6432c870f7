// SPDX-License-Identifier: Apache-2.0
//
// undo_format.cc - see undo_format.h.
#include "daemon/merge/undo_format.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit_check.h"

namespace dmu::merge {
namespace {

constexpr uint64_t kSuperblockMagic = 0x4f444e5555534d44;  // "DMSUUNDO"
constexpr uint64_t kGroupMagic = 0x31444c4f55534d44;       // "DMSUOLD1"
constexpr uint32_t kVersion = 1;
// Of the superblock, what never changes.
constexpr uint32_t kFixedBytes = 48;
constexpr uint32_t kEntryBytes = 12;
static_assert(kUndoEntriesOffset + kUndoGroupBlocksMax * kEntryBytes <=
              kBlockBytes - 8);

// Sealed: the last 8 bytes are the check of those before.
uint64_t Seal(uint8_t* bytes, size_t count) {
  const uint64_t check = cow::Digest({bytes, count - 8});
  StoreLe<uint64_t>(bytes + count - 8, check);
  return check;
}

bool IsSealed(const uint8_t* bytes, size_t count, uint64_t* check) {
  *check = cow::Digest({bytes, count - 8});
  return LoadLe<uint64_t>(bytes + count - 8) == *check;
}

}  // namespace

uint64_t UndoCowId(const cow::Image& image) {
  uint8_t bytes[cow::kHeaderBytesMax + 24] = {};
  cow::Header header = image.header;
  header.num_merge_ops = 0;
  cow::EncodeHeader(header, bytes);
  uint8_t* const more = bytes + cow::kHeaderBytesMax;
  StoreLe<uint64_t>(more, image.index.merge_count());
  StoreLe<uint64_t>(more + 8, image.data_end);
  StoreLe<uint64_t>(more + 16,
                    image.has_extension ? image.extension.ops_check : 0);
  return cow::Digest(bytes);
}

uint64_t UndoLogBytes(const cow::Image& image) {
  const uint64_t blocks = image.merge_bytes / kBlockBytes;
  // Each window ends with a group of its own. Those with a conflict are short
  // when there is no scratch region to lead them through.
  const uint64_t groups = image.header.has_scratch() ? blocks / 32 : blocks;
  return kBlockBytes * (1 + blocks + groups + 64);
}

uint32_t UndoBlockCheck(const uint8_t block[kBlockBytes]) {
  return cow::UnitCheck({block, kBlockBytes});
}

uint64_t EncodeUndoSuperblock(const UndoSuperblock& super,
                              uint8_t sector[kSectorBytes]) {
  std::memset(sector, 0, kSectorBytes);
  StoreLe<uint64_t>(sector, kSuperblockMagic);
  StoreLe<uint32_t>(sector + 8, kVersion);
  StoreLe<uint32_t>(sector + 12, kBlockBytes);
  StoreLe<uint64_t>(sector + 16, super.cow_id);
  StoreLe<uint64_t>(sector + 24, super.base_bytes);
  StoreLe<uint64_t>(sector + 32, super.merge_ops);
  StoreLe<uint64_t>(sector + 40, super.target_bytes);
  StoreLe<uint64_t>(sector + kFixedBytes, super.durable_position);
  Seal(sector, kSectorBytes);
  return cow::Digest({sector, kFixedBytes});
}

const char* DecodeUndoSuperblock(const uint8_t sector[kSectorBytes],
                                 UndoSuperblock* super, uint64_t* previous) {
  if (LoadLe<uint64_t>(sector) != kSuperblockMagic) {
    return "is no undo log";
  }
  if (LoadLe<uint32_t>(sector + 8) != kVersion) {
    return "is an undo log of another version; use the dmuserctl that made it";
  }
  uint64_t check = 0;
  if (!IsSealed(sector, kSectorBytes, &check) ||
      LoadLe<uint32_t>(sector + 12) != kBlockBytes) {
    return "is an undo log whose first sector is corrupt";
  }
  super->cow_id = LoadLe<uint64_t>(sector + 16);
  super->base_bytes = LoadLe<uint64_t>(sector + 24);
  super->merge_ops = LoadLe<uint64_t>(sector + 32);
  super->target_bytes = LoadLe<uint64_t>(sector + 40);
  super->durable_position = LoadLe<uint64_t>(sector + kFixedBytes);
  *previous = cow::Digest({sector, kFixedBytes});
  return nullptr;
}

uint64_t EncodeUndoGroup(const UndoGroup& group, uint8_t block[kBlockBytes]) {
  DMU_CHECK(group.count <= kUndoGroupBlocksMax);
  std::memset(block, 0, kBlockBytes);
  StoreLe<uint64_t>(block, kGroupMagic);
  StoreLe<uint64_t>(block + 8, group.previous);
  StoreLe<uint64_t>(block + 16, group.begin_position);
  StoreLe<uint64_t>(block + 24, group.end_position);
  StoreLe<uint64_t>(block + 32, group.window_position);
  StoreLe<uint32_t>(block + 40, static_cast<uint32_t>(group.kind));
  StoreLe<uint32_t>(block + 44, group.count);
  for (uint32_t i = 0; i < group.count; ++i) {
    uint8_t* const entry = block + kUndoEntriesOffset + i * kEntryBytes;
    StoreLe<uint32_t>(entry, group.entries[i].block);
    StoreLe<uint32_t>(entry + 4, group.entries[i].position);
    StoreLe<uint32_t>(entry + 8, group.entries[i].check);
  }
  return Seal(block, kBlockBytes);
}

bool DecodeUndoGroup(const uint8_t block[kBlockBytes], uint64_t previous,
                     uint64_t begin_position, uint64_t merge_ops,
                     UndoGroup* group, uint64_t* check) {
  if (LoadLe<uint64_t>(block) != kGroupMagic ||
      !IsSealed(block, kBlockBytes, check)) {
    return false;
  }
  const auto kind = LoadLe<uint32_t>(block + 40);
  group->previous = LoadLe<uint64_t>(block + 8);
  group->begin_position = LoadLe<uint64_t>(block + 16);
  group->end_position = LoadLe<uint64_t>(block + 24);
  group->window_position = LoadLe<uint64_t>(block + 32);
  group->kind = static_cast<UndoKind>(kind);
  group->count = LoadLe<uint32_t>(block + 44);
  const bool tail = group->kind == UndoKind::kTail;
  if (group->previous != previous || kind > 3 ||
      group->count > kUndoGroupBlocksMax ||
      group->begin_position != begin_position ||
      group->end_position > merge_ops ||
      group->window_position > group->begin_position ||
      (tail ? group->begin_position != merge_ops || group->count == 0
            : group->begin_position >= group->end_position)) {
    return false;
  }
  uint64_t position = group->begin_position;
  for (uint32_t i = 0; i < group->count; ++i) {
    const uint8_t* const entry = block + kUndoEntriesOffset + i * kEntryBytes;
    UndoEntry& to = group->entries[i];
    to.block = LoadLe<uint32_t>(entry);
    to.position = LoadLe<uint32_t>(entry + 4);
    to.check = LoadLe<uint32_t>(entry + 8);
    if (to.position < position ||
        (!tail && to.position >= group->end_position)) {
      return false;
    }
    position = to.position;
  }
  return true;
}

}  // namespace dmu::merge
