// SPDX-License-Identifier: Apache-2.0
//
// buffer_pool.h - all payload memory of the daemon, mapped once at start.
//
// Address space only until a buffer is first used; nothing grows. A channel
// that gets no buffer does not read its file, so the pressure stays with the
// kernel's queue, and waits here for the next one that is given back. That one
// is its own from then on: who is busy and asks all the time does not take it
// from who has waited.
//
// Nobody gets more than is left for the others: a channel whose storage does
// not answer ends up with half of the pool, the next one with a quarter, and
// those that do answer still go on.
//
// What needs no more than a piece of a buffer gets one: a disk that takes many
// small requests at a time is not to need megabytes for them. At most half of
// the buffers are cut into pieces, so that small requests, however many, never
// keep long ones out for good.
//
// What is longer than a buffer gets several in a row, while there is plenty: a
// megabyte in four parts costs less than in sixteen. When there is not, one.
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
  // What there is for any request; a longer one is carried in parts. A snapshot
  // asks the kernel to cut requests to this.
  static constexpr uint32_t kBufferBytes = 64 * 1024;
  // The most in a row; what a file or disk asks the kernel to cut requests to.
  static constexpr uint32_t kRunBytesMax = 4 * kBufferBytes;
  // The commonest request; and a page, which O_DIRECT and Trim are content
  // with.
  static constexpr uint32_t kPieceBytes = 4096;

  // nullptr without address space. count >= 1.
  static std::unique_ptr<BufferPool> Create(uint32_t count);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // What one channel holds. Outlives all that it has and its Waiter, of which
  // it has at most one.
  struct Share {
    uint64_t bytes = 0;
    // Kept for it by the pool since its Waiter was run; part of `bytes`.
    uint8_t* given = nullptr;
  };
  // Linked in the pool while it waits; then it runs once, from inside Release
  // or CancelWait, and must not call the pool from there.
  struct Waiter : Task {
    using Task::Task;
    uint64_t bytes = 0;
    Share* share = nullptr;
  };

  // At least `bytes`, of at most kBufferBytes, page aligned; nullptr when there
  // is none, or none for this share.
  uint8_t* Acquire(uint64_t bytes, Share* share);
  // As Acquire, for any number of bytes: *got_bytes says how many there is room
  // for, which may be fewer; not fewer than Acquire gives, and what to wait for
  // when there is none.
  uint8_t* AcquireRun(uint64_t bytes, Share* share, uint64_t* got_bytes);
  // Gives it back. What is free then is for those who wait, the first of them
  // first; who cannot have it does not keep it from the next one.
  void Release(uint8_t* buffer, Share* share);

  // After Acquire gave nothing: runs `waiter` when there is a buffer for it,
  // which the next Acquire of that share gets.
  void Wait(Waiter* waiter, uint64_t bytes, Share* share);
  // No effect on one that never waited. Gives back what it was run for and has
  // not asked for.
  void CancelWait(Waiter* waiter);

  uint32_t count() const { return count_; }
  // With a piece in use, or whole.
  uint32_t in_use() const { return count_ - free_count_; }
  // Runs `burst` once, from inside Acquire or Release, when more than `few` are
  // in use; nullptr takes it back.
  void TellOfBurst(uint32_t few, Task* burst);
  // The most that were in use since the last call, at least what is now.
  uint32_t TakePeak();
  // Gives the memory of unused buffers back to the system; they stay usable.
  void Trim();

 private:
  static constexpr uint32_t kPieces = kBufferBytes / kPieceBytes;

  BufferPool(uint8_t* memory, uint32_t count);
  bool CanAcquire(uint64_t bytes, const Share& share) const;
  bool FitsPiece(uint64_t bytes) const {
    return bytes <= kPieceBytes && (!partial_.empty() || cut_ < count_ / 2);
  }
  // The first of `buffers` free ones in a row; count_ when there are none.
  uint32_t FindRun(uint32_t buffers) const;
  void MarkTaken(uint32_t first, uint32_t buffers);
  void MarkFree(uint32_t first, uint32_t buffers);
  uint8_t* Take(uint64_t bytes, Share* share);
  void HandOut();
  void Unlink(Waiter* waiter);
  // Of the buffer, or piece of one, that begins there and is in use.
  uint64_t Bytes(const uint8_t* buffer) const;
  uint32_t AcquireWhole();
  uint8_t* AcquirePiece();
  void ReleasePiece(uint32_t i, uint32_t piece);

  uint8_t* const memory_;
  const uint32_t count_;
  std::vector<bool> free_;
  uint32_t free_count_;
  // Of the buffer a run begins with, how many it has; else 0.
  std::vector<uint8_t> run_;
  // Of each buffer the pieces in use; 0: it is not cut.
  std::vector<uint16_t> pieces_;
  // Cut buffers with pieces to be had; capacity taken at start.
  std::vector<uint32_t> partial_;
  uint32_t cut_ = 0;          // buffers that are cut
  uint32_t pieces_free_ = 0;  // in them
  uint32_t peak_ = 0;
  uint32_t few_ = 0;
  Task* burst_ = nullptr;
  Waiter* waiters_head_ = nullptr;
  Waiter* waiters_tail_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_BASE_BUFFER_POOL_H_
