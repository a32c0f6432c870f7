// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/buffer_pool.h"

#include <sys/mman.h>

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
    : memory_(memory), count_(count) {
  free_.reserve(count);
  // Handed out from the back, lowest first: a quiet daemon keeps using the same
  // few buffers and touches no others.
  for (uint32_t i = count; i > 0; --i) free_.push_back(i - 1);
}

BufferPool::~BufferPool() {
  DMU_CHECK(free_.size() == count_);
  munmap(memory_, size_t{count_} * kBufferBytes);
}

uint8_t* BufferPool::Acquire() {
  if (free_.empty()) return nullptr;
  const uint32_t i = free_.back();
  free_.pop_back();
  if (in_use() > peak_) peak_ = in_use();
  if (burst_ != nullptr && in_use() > few_) {
    Task* burst = std::exchange(burst_, nullptr);
    burst->run(burst->context);
  }
  return memory_ + size_t{i} * kBufferBytes;
}

void BufferPool::Release(uint8_t* buffer) {
  const size_t distance = static_cast<size_t>(buffer - memory_);
  DMU_CHECK(distance % kBufferBytes == 0);
  DMU_CHECK(distance / kBufferBytes < count_);
  DMU_CHECK(free_.size() < count_);
  free_.push_back(static_cast<uint32_t>(distance / kBufferBytes));
  if (waiters_head_ == nullptr) return;
  Task* waiter = waiters_head_;
  CancelWait(waiter);
  waiter->run(waiter->context);
}

void BufferPool::Wait(Task* waiter) {
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

void BufferPool::CancelWait(Task* waiter) {
  Task* previous = nullptr;
  for (Task* task = waiters_head_; task != nullptr;
       previous = task, task = task->next) {
    if (task != waiter) continue;
    (previous != nullptr ? previous->next : waiters_head_) = task->next;
    if (waiters_tail_ == task) waiters_tail_ = previous;
    task->next = nullptr;
    task->queued = false;
    return;
  }
}

void BufferPool::TellOfBurst(uint32_t few, Task* burst) {
  few_ = few;
  burst_ = burst;
}

uint32_t BufferPool::TakePeak() { return std::exchange(peak_, in_use()); }

void BufferPool::Trim() {
  for (uint32_t i : free_) {
    madvise(memory_ + size_t{i} * kBufferBytes, kBufferBytes, MADV_DONTNEED);
  }
}

}  // namespace dmu
