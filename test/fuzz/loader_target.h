// SPDX-License-Identifier: Apache-2.0
//
// loader_target.h - one run of the COW loader over bytes that may be anything.
#ifndef TEST_FUZZ_LOADER_TARGET_H_
#define TEST_FUZZ_LOADER_TARGET_H_

#include <cstddef>
#include <cstdint>

namespace dmu {

// Loads the file, and when the loader takes it asks it everything a device
// would: each block, the merge order, the base check. Aborts when an answer
// breaks what the headers promise. Returns whether the loader took it.
bool RunLoader(const uint8_t* data, size_t size);

}  // namespace dmu

#endif  // TEST_FUZZ_LOADER_TARGET_H_
