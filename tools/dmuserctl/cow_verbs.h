// SPDX-License-Identifier: Apache-2.0
//
// cow_verbs.h - the verbs that only need files: cow create, inspect, extract,
// merge and so on.
//
// Each takes the words behind the verb and prints its result; an error comes
// back as a status, for main.cc to print and to turn into an exit code.
#ifndef TOOLS_DMUSERCTL_COW_VERBS_H_
#define TOOLS_DMUSERCTL_COW_VERBS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace dmu::tools {

absl::Status CowCreate(const std::vector<std::string>& arguments);
absl::Status CowEstimate(const std::vector<std::string>& arguments);
absl::Status CowConvert(const std::vector<std::string>& arguments);
absl::Status CowInspect(const std::vector<std::string>& arguments);
absl::Status CowVerify(const std::vector<std::string>& arguments);
absl::Status CowExtract(const std::vector<std::string>& arguments);
absl::Status CowMerge(const std::vector<std::string>& arguments);
absl::Status ImageExtract(const std::vector<std::string>& arguments);
absl::Status MergeUndo(const std::vector<std::string>& arguments);

// The flag --label, if it was given. kInvalidArgument when it is no number.
absl::Status ParseLabelFlag(std::optional<uint64_t>* label);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_COW_VERBS_H_
