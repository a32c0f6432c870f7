// SPDX-License-Identifier: Apache-2.0
//
// header_check.h - what a header must say before anything it names is read.
#ifndef DAEMON_COW_HEADER_CHECK_H_
#define DAEMON_COW_HEADER_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

// Judges the first bytes of a file: magic, version, every field against its
// range, against the others and against the file's size. `bytes` are the file's
// first; as many as there are, kHeaderBytesMax are enough. After kOk *header is
// what they say, every offset that it computes is exact (no overflow) and the
// scratch region lies inside the file. Version 3: op_count <= kOpsMax, and
// unless it is 0, sequence, resume points and the valid part of the op table
// lie inside the file.
absl::Status CheckHeader(ConstByteSpan bytes, uint64_t file_bytes,
                         Header* header);

}  // namespace dmu::cow

#endif  // DAEMON_COW_HEADER_CHECK_H_
