// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "daemon/base/check.h"

namespace dmu {

std::unique_ptr<BufferPool> BufferPool::Create(uint32_t count) {
  DMU_CHECK(count >= 1);
  void* memory =
      mmap(nullptr, size_t{count} * kBufferBytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  // A child process has no use for it, and a write to a page that both have
  // would cost another one. Without the advice it works as well.
  madvise(memory, size_t{count} * kBufferBytes, MADV_DONTFORK);
  // Nor is the first buffer to bring all others with it.
  madvise(memory, size_t{count} * kBufferBytes, MADV_NOHUGEPAGE);
  return std::unique_ptr<BufferPool>(
      new BufferPool(static_cast<uint8_t*>(memory), count));
}

BufferPool::BufferPool(uint8_t* memory, uint32_t count)
    : memory_(memory),
      count_(count),
      free_(count, true),
      free_count_(count),
      run_(count),
      pieces_(count) {
  static_assert(kPieces == 8 * sizeof(pieces_[0]));
  partial_.reserve(count);
}

BufferPool::~BufferPool() {
  DMU_CHECK(free_count_ == count_);
  munmap(memory_, size_t{count_} * kBufferBytes);
}

bool BufferPool::CanAcquire(uint64_t bytes, const Share& share) const {
  uint64_t left_bytes = uint64_t{free_count_} * kBufferBytes;
  if (FitsPiece(bytes)) left_bytes += uint64_t{pieces_free_} * kPieceBytes;
  return left_bytes > 0 && share.bytes <= left_bytes;
}

uint8_t* BufferPool::Acquire(uint64_t bytes, Share* share) {
  DMU_CHECK(bytes <= kBufferBytes);
  if (uint8_t* given = std::exchange(share->given, nullptr)) {
    if (bytes <= Bytes(given)) return given;
    Release(given, share);
  }
  return CanAcquire(bytes, *share) ? Take(bytes, share) : nullptr;
}

uint8_t* BufferPool::Take(uint64_t bytes, Share* share) {
  if (FitsPiece(bytes)) {
    share->bytes += kPieceBytes;
    return AcquirePiece();
  }
  share->bytes += kBufferBytes;
  return memory_ + size_t{AcquireWhole()} * kBufferBytes;
}

uint64_t BufferPool::Bytes(const uint8_t* buffer) const {
  const size_t i = static_cast<size_t>(buffer - memory_) / kBufferBytes;
  return pieces_[i] != 0 ? kPieceBytes : uint64_t{run_[i]} * kBufferBytes;
}

uint8_t* BufferPool::AcquireRun(uint64_t bytes, Share* share,
                                uint64_t* got_bytes) {
  const uint64_t wanted =
      (std::min<uint64_t>(bytes, kRunBytesMax) + kBufferBytes - 1) /
      kBufferBytes;
  // As much again stays for others.
  uint64_t most = std::min<uint64_t>(wanted, free_count_ / 2);
  if (waiters_head_ != nullptr || share->given != nullptr) most = 1;
  for (auto buffers = static_cast<uint32_t>(most); buffers > 1; --buffers) {
    const uint64_t run_bytes = uint64_t{buffers} * kBufferBytes;
    const uint64_t left_bytes = uint64_t{free_count_} * kBufferBytes;
    if (share->bytes + run_bytes > left_bytes) continue;
    const uint32_t first = FindRun(buffers);
    if (first == count_) continue;
    MarkTaken(first, buffers);
    share->bytes += run_bytes;
    *got_bytes = std::min(bytes, run_bytes);
    return memory_ + size_t{first} * kBufferBytes;
  }
  *got_bytes = std::min<uint64_t>(bytes, kBufferBytes);
  return Acquire(*got_bytes, share);
}

// Lowest first: a quiet daemon keeps using the same few buffers and touches no
// others.
uint32_t BufferPool::FindRun(uint32_t buffers) const {
  uint32_t in_row = 0;
  for (uint32_t i = 0; i < count_; ++i) {
    in_row = free_[i] ? in_row + 1 : 0;
    if (in_row == buffers) return i + 1 - buffers;
  }
  return count_;
}

void BufferPool::MarkTaken(uint32_t first, uint32_t buffers) {
  for (uint32_t i = first; i < first + buffers; ++i) free_[i] = false;
  free_count_ -= buffers;
  run_[first] = static_cast<uint8_t>(buffers);
  if (in_use() > peak_) peak_ = in_use();
  if (burst_ != nullptr && in_use() > few_) {
    Task* burst = std::exchange(burst_, nullptr);
    burst->run(burst->context);
  }
}

void BufferPool::MarkFree(uint32_t first, uint32_t buffers) {
  for (uint32_t i = first; i < first + buffers; ++i) {
    DMU_CHECK(!free_[i]);
    free_[i] = true;
  }
  free_count_ += buffers;
  run_[first] = 0;
}

// Its index. There is one.
uint32_t BufferPool::AcquireWhole() {
  const uint32_t i = FindRun(1);
  DMU_CHECK(i < count_);
  MarkTaken(i, 1);
  return i;
}

uint8_t* BufferPool::AcquirePiece() {
  if (partial_.empty()) {
    const uint32_t i = AcquireWhole();
    ++cut_;
    pieces_free_ += kPieces;
    partial_.push_back(i);
  }
  const uint32_t i = partial_.back();
  const auto piece = static_cast<uint32_t>(std::countr_one(pieces_[i]));
  pieces_[i] = static_cast<uint16_t>(pieces_[i] | 1u << piece);
  --pieces_free_;
  if (std::countr_one(pieces_[i]) == kPieces) partial_.pop_back();
  return memory_ + size_t{i} * kBufferBytes + size_t{piece} * kPieceBytes;
}

void BufferPool::Release(uint8_t* buffer, Share* share) {
  const size_t distance = static_cast<size_t>(buffer - memory_);
  DMU_CHECK(distance % kPieceBytes == 0);
  DMU_CHECK(distance / kBufferBytes < count_);
  const auto i = static_cast<uint32_t>(distance / kBufferBytes);
  const uint64_t bytes = Bytes(buffer);
  DMU_CHECK(bytes > 0 && share->bytes >= bytes);
  share->bytes -= bytes;
  if (pieces_[i] != 0) {
    ReleasePiece(i, distance % kBufferBytes / kPieceBytes);
  } else {
    DMU_CHECK(distance % kBufferBytes == 0);
    MarkFree(i, run_[i]);
  }
  HandOut();
}

void BufferPool::ReleasePiece(uint32_t i, uint32_t piece) {
  const auto bit = static_cast<uint16_t>(1u << piece);
  DMU_CHECK((pieces_[i] & bit) != 0);
  if (std::countr_one(pieces_[i]) == kPieces) partial_.push_back(i);
  pieces_[i] = static_cast<uint16_t>(pieces_[i] & ~bit);
  ++pieces_free_;
  if (pieces_[i] != 0) return;
  partial_.erase(std::find(partial_.begin(), partial_.end(), i));
  pieces_free_ -= kPieces;
  --cut_;
  MarkFree(i, 1);
}

// Nobody who can get something is left waiting: what others ask for later is
// more than that.
void BufferPool::HandOut() {
  Waiter* next = nullptr;
  for (Waiter* waiter = waiters_head_; waiter != nullptr; waiter = next) {
    next = static_cast<Waiter*>(waiter->next);
    if (!CanAcquire(waiter->bytes, *waiter->share)) continue;
    Unlink(waiter);
    DMU_CHECK(waiter->share->given == nullptr);
    waiter->share->given = Take(waiter->bytes, waiter->share);
    waiter->run(waiter->context);
  }
}

void BufferPool::Wait(Waiter* waiter, uint64_t bytes, Share* share) {
  waiter->bytes = bytes;
  waiter->share = share;
  if (waiter->queued) return;
  waiter->queued = true;
  waiter->next = nullptr;
  if (waiters_tail_ != nullptr) {
    waiters_tail_->next = waiter;
  } else {
    waiters_head_ = waiter;
  }
  waiters_tail_ = waiter;
}

void BufferPool::CancelWait(Waiter* waiter) {
  if (waiter->queued) {
    Unlink(waiter);
  } else if (waiter->share != nullptr && waiter->share->given != nullptr) {
    Release(std::exchange(waiter->share->given, nullptr), waiter->share);
  }
}

void BufferPool::Unlink(Waiter* waiter) {
  Waiter* previous = nullptr;
  for (Waiter* at = waiters_head_; at != waiter;
       at = static_cast<Waiter*>(at->next)) {
    previous = at;
  }
  auto* next = static_cast<Waiter*>(waiter->next);
  if (previous != nullptr) {
    previous->next = next;
  } else {
    waiters_head_ = next;
  }
  if (waiters_tail_ == waiter) waiters_tail_ = previous;
  waiter->next = nullptr;
  waiter->queued = false;
}

void BufferPool::TellOfBurst(uint32_t few, Task* burst) {
  few_ = few;
  burst_ = burst;
}

uint32_t BufferPool::TakePeak() { return std::exchange(peak_, in_use()); }

void BufferPool::Trim() {
  for (uint32_t i = 0; i < count_; ++i) {
    if (!free_[i]) continue;
    madvise(memory_ + size_t{i} * kBufferBytes, kBufferBytes, MADV_DONTNEED);
  }
}

}  // namespace dmu
