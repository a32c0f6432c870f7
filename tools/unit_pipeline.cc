// SPDX-License-Identifier: Apache-2.0
//
// unit_pipeline.cc - see unit_pipeline.h. A ring of slots: threads claim the
// next piece of work while its slot is free, the consumer takes slots in order.
#include "tools/unit_pipeline.h"

#include <algorithm>
#include <bit>

#include "daemon/base/check.h"
#include "daemon/cow/unit_check.h"

namespace dmu::tools {
namespace {

constexpr unsigned kSlotsPerThread = 8;
// Small units go through the threads together: handing over one by one would
// cost as much as compressing it.
constexpr uint32_t kPieceBytes = 64 * 1024;

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

UnitPipeline::UnitPipeline(const DiffImage& old_image,
                           const DiffImage& new_image, const DiffPlan& plan,
                           const Format& format, unsigned threads)
    : old_(old_image),
      new_(new_image),
      plan_(plan),
      format_(format),
      slots_(size_t{threads} * kSlotsPerThread),
      cutter_(plan.rest, format.max_unit_bytes) {
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
  slot_free_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool UnitPipeline::NextItem(Item* item) {
  *item = Item();
  while (next_ordered_ < plan_.ordered.size()) {
    const DiffPlan::Ordered& op = plan_.ordered[next_ordered_++];
    if (!op.is_xor) continue;
    item->unit.new_block = op.new_block;
    item->source_bytes = op.source_bytes;
    return true;
  }
  return cutter_.Next(&item->unit);
}

uint32_t UnitPipeline::StoredBytesMax(uint32_t unit_bytes) const {
  return format_.always ? cow::Compressor::BoundBytes(unit_bytes) : unit_bytes;
}

bool UnitPipeline::Claim(Slot* slot) {
  slot->status = absl::OkStatus();
  slot->items.clear();
  slot->raw_bytes = 0;
  slot->compressed_bytes = 0;
  for (Item item; slot->raw_bytes < kPieceBytes && NextItem(&item);) {
    const auto bytes = static_cast<uint32_t>(item.unit.bytes());
    item.raw_offset = slot->raw_bytes;
    slot->raw_bytes += bytes;
    item.compressed_offset = slot->compressed_bytes;
    slot->compressed_bytes += StoredBytesMax(bytes);
    slot->items.push_back(item);
  }
  return !slot->items.empty();
}

absl::Status UnitPipeline::Read(const Item& item, ByteSpan raw) const {
  absl::Status status =
      new_.read(uint64_t{item.unit.new_block} * kBlockBytes, raw);
  if (!status.ok() || item.source_bytes == kNotXor) return status;
  uint8_t old_bytes[kBlockBytes];
  status = old_.read(item.source_bytes, old_bytes);
  for (uint32_t i = 0; i < kBlockBytes; ++i) raw[i] ^= old_bytes[i];
  return status;
}

void UnitPipeline::Make(cow::Compressor* compressor, Slot* slot) const {
  if (compressor == nullptr) {
    slot->status = absl::ResourceExhaustedError("no memory for a compressor");
    return;
  }
  if (slot->raw.size() < slot->raw_bytes) slot->raw.resize(slot->raw_bytes);
  if (slot->compressed.size() < slot->compressed_bytes) {
    slot->compressed.resize(slot->compressed_bytes);
  }
  for (Item& item : slot->items) {
    const ByteSpan raw(slot->raw.data() + item.raw_offset, item.unit.bytes());
    const ByteSpan out(slot->compressed.data() + item.compressed_offset,
                       StoredBytesMax(static_cast<uint32_t>(raw.size())));
    slot->status = Read(item, raw);
    if (!slot->status.ok()) return;
    item.compressed_bytes = format_.always
                                ? compressor->CompressAlways(raw, out)
                                : compressor->Compress(raw, out);
    if (format_.always && item.compressed_bytes == 0) {
      slot->status = absl::ResourceExhaustedError("no memory to compress");
      return;
    }
    item.check = cow::UnitCheck(
        item.compressed_bytes == 0 ? raw : out.first(item.compressed_bytes));
  }
}

void UnitPipeline::Work() {
  const std::unique_ptr<cow::Compressor> compressor =
      cow::Compressor::Create(format_.compression, format_.max_unit_bytes);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    slot_free_.wait(
        lock, [this] { return stop_ || claimed_ - consumed_ < slots_.size(); });
    if (stop_) return;
    const uint64_t piece = claimed_;
    Slot& slot = slots_[piece % slots_.size()];
    if (!Claim(&slot)) return;
    ++claimed_;
    lock.unlock();
    Make(compressor.get(), &slot);
    lock.lock();
    slot.ready = true;
    if (piece == consumed_) slot_ready_.notify_one();
  }
}

absl::StatusOr<UnitPipeline::Stored> UnitPipeline::Next() {
  Slot* slot = &slots_[consumed_ % slots_.size()];
  // What the caller had last was the slot's last one: it is free now.
  if (next_item_ != 0 && next_item_ == slot->items.size()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    slot->ready = false;
    ++consumed_;
    next_item_ = 0;
    slot_free_.notify_one();
    slot = &slots_[consumed_ % slots_.size()];
  }
  if (next_item_ == 0) {
    std::unique_lock<std::mutex> lock(mutex_);
    slot_ready_.wait(lock, [slot] { return slot->ready; });
  }
  if (!slot->status.ok()) return slot->status;
  const Item& item = slot->items[next_item_++];
  const ConstByteSpan bytes =
      item.compressed_bytes == 0
          ? ConstByteSpan(slot->raw.data() + item.raw_offset, item.unit.bytes())
          : ConstByteSpan(slot->compressed.data() + item.compressed_offset,
                          item.compressed_bytes);
  return Stored{item.unit, bytes, item.check};
}

}  // namespace dmu::tools
