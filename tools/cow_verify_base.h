// SPDX-License-Identifier: Apache-2.0
//
// cow_verify_base.h - the part of a verification that needs the base.
#ifndef TOOLS_COW_VERIFY_BASE_H_
#define TOOLS_COW_VERIFY_BASE_H_

#include "absl/status/status.h"
#include "tools/cow_file.h"
#include "tools/cow_verify.h"
#include "tools/verify_log.h"

namespace dmu::tools {

// Size and samples of options.base, then the whole target as COW file and base
// give it now, against what the file says of it.
absl::Status VerifyBase(const CowFile& cow, const VerifyOptions& options,
                        VerifyLog* log, VerifyReport* report);

}  // namespace dmu::tools

#endif  // TOOLS_COW_VERIFY_BASE_H_
