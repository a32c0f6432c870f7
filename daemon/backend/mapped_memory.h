// SPDX-License-Identifier: Apache-2.0
//
// mapped_memory.h - page-aligned memory of its own, given back to the system as
// a whole. Costs nothing before it is touched.
#ifndef DAEMON_BACKEND_MAPPED_MEMORY_H_
#define DAEMON_BACKEND_MAPPED_MEMORY_H_

#include <sys/mman.h>

#include <utility>

#include "daemon/base/types.h"

namespace dmu {

class MappedMemory {
 public:
  // Empty without address space; bytes >= 1.
  static MappedMemory Map(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MappedMemory memory;
    if (at != MAP_FAILED) memory.span_ = {static_cast<uint8_t*>(at), bytes};
    return memory;
  }

  MappedMemory() = default;
  MappedMemory(MappedMemory&& other) noexcept
      : span_(std::exchange(other.span_, ByteSpan())) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    std::swap(span_, other.span_);
    return *this;
  }
  ~MappedMemory() {
    if (!span_.empty()) munmap(span_.data(), span_.size());
  }

  ByteSpan span() const { return span_; }
  bool empty() const { return span_.empty(); }

 private:
  ByteSpan span_;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_MAPPED_MEMORY_H_
