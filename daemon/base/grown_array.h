// SPDX-License-Identifier: Apache-2.0
//
// grown_array.h - objects in one block of memory, made one by one when they are
// first wanted.
//
// For what a device has as many of as it may ever have under way: the address
// space is taken at once, so that nothing is allocated later and nothing moves,
// but a page of it costs memory only when the first object there is made.
#ifndef DAEMON_BASE_GROWN_ARRAY_H_
#define DAEMON_BASE_GROWN_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <new>

namespace dmu {

template <typename T>
class GrownArray {
 public:
  explicit GrownArray(uint32_t size)
      : size_(size),
        memory_(static_cast<T*>(::operator new (size_t{size} * sizeof(T)))) {
    static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  }
  ~GrownArray() {
    while (made_ > 0) memory_[--made_].~T();
    ::operator delete(memory_);
  }
  GrownArray(const GrownArray&) = delete;
  GrownArray& operator=(const GrownArray&) = delete;

  // One more, which stays where it is; nullptr when there are `size`.
  T* Grow() { return made_ < size_ ? ::new (memory_ + made_++) T() : nullptr; }

  uint32_t size() const { return size_; }
  // Those that were made.
  T* begin() { return memory_; }
  T* end() { return memory_ + made_; }
  const T* begin() const { return memory_; }
  const T* end() const { return memory_ + made_; }

 private:
  const uint32_t size_;
  uint32_t made_ = 0;
  T* const memory_;
};

}  // namespace dmu

#endif  // DAEMON_BASE_GROWN_ARRAY_H_
