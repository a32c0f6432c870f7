// SPDX-License-Identifier: Apache-2.0
//
// check.h - DMU_CHECK, for mistakes of the programmer only.
//
// Always on. Never for anything that storage, the kernel, a peer or a file can
// cause: those are results. The daemon is crash-only, so ending it at the first
// broken invariant is the safe answer: nothing wrong has been written yet.
#ifndef DAEMON_BASE_CHECK_H_
#define DAEMON_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace dmu {

[[noreturn]] inline void CheckFailed(const char* file, int line,
                                     const char* what) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, what);
  std::abort();
}

}  // namespace dmu

#define DMU_CHECK(condition)                         \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::dmu::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // DAEMON_BASE_CHECK_H_
