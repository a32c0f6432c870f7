// SPDX-License-Identifier: Apache-2.0
//
// parallel.h - the same work on many pieces, on all cores.
#ifndef TOOLS_PARALLEL_H_
#define TOOLS_PARALLEL_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace dmu::tools {

// Cores there are; at least 1.
unsigned DefaultThreads();

// Calls piece(i) for every i below count, each once, from `threads` threads
// (>= 1) in no particular order, and waits. After a failure no further piece
// begins; the failure with the lowest i that was seen is returned.
absl::Status ParallelFor(uint64_t count, unsigned threads,
                         const std::function<absl::Status(uint64_t)>& piece);

}  // namespace dmu::tools

#endif  // TOOLS_PARALLEL_H_
