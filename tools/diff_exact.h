// SPDX-License-Identifier: Apache-2.0
//
// diff_exact.h - whole blocks of the old image that stand elsewhere in the new
// one. Internal to the diff library.
#ifndef TOOLS_DIFF_EXACT_H_
#define TOOLS_DIFF_EXACT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "tools/diff.h"
#include "tools/diff_compare.h"

namespace dmu::tools {

// Makes a copy of each replace whose block is in the old image, and sets its
// source, a byte offset there; other sources are left alone. Hashes find them,
// bytes decide.
absl::Status FindExactSources(const DiffImage& old_image,
                              const DiffImage& new_image, unsigned threads,
                              Comparison* comparison,
                              std::vector<uint64_t>* sources);

}  // namespace dmu::tools

#endif  // TOOLS_DIFF_EXACT_H_
