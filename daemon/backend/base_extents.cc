// SPDX-License-Identifier: Apache-2.0
//
// base_extents.cc - see base_extents.h.
#include "daemon/backend/base_extents.h"

#include <algorithm>
#include <new>

#include "daemon/base/check.h"

namespace dmu {
namespace {

constexpr uint64_t kBlockSectors = kBlockBytes / kSectorBytes;

}  // namespace

BaseExtents::BaseExtents(const Parts& parts)
    : parts_(parts), sweep_(OnSweep, this) {
  flush_.kind = DiskOp::Kind::kFlush;
  flush_.done.run = OnFlushed;
  flush_.done.context = this;
}

BaseExtents::~BaseExtents() {
  DMU_CHECK(!flushing_);
  parts_.loop->Cancel(&sweep_);
}

void BaseExtents::Begin(Redirect* redirect, uint64_t device_bytes) {
  // A block that two ops give may be written again once it is merged.
  if (parts_.image->index.duplicate_count() > 0) return;
  redirect_ = redirect;
  end_sector_ = std::min({device_bytes, parts_.base->size_bytes(),
                          uint64_t{UINT32_MAX} * kBlockBytes}) /
                kSectorBytes;
  flushing_ = true;
  parts_.base->Submit(&flush_);
}

void BaseExtents::OnFlushed(void* context) {
  auto* self = static_cast<BaseExtents*>(context);
  self->flushing_ = false;
  if (self->flush_.status != IoStatus::kOk) self->redirect_ = nullptr;
  if (self->stopped_ != nullptr) {
    self->parts_.loop->Post(self->stopped_);
  } else {
    self->Sweep();
  }
}

void BaseExtents::OnSweep(void* context) {
  static_cast<BaseExtents*>(context)->Sweep();
}

// The part of the run that is before the end of the device.
Redirect::Extent BaseExtents::Extent(uint64_t first_block,
                                     uint64_t blocks) const {
  Redirect::Extent extent;
  extent.first_sector = extent.base_sector = first_block * kBlockSectors;
  extent.sectors =
      std::min(blocks * kBlockSectors,
               end_sector_ - std::min(end_sector_, extent.first_sector));
  return extent;
}

void BaseExtents::Sweep() {
  if (redirect_ == nullptr) return;
  Redirect::Extent extents[kExtentsPerTurn];
  size_t count = 0;
  // The bound on the looks is for a file with an op for each block.
  for (size_t looks = 0;
       count < extents_per_turn_ && looks < size_t{16} * extents_per_turn_ &&
       swept_blocks_ * kBlockSectors < end_sector_;
       ++looks) {
    const uint64_t first_block = swept_blocks_;
    const uint64_t left =
        (end_sector_ + kBlockSectors - 1) / kBlockSectors - first_block;
    const merge::Piece piece = parts_.view->Lookup(
        static_cast<uint32_t>(first_block), static_cast<uint32_t>(left));
    swept_blocks_ += piece.blocks;
    if (piece.where != merge::Piece::Where::kBase) continue;
    DMU_CHECK(piece.offset == first_block * kBlockBytes);
    extents[count++] = Extent(first_block, piece.blocks);
  }
  if (count > 0 && !redirect_->Add(extents, count)) incomplete_ = true;
  if (swept_blocks_ * kBlockSectors < end_sector_) {
    parts_.loop->PostIdle(&sweep_);
  }
}

void BaseExtents::OnCommitted(const merge::Window* window) {
  // Before the sweep has begun it will see all of it.
  if (redirect_ == nullptr || swept_blocks_ == 0) return;
  if (window != nullptr && runs_capacity_ < window->capacity) {
    // Where the merge takes its memory; it is gone with the merge.
    runs_.reset(new (std::nothrow) Run[window->capacity]);
    runs_capacity_ = runs_ != nullptr ? window->capacity : 0;
  }
  if (window == nullptr || runs_capacity_ == 0) {
    incomplete_ = true;
    return;
  }
  size_t count = 0;
  for (uint32_t i = 0; i < window->ops; ++i) {
    const cow::Op& op = window->entries[i].op;
    // A unit may reach over the place where the sweep is.
    if (op.new_block >= swept_blocks_) continue;
    runs_[count].first_block = op.new_block;
    runs_[count].blocks = static_cast<uint32_t>(
        std::min<uint64_t>(op.span_blocks(), swept_blocks_ - op.new_block));
    ++count;
  }
  std::sort(runs_.get(), runs_.get() + count, [](const Run& a, const Run& b) {
    return a.first_block < b.first_block;
  });
  TellRuns(runs_.get(), count);
}

// Ascending; neighbours become one extent.
void BaseExtents::TellRuns(const Run* runs, size_t count) {
  Redirect::Extent extents[kExtentsPerTurn];
  size_t told = 0;
  for (size_t i = 0; i < count;) {
    const uint64_t first_block = runs[i].first_block;
    uint64_t end_block = first_block;
    for (; i < count && runs[i].first_block == end_block; ++i) {
      end_block += runs[i].blocks;
    }
    const Redirect::Extent extent =
        Extent(first_block, end_block - first_block);
    if (extent.sectors > 0) extents[told++] = extent;
    if (told < kExtentsPerTurn && i < count) continue;
    if (told > 0 && !redirect_->Add(extents, told)) incomplete_ = true;
    told = 0;
  }
}

void BaseExtents::OnMerged() {
  runs_.reset();
  runs_capacity_ = 0;
  if (redirect_ == nullptr || flushing_ || !incomplete_) return;
  // One extent instead of many. Reads that are under way are right as they are.
  incomplete_ = false;
  parts_.loop->Cancel(&sweep_);
  redirect_->Clear();
  swept_blocks_ = 0;
  Sweep();
}

void BaseExtents::Stop(Task* stopped) {
  DMU_CHECK(stopped_ == nullptr);
  stopped_ = stopped;
  redirect_ = nullptr;
  parts_.loop->Cancel(&sweep_);
  if (!flushing_) parts_.loop->Post(stopped_);
}

}  // namespace dmu
