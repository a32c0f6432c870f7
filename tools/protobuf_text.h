// SPDX-License-Identifier: Apache-2.0
//
// protobuf_text.h - protobuf text with an error that names the place.
#ifndef TOOLS_PROTOBUF_TEXT_H_
#define TOOLS_PROTOBUF_TEXT_H_

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace dmu::tools {

// kInvalidArgument: "PATH: line 3, column 7: ...". `path` is for that only.
absl::Status ParseText(const std::string& text, const std::string& path,
                       google::protobuf::Message* message);

}  // namespace dmu::tools

#endif  // TOOLS_PROTOBUF_TEXT_H_
