// SPDX-License-Identifier: Apache-2.0
//
// parallel.cc - see parallel.h.
#include "tools/parallel.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace dmu::tools {

unsigned DefaultThreads() {
  return std::max(1u, std::thread::hardware_concurrency());
}

absl::Status ParallelFor(uint64_t count, unsigned threads,
                         const std::function<absl::Status(uint64_t)>& piece) {
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;  // guards the two below
  absl::Status first_error;
  uint64_t first_error_at = UINT64_MAX;
  auto work = [&] {
    while (!failed.load()) {
      const uint64_t i = next.fetch_add(1);
      if (i >= count) return;
      absl::Status status = piece(i);
      if (status.ok()) continue;
      failed.store(true);
      const std::lock_guard<std::mutex> lock(mutex);
      if (i < first_error_at) {
        first_error_at = i;
        first_error = std::move(status);
      }
    }
  };
  // The calling thread is one of them.
  std::vector<std::thread> others;
  for (uint64_t i = 1; i < std::min<uint64_t>(threads, count); ++i) {
    others.emplace_back(work);
  }
  work();
  for (std::thread& thread : others) thread.join();
  return first_error;
}

}  // namespace dmu::tools
