// SPDX-License-Identifier: Apache-2.0
//
// ota_verbs.h - the verbs of an update (tools/ota/README.md).
//
// Each takes the words behind the verb and prints its result; an error comes
// back as a status, for main.cc to print and to turn into an exit code.
#ifndef TOOLS_DMUSERCTL_OTA_VERBS_H_
#define TOOLS_DMUSERCTL_OTA_VERBS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace dmu::tools {

absl::Status OtaStage(const std::vector<std::string>& arguments);
absl::Status OtaActivate(const std::vector<std::string>& arguments);
absl::Status OtaBoot(const std::vector<std::string>& arguments);
absl::Status OtaBless(const std::vector<std::string>& arguments);
absl::Status OtaMerge(const std::vector<std::string>& arguments);
absl::Status OtaRollback(const std::vector<std::string>& arguments);
absl::Status OtaUndo(const std::vector<std::string>& arguments);
absl::Status OtaClean(const std::vector<std::string>& arguments);
absl::Status OtaStatus(const std::vector<std::string>& arguments);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_OTA_VERBS_H_
