// SPDX-License-Identifier: Apache-2.0
//
// unit_pipeline.cc - see unit_pipeline.h. A ring of slots: threads claim the
// next unit while its slot is free, the consumer takes slots in order.
#include "tools/unit_pipeline.h"

#include <algorithm>
#include <bit>

#include "daemon/base/check.h"

namespace dmu::tools {
namespace {

constexpr unsigned kSlotsPerThread = 4;

}  // namespace

bool UnitCutter::Next(Unit* unit) {
  while (run_ < runs_->size()) {
    const DiffPlan::Run& run = (*runs_)[run_];
    const uint32_t left = run.blocks - done_blocks_;
    if (run.zero || left == 0) {
      ++run_;
      done_blocks_ = 0;
      continue;
    }
    unit->new_block = run.new_block + done_blocks_;
    unit->span_log2 = static_cast<uint8_t>(
        std::bit_width(std::min(left, max_unit_blocks_)) - 1);
    done_blocks_ += uint32_t{1} << unit->span_log2;
    return true;
  }
  return false;
}

UnitPipeline::UnitPipeline(const DiffImage& image,
                           const std::vector<DiffPlan::Run>& runs,
                           const cow::CompressionSpec& spec,
                           uint32_t max_unit_bytes, unsigned threads)
    : image_(image),
      spec_(spec),
      max_unit_bytes_(max_unit_bytes),
      slots_(size_t{threads} * kSlotsPerThread),
      cutter_(runs, max_unit_bytes) {
  DMU_CHECK(threads >= 1);
  for (unsigned i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { Work(); });
  }
}

UnitPipeline::~UnitPipeline() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void UnitPipeline::Make(cow::Compressor* compressor, Slot* slot) const {
  if (compressor == nullptr) {
    slot->status = absl::ResourceExhaustedError("no memory for a compressor");
    return;
  }
  slot->raw.resize(slot->unit.bytes());
  slot->compressed.resize(slot->unit.bytes());
  slot->status =
      image_.read(uint64_t{slot->unit.new_block} * kBlockBytes, slot->raw);
  if (!slot->status.ok()) return;
  slot->compressed_bytes = compressor->Compress(slot->raw, slot->compressed);
}

void UnitPipeline::Work() {
  const std::unique_ptr<cow::Compressor> compressor =
      cow::Compressor::Create(spec_, max_unit_bytes_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(
        lock, [this] { return stop_ || claimed_ - consumed_ < slots_.size(); });
    if (stop_) return;
    Slot& slot = slots_[claimed_ % slots_.size()];
    if (!cutter_.Next(&slot.unit)) return;
    ++claimed_;
    lock.unlock();
    Make(compressor.get(), &slot);
    lock.lock();
    slot.ready = true;
    changed_.notify_all();
  }
}

absl::StatusOr<UnitPipeline::Stored> UnitPipeline::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (holding_) {
    slots_[consumed_ % slots_.size()].ready = false;
    ++consumed_;
    changed_.notify_all();
  }
  holding_ = true;
  Slot& slot = slots_[consumed_ % slots_.size()];
  changed_.wait(lock, [&slot] { return slot.ready; });
  if (!slot.status.ok()) return slot.status;
  const bool raw = slot.compressed_bytes == 0;
  return Stored{slot.unit, raw ? ConstByteSpan(slot.raw)
                               : ConstByteSpan(slot.compressed.data(),
                                               slot.compressed_bytes)};
}

}  // namespace dmu::tools
