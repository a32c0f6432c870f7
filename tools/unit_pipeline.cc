// SPDX-License-Identifier: Apache-2.0
//
// unit_pipeline.cc - see unit_pipeline.h. A ring of slots: threads claim the
// next piece of work while its slot is free, the consumer takes slots in order.
#include "tools/unit_pipeline.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "daemon/base/check.h"
#include "daemon/cow/unit_check.h"

namespace dmu::tools {
namespace {

constexpr unsigned kSlotsPerThread = 4;
constexpr size_t kXorsPerSlot = 16;

// Of the n-th xor, in the buffers of a slot: as it is, and compressed.
uint32_t OffsetInSlot(size_t n) {
  return static_cast<uint32_t>(n) * kBlockBytes;
}
uint32_t CompressedOffset(size_t n) {
  return static_cast<uint32_t>(n) * cow::Compressor::BoundBytes(kBlockBytes);
}

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
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool UnitPipeline::Claim(Slot* slot) {
  slot->status = absl::OkStatus();
  slot->xors.clear();
  slot->made.clear();
  while (next_ordered_ < plan_.ordered.size() &&
         slot->xors.size() < kXorsPerSlot) {
    const DiffPlan::Ordered& op = plan_.ordered[next_ordered_++];
    if (!op.is_xor) continue;
    slot->made.push_back({{op.new_block, 0}, OffsetInSlot(slot->xors.size())});
    slot->xors.push_back(op);
  }
  if (!slot->xors.empty()) return true;
  UnitCutter::Unit unit;
  if (!cutter_.Next(&unit)) return false;
  slot->made.push_back({unit});
  return true;
}

absl::Status UnitPipeline::ReadXors(Slot* slot) const {
  uint8_t old_bytes[kBlockBytes];
  for (size_t i = 0; i < slot->xors.size(); ++i) {
    const DiffPlan::Ordered& op = slot->xors[i];
    const ByteSpan out(slot->raw.data() + OffsetInSlot(i), kBlockBytes);
    absl::Status status = old_.read(op.source_bytes, old_bytes);
    if (status.ok()) {
      status = new_.read(uint64_t{op.new_block} * kBlockBytes, out);
    }
    if (!status.ok()) return status;
    for (uint32_t b = 0; b < kBlockBytes; ++b) out[b] ^= old_bytes[b];
  }
  return absl::OkStatus();
}

void UnitPipeline::Make(cow::Compressor* compressor, Slot* slot) const {
  if (compressor == nullptr) {
    slot->status = absl::ResourceExhaustedError("no memory for a compressor");
    return;
  }
  const UnitCutter::Unit& last = slot->made.back().unit;
  const uint64_t bytes = slot->made.back().offset + last.bytes();
  if (slot->raw.size() < bytes) {
    slot->raw.resize(bytes);
    // Every unit alone has its bound; together they have no more.
    slot->compressed.resize(std::max<size_t>(
        CompressedOffset(kXorsPerSlot),
        cow::Compressor::BoundBytes(static_cast<uint32_t>(last.bytes()))));
  }
  if (slot->xors.empty()) {
    slot->status = new_.read(uint64_t{last.new_block} * kBlockBytes,
                             ByteSpan(slot->raw.data(), bytes));
  } else {
    slot->status = ReadXors(slot);
  }
  if (!slot->status.ok()) return;
  for (size_t i = 0; i < slot->made.size(); ++i) {
    Made& made = slot->made[i];
    const ByteSpan raw(slot->raw.data() + made.offset, made.unit.bytes());
    uint8_t* const to = slot->compressed.data() + CompressedOffset(i);
    const auto unit_bytes = static_cast<uint32_t>(raw.size());
    const ByteSpan out(to, format_.always
                               ? cow::Compressor::BoundBytes(unit_bytes)
                               : unit_bytes);
    made.compressed_bytes = format_.always
                                ? compressor->CompressAlways(raw, out)
                                : compressor->Compress(raw, out);
    made.check = cow::UnitCheck(
        made.compressed_bytes == 0 ? raw : out.first(made.compressed_bytes));
  }
}

void UnitPipeline::Work() {
  const std::unique_ptr<cow::Compressor> compressor =
      cow::Compressor::Create(format_.compression, format_.max_unit_bytes);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(
        lock, [this] { return stop_ || claimed_ - consumed_ < slots_.size(); });
    if (stop_) return;
    Slot& slot = slots_[claimed_ % slots_.size()];
    if (!Claim(&slot)) return;
    ++claimed_;
    lock.unlock();
    Make(compressor.get(), &slot);
    lock.lock();
    slot.ready = true;
    changed_.notify_all();
  }
}

absl::StatusOr<UnitPipeline::Stored> UnitPipeline::Next() {
  Slot* slot = &slots_[consumed_ % slots_.size()];
  // What the caller had last was the slot's last one: it is free now.
  if (next_made_ != 0 && next_made_ == slot->made.size()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    slot->ready = false;
    ++consumed_;
    next_made_ = 0;
    changed_.notify_all();
    slot = &slots_[consumed_ % slots_.size()];
  }
  if (next_made_ == 0) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [slot] { return slot->ready; });
  }
  if (!slot->status.ok()) return slot->status;
  const size_t i = next_made_++;
  const Made& made = slot->made[i];
  const ConstByteSpan bytes =
      made.compressed_bytes == 0
          ? ConstByteSpan(slot->raw.data() + made.offset, made.unit.bytes())
          : ConstByteSpan(slot->compressed.data() + CompressedOffset(i),
                          made.compressed_bytes);
  return Stored{made.unit, bytes, made.check};
}

}  // namespace dmu::tools
