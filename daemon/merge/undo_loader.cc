// SPDX-License-Identifier: Apache-2.0
//
// undo_loader.cc - see undo_loader.h.
#include "daemon/merge/undo_loader.h"

#include <algorithm>
#include <string>

#include "daemon/base/check.h"

namespace dmu::merge {
namespace {

bool IsZero(ConstByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](uint8_t byte) { return byte == 0; });
}

// Whether no merge has changed the base yet, as far as the file can tell: one
// without a scratch region has no state byte.
bool NotBegun(const cow::Image& image) {
  return image.progress.merged_ops == 0 &&
         image.progress.verdict == cow::Progress::Verdict::kIdle &&
         (image.progress.untouched || !image.header.has_scratch());
}

// What of M the merge may have overwritten by its own account.
uint64_t NeededPosition(const cow::Image& image) {
  const cow::Progress& progress = image.progress;
  if (progress.verdict != cow::Progress::Verdict::kReplay) {
    return progress.merged_ops;
  }
  return progress.merged_ops + progress.scratch.size();
}

absl::Status NotFromTheBeginning(const cow::Image& image, uint64_t position) {
  return absl::FailedPreconditionError(
      "the log has what ops 0 to " + std::to_string(position) +
      " of the merge order overwrote, but the merge is at op " +
      std::to_string(NeededPosition(image)) +
      ": it began, or went on, without this log, so the old image cannot be "
      "brought back with it");
}

}  // namespace

UndoLoader::UndoLoader(const cow::Image& image, uint64_t log_bytes,
                       Purpose purpose)
    : image_(image), log_bytes_(log_bytes), purpose_(purpose) {
  if (log_bytes_ >= kBlockBytes) {
    want_ = {0, kBlockBytes};
  }
}

UndoSuperblock UndoLoader::MakeSuperblock(const cow::Image& image,
                                          uint64_t base_bytes) {
  UndoSuperblock super;
  super.cow_id = UndoCowId(image);
  super.base_bytes = base_bytes;
  super.merge_ops = image.index.merge_count();
  super.target_bytes = cow::TargetBytes(image, base_bytes);
  return super;
}

absl::Status UndoLoader::Feed(ConstByteSpan bytes) {
  DMU_CHECK(!done_ && bytes.size() == want_.bytes);
  switch (part_) {
    case Part::kSuperblock:
      return TakeSuperblock(bytes);
    case Part::kGroup:
      return TakeGroup(bytes);
    case Part::kData:
      return TakeData(bytes);
    case Part::kEnd:
      break;
  }
  return End();
}

absl::Status UndoLoader::TakeSuperblock(ConstByteSpan bytes) {
  const char* error = "is no undo log";
  if (!bytes.empty()) {
    error = DecodeUndoSuperblock(bytes.data(), &super_, &tail_.previous);
  }
  if (error != nullptr) {
    if (bytes.empty() || IsZero(bytes)) {
      if (purpose_ == Purpose::kUndo) {
        return absl::FailedPreconditionError(
            "the log is empty: no merge has overwritten anything under it");
      }
      if (!NotBegun(image_)) return NotFromTheBeginning(image_, 0);
      fresh_ = done_ = true;
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(std::string("the file ") + error);
  }
  if (super_.cow_id != UndoCowId(image_) ||
      super_.merge_ops != image_.index.merge_count() ||
      super_.target_bytes != cow::TargetBytes(image_, super_.base_bytes)) {
    return absl::FailedPreconditionError(
        "the log belongs to the merge of another COW file");
  }
  durable_position_ = std::max(NeededPosition(image_), super_.durable_position);
  WantGroup();
  return part_ == Part::kEnd ? End() : absl::OkStatus();
}

void UndoLoader::WantGroup() {
  if (tail_.offset + kBlockBytes > log_bytes_) {
    part_ = Part::kEnd;
    return;
  }
  part_ = Part::kGroup;
  want_ = {tail_.offset, kBlockBytes};
}

// Nobody but the merge itself may say which blocks an undo writes.
bool UndoLoader::FitsMerge() const {
  const bool scratch = group_.kind == UndoKind::kThroughScratch;
  if (scratch && group_.count != group_.end_position - group_.begin_position) {
    return false;
  }
  for (uint32_t i = 0; i < group_.count; ++i) {
    const UndoEntry& entry = group_.entries[i];
    if (group_.kind == UndoKind::kTail) {
      const uint64_t offset = uint64_t{entry.block} * kBlockBytes;
      if (entry.position != super_.merge_ops || offset < super_.target_bytes ||
          offset >= super_.base_bytes) {
        return false;
      }
      continue;
    }
    const auto found = image_.index.Find(entry.block);
    if (!found.has_value() || found->position != entry.position) return false;
    if (scratch && (!cow::IsOrderedOp(found->type) ||
                    entry.position != group_.begin_position + i)) {
      return false;
    }
  }
  return true;
}

absl::Status UndoLoader::TakeGroup(ConstByteSpan bytes) {
  if (!DecodeUndoGroup(bytes.data(), tail_.previous, tail_.position,
                       super_.merge_ops, &group_, &group_check_) ||
      tail_.offset + group_.bytes() > log_bytes_) {
    part_ = Part::kEnd;
    return End();
  }
  if (!FitsMerge()) {
    return absl::DataLossError(
        "the log is corrupt at offset " + std::to_string(tail_.offset) +
        ": it names blocks that this merge does not write there");
  }
  // What a durable commit has passed was durable before it.
  const bool sure = group_.end_position <= durable_position_ &&
                    group_.kind != UndoKind::kTail;
  if (group_.count == 0 || (sure && purpose_ == Purpose::kAppend)) {
    Accept();
    return part_ == Part::kEnd ? End() : absl::OkStatus();
  }
  part_ = Part::kData;
  want_ = {tail_.offset + kBlockBytes, group_.count * kBlockBytes};
  return absl::OkStatus();
}

absl::Status UndoLoader::TakeData(ConstByteSpan bytes) {
  for (uint32_t i = 0; i < group_.count; ++i) {
    const UndoEntry& entry = group_.entries[i];
    if (UndoBlockCheck(bytes.data() + size_t{i} * kBlockBytes) == entry.check) {
      continue;
    }
    if (entry.position >= durable_position_) {
      // It was not durable yet, so its window has not touched the base.
      part_ = Part::kEnd;
      return End();
    }
    return absl::DataLossError(
        "the log is corrupt at offset " +
        std::to_string(want_.offset + uint64_t{i} * kBlockBytes) +
        ": this is not the old content of block " +
        std::to_string(entry.block));
  }
  Accept();
  return part_ == Part::kEnd ? End() : absl::OkStatus();
}

void UndoLoader::Accept() {
  if (purpose_ == Purpose::kUndo) {
    places_.push_back({tail_.offset, group_.previous, group_.begin_position,
                       group_.end_position, group_.window_position, group_.kind,
                       group_.count});
  }
  if (group_.kind == UndoKind::kTail) tail_blocks_ += group_.count;
  blocks_ += group_.count;
  tail_.offset += group_.bytes();
  tail_.position = group_.end_position;
  tail_.previous = group_check_;
  WantGroup();
}

absl::Status UndoLoader::End() {
  done_ = true;
  const uint64_t cut_blocks =
      super_.base_bytes > super_.target_bytes
          ? (super_.base_bytes - super_.target_bytes) / kBlockBytes
          : 0;
  if (tail_.position < std::min(super_.durable_position, super_.merge_ops) ||
      (super_.durable_position > super_.merge_ops &&
       tail_blocks_ < cut_blocks)) {
    return absl::DataLossError("the log is corrupt at offset " +
                               std::to_string(tail_.offset) +
                               ": what was there once is there no more");
  }
  if (tail_.position < NeededPosition(image_)) {
    return NotFromTheBeginning(image_, tail_.position);
  }
  return absl::OkStatus();
}

}  // namespace dmu::merge
