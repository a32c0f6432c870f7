// SPDX-License-Identifier: Apache-2.0
//
// placing.h - COW files and undo logs of an update: put where they belong, and
// taken away.
#ifndef TOOLS_OTA_PLACING_H_
#define TOOLS_OTA_PLACING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dmu::ota {

// Whether the first `bytes` of what is at `path` have this digest; false when
// there is nothing, or less.
absl::StatusOr<bool> HasDigest(const std::string& path, uint64_t bytes,
                               const std::string& sha256);

// Copies a file of `bytes` bytes and this digest to `place`, durably. A file
// appears there whole or not at all (PLACE.new until then); a block device is
// overwritten. kDataLoss when the source has another digest.
absl::Status CopyTo(const std::string& source, const std::string& place,
                    uint64_t bytes, const std::string& sha256);

// Removes a COW file and what CopyTo left of one, durably; of a block device
// what makes it a COW file. What is no COW file is left alone.
absl::Status RemoveCow(const std::string& place);
// The same for an undo log.
absl::Status RemoveUndoLog(const std::string& path);

// Room on file systems and devices for what is to come.
class SpaceCheck {
 public:
  // `path` will have so many bytes; what is there of PATH.new goes before, what
  // is at PATH stays. kInternal when a block device is too small.
  absl::Status Add(const std::string& path, uint64_t bytes);
  // kInternal with a sentence when the file system of what was added lacks
  // room.
  absl::Status Judge() const;

 private:
  struct Total {
    uint64_t device = 0;
    uint64_t need_bytes = 0;
    uint64_t free_bytes = 0;
    std::string folder;
  };
  std::vector<Total> totals_;
};

}  // namespace dmu::ota

#endif  // TOOLS_OTA_PLACING_H_
