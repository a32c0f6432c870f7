// SPDX-License-Identifier: Apache-2.0
//
// manifest.h - what a manifest asks for, judged.
#ifndef TOOLS_OTA_MANIFEST_H_
#define TOOLS_OTA_MANIFEST_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/ota.pb.h"
#include "tools/ota/store.h"

namespace dmu::ota {

struct Manifest {
  // The state to reach: phase STAGING, all fields of it but boots.
  proto::OtaState wanted;
  // Where the COW file of each image is now.
  std::vector<std::string> sources;
};

// Reads and judges the manifest; opens every COW file it names for its size.
// sha256: what the manifest must have, "" for anything. kDataLoss when it has
// another; kInvalidArgument, with the field, when it asks for what cannot be.
absl::StatusOr<Manifest> ReadManifest(const std::string& path,
                                      const std::string& sha256,
                                      const Store& store);

}  // namespace dmu::ota

#endif  // TOOLS_OTA_MANIFEST_H_
