// SPDX-License-Identifier: Apache-2.0
//
// image_extract.h - an image in a format of its own in, the plain image out.
#ifndef TOOLS_IMAGE_EXTRACT_H_
#define TOOLS_IMAGE_EXTRACT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace dmu::tools {

struct ImageExtractOptions {
  std::string input_path;
  std::string partition;  // of a payload.bin; else empty
  std::string output_path;
  bool force = false;     // replace an output that exists
  bool progress = false;  // draw a bar
};

// Writes the image and returns its bytes. The output is sparse in the file
// system's sense: zeros that the input names as such take no room. Codes of
// ImageSource, Payload and OutputFile; kInvalidArgument for an output that is
// the input, and for a partition that is not named or there is none of.
absl::StatusOr<uint64_t> ExtractImage(const ImageExtractOptions& options);

}  // namespace dmu::tools

#endif  // TOOLS_IMAGE_EXTRACT_H_
