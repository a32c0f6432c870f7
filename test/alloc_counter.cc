// SPDX-License-Identifier: Apache-2.0
#include "test/alloc_counter.h"

#include <stddef.h>

extern "C" {

// glibc's own entry points, behind the names that can be replaced.
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

static uint64_t allocation_count;

void* malloc(size_t bytes) {
  ++allocation_count;
  return __libc_malloc(bytes);
}

void* calloc(size_t count, size_t bytes) {
  ++allocation_count;
  return __libc_calloc(count, bytes);
}

void* realloc(void* old, size_t bytes) {
  ++allocation_count;
  return __libc_realloc(old, bytes);
}

void* memalign(size_t alignment, size_t bytes) {
  ++allocation_count;
  return __libc_memalign(alignment, bytes);
}

}  // extern "C"

namespace dmu {

uint64_t AllocationCount() { return allocation_count; }

}  // namespace dmu
