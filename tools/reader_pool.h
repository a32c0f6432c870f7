// SPDX-License-Identifier: Apache-2.0
//
// reader_pool.h - target readers for threads: each has one while it works.
#ifndef TOOLS_READER_POOL_H_
#define TOOLS_READER_POOL_H_

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/target_reader.h"

namespace dmu::tools {

class ReaderPool {
 public:
  using Make = std::function<absl::StatusOr<TargetReader>()>;

  // `make` makes another one; from any thread.
  explicit ReaderPool(Make make) : make_(std::move(make)) {}

  absl::StatusOr<std::unique_ptr<TargetReader>> Take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<TargetReader> reader = std::move(free_.back());
        free_.pop_back();
        return reader;
      }
    }
    absl::StatusOr<TargetReader> reader = make_();
    if (!reader.ok()) return reader.status();
    return std::make_unique<TargetReader>(*std::move(reader));
  }

  void Return(std::unique_ptr<TargetReader> reader) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(reader));
  }

 private:
  const Make make_;
  std::mutex mutex_;  // guards free_
  std::vector<std::unique_ptr<TargetReader>> free_;
};

}  // namespace dmu::tools

#endif  // TOOLS_READER_POOL_H_
