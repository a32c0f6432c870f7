// SPDX-License-Identifier: Apache-2.0
//
// store.h - the durable state of an update: one file in one folder.
//
// FOLDER/ota.state is replaced as a whole: written beside, synced, renamed, the
// folder synced. The folder has to be on a file system whose rename survives a
// power cut whole (ext4, xfs, btrfs, f2fs; not FAT). The file's last line has
// the SHA-256 of those before it: what was damaged, or changed by hand, is
// refused, not guessed at.
#ifndef TOOLS_OTA_STORE_H_
#define TOOLS_OTA_STORE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/ota.pb.h"
#include "tools/file_io.h"

namespace dmu::ota {

class Store {
 public:
  explicit Store(const std::string& folder);

  // Keeps other commands out until this Store is gone; kAborted when one is at
  // work, kNotFound when there is no such folder.
  absl::Status Lock();

  // Default-constructed when there is no file. kDataLoss when it is damaged,
  // kUnimplemented when it is of a later version.
  absl::StatusOr<proto::OtaState> Load() const;
  absl::Status Save(const proto::OtaState& state) const;

  const std::string& folder() const { return folder_; }
  // As the paths in states and manifests are meant; absolute.
  std::string Resolve(const std::string& path) const;

 private:
  std::string Path() const { return folder_ + "/ota.state"; }

  const std::string folder_;
  tools::File lock_;
};

// A whole small file. kInvalidArgument above 1 MiB.
absl::StatusOr<std::string> ReadText(const std::string& path);

}  // namespace dmu::ota

#endif  // TOOLS_OTA_STORE_H_
