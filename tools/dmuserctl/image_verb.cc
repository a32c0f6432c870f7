// SPDX-License-Identifier: Apache-2.0
//
// image_verb.cc - image extract: flags in, a plain image out.
#include <cstdio>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/file_io.h"
#include "tools/image_extract.h"
#include "tools/progress_bar.h"

ABSL_DECLARE_FLAG(std::string, o);
ABSL_DECLARE_FLAG(bool, force);
ABSL_DECLARE_FLAG(bool, quiet);

namespace dmu::tools {

absl::Status ImageExtract(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.size() > 2) {
    return absl::InvalidArgumentError(
        "image extract needs one file, and of a payload.bin one partition");
  }
  ImageExtractOptions options;
  options.input_path = arguments[0];
  if (arguments.size() == 2) options.partition = arguments[1];
  options.output_path = absl::GetFlag(FLAGS_o);
  options.force = absl::GetFlag(FLAGS_force);
  options.progress = !absl::GetFlag(FLAGS_quiet);
  if (options.output_path.empty()) {
    return absl::InvalidArgumentError("no output file: add -o FILE");
  }
  RemoveTemporariesOnSignal();
  const absl::StatusOr<uint64_t> bytes = ExtractImage(options);
  if (!bytes.ok()) return bytes.status();
  if (!absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s: %s\n", options.output_path.c_str(),
                FormatBytes(*bytes).c_str());
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
