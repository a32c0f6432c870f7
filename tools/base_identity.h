// SPDX-License-Identifier: Apache-2.0
//
// base_identity.h - whether a base is the one a COW file was made from.
#ifndef TOOLS_BASE_IDENTITY_H_
#define TOOLS_BASE_IDENTITY_H_

#include "absl/status/status.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"

namespace dmu::tools {

// Size and sampled blocks: reads at most 64 blocks. kFailedPrecondition with a
// sentence that names the base when it is another one. Files without samples
// are judged by what their ops read.
absl::Status CheckBaseIdentity(const CowFile& cow, const File& base);

}  // namespace dmu::tools

#endif  // TOOLS_BASE_IDENTITY_H_
