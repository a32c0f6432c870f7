// SPDX-License-Identifier: Apache-2.0
//
// alloc_counter.h - how often this process has taken memory from the heap.
//
// Linking alloc_counter.cc puts a count in front of malloc and its kin, so it
// also sees what C libraries take.
#ifndef TEST_ALLOC_COUNTER_H_
#define TEST_ALLOC_COUNTER_H_

#include <cstdint>

namespace dmu {

uint64_t AllocationCount();

}  // namespace dmu

#endif  // TEST_ALLOC_COUNTER_H_
