// SPDX-License-Identifier: Apache-2.0
//
// pool_taker.h - takes buffers as if each were of a channel of its own, so that
// no share is too large.
#ifndef TEST_POOL_TAKER_H_
#define TEST_POOL_TAKER_H_

#include <cstdint>
#include <map>
#include <memory>

#include "daemon/base/buffer_pool.h"

namespace dmu {

class PoolTaker {
 public:
  explicit PoolTaker(BufferPool* pool) : pool_(pool) {}

  uint8_t* Acquire(uint64_t bytes) {
    auto share = std::make_unique<BufferPool::Share>();
    uint8_t* buffer = pool_->Acquire(bytes, share.get());
    if (buffer != nullptr) shares_[buffer] = std::move(share);
    return buffer;
  }
  uint8_t* AcquireRun(uint64_t bytes, uint64_t* got_bytes) {
    auto share = std::make_unique<BufferPool::Share>();
    uint8_t* buffer = pool_->AcquireRun(bytes, share.get(), got_bytes);
    if (buffer != nullptr) shares_[buffer] = std::move(share);
    return buffer;
  }
  void Release(uint8_t* buffer) {
    const auto at = shares_.find(buffer);
    pool_->Release(buffer, at->second.get());
    shares_.erase(at);
  }
  void ReleaseAll() {
    while (!shares_.empty()) Release(shares_.begin()->first);
  }

 private:
  BufferPool* const pool_;
  std::map<uint8_t*, std::unique_ptr<BufferPool::Share>> shares_;
};

}  // namespace dmu

#endif  // TEST_POOL_TAKER_H_
