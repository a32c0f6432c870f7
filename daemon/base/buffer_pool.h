// SPDX-License-Identifier: Apache-2.0
//
// buffer_pool.h - all payload memory of the daemon, mapped once at start.
//
// Address space only until a buffer is first used; nothing grows. A channel
// that gets no buffer does not read its file, so the pressure stays with the
// kernel's queue, and waits here for the next one that is given back.
#ifndef DAEMON_BASE_BUFFER_POOL_H_
#define DAEMON_BASE_BUFFER_POOL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/base/task.h"
#include "daemon/base/types.h"

namespace dmu {

class BufferPool {
 public:
  // One payload: what `dmuserctl map` asks the kernel to cut requests to. A
  // longer request is carried in pieces of this size.
  static constexpr uint32_t kBufferBytes = 64 * 1024;

  // nullptr without address space. count >= 1.
  static std::unique_ptr<BufferPool> Create(uint32_t count);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // A buffer of kBufferBytes, page aligned, or nullptr when all are in use.
  uint8_t* Acquire();
  // Gives it back and runs the longest waiting task, if there is one.
  void Release(uint8_t* buffer);

  // Runs `waiter` once, from inside Release, when a buffer is free. It stays
  // linked until then or until CancelWait.
  void Wait(Task* waiter);
  void CancelWait(Task* waiter);

  uint32_t count() const { return count_; }
  uint32_t in_use() const {
    return count_ - static_cast<uint32_t>(free_.size());
  }
  // Runs `burst` once, from inside Acquire, when more than `few` are in use;
  // nullptr takes it back.
  void TellOfBurst(uint32_t few, Task* burst);
  // The most that were in use since the last call, at least what is now.
  uint32_t TakePeak();
  // Gives the memory of unused buffers back to the system; they stay usable.
  void Trim();

 private:
  BufferPool(uint8_t* memory, uint32_t count);

  uint8_t* const memory_;
  const uint32_t count_;
  std::vector<uint32_t> free_;  // indexes; capacity taken at start
  uint32_t peak_ = 0;
  uint32_t few_ = 0;
  Task* burst_ = nullptr;
  Task* waiters_head_ = nullptr;
  Task* waiters_tail_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_BASE_BUFFER_POOL_H_
