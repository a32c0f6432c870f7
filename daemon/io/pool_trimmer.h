// SPDX-License-Identifier: Apache-2.0
//
// pool_trimmer.h - gives the memory of the buffer pool back when a burst of
// requests is over.
//
// Buffers take memory when they are first used and keep it. This looks, while
// there is a burst, four times a second whether more than a few were in use
// since the last look; when not, what is unused goes back to the system.
// Without a burst it does nothing and wakes nobody. Steady load keeps what it
// has.
//
// Not for a daemon whose memory is locked: that has taken all of it on purpose.
#ifndef DAEMON_IO_POOL_TRIMMER_H_
#define DAEMON_IO_POOL_TRIMMER_H_

#include <cstdint>

#include "daemon/base/buffer_pool.h"
#include "daemon/base/task.h"
#include "daemon/io/loop.h"

namespace dmu {

class PoolTrimmer {
 public:
  // What a few requests at a time need: never given back by this.
  static constexpr uint32_t kKeptBuffers = 4;
  static constexpr uint64_t kQuietUs = 250'000;

  // Both outlive this.
  PoolTrimmer(BufferPool* pool, Loop* loop);
  ~PoolTrimmer();
  PoolTrimmer(const PoolTrimmer&) = delete;
  PoolTrimmer& operator=(const PoolTrimmer&) = delete;

 private:
  static void OnBurst(void* context);
  static void OnLook(void* context);

  BufferPool* const pool_;
  Loop* const loop_;
  Task burst_{OnBurst, this};
  Timer look_{OnLook, this};
};

}  // namespace dmu

#endif  // DAEMON_IO_POOL_TRIMMER_H_
