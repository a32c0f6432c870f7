// SPDX-License-Identifier: Apache-2.0
//
// header_check.h - what a version 3 header must say before anything it names
// is read.
#ifndef DAEMON_COW_HEADER_CHECK_H_
#define DAEMON_COW_HEADER_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

// Judges the first bytes of a file: magic, version, every field against its
// range, against the others and against the file's size. After kOk every offset
// that Header computes is exact (no overflow), op_count <= kOpsMax, and unless
// it is 0, sequence, resume points and the valid part of the op table lie
// inside the file. `bytes` are the file's first; as many as there are,
// kHeaderBytes are enough.
absl::Status CheckHeader(ConstByteSpan bytes, uint64_t file_bytes);

}  // namespace dmu::cow

#endif  // DAEMON_COW_HEADER_CHECK_H_
