// SPDX-License-Identifier: Apache-2.0
//
// devices.h - the devices that show new images, as an update sees them.
#ifndef TOOLS_OTA_DEVICES_H_
#define TOOLS_OTA_DEVICES_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/ota/verity.h"

namespace dmu::ota {

class Devices {
 public:
  virtual ~Devices() = default;

  // Paths are absolute throughout.
  struct Snapshot {
    std::string name;
    std::string cow;
    std::string base;
  };
  enum class Presence {
    kNone,
    kOrphan,  // the kernel has it, but nobody serves it, or something else
    kServed,  // and it shows this very snapshot
  };

  virtual absl::StatusOr<Presence> Look(const Snapshot& snapshot) = 0;
  // Nothing, when it is served already; an orphan nobody uses is replaced.
  virtual absl::Status Map(const Snapshot& snapshot) = 0;
  // OK means that no device of ours shows the image: also when none was there.
  virtual absl::Status Unmap(const std::string& name) = 0;
  // A device that shows a mapped image through its hash tree.
  struct Verified {
    std::string name;         // of the device
    std::string data_device;  // both mapped
    std::string hash_device;
    uint64_t hash_offset_bytes = 0;
    std::string root_hash;
    // What does not fit its hash restarts the machine; else it is an I/O error.
    bool restarts = false;
  };
  // Nothing, when it is there already. What does not fit the root hash is
  // kDataLoss, and no device.
  virtual absl::Status MapVerity(const Verified& verified) = 0;
  // As Unmap.
  virtual absl::Status UnmapVerity(const std::string& name) = 0;
  // kNotFound; kDataLoss when something was read that does not fit its hash.
  virtual absl::Status CheckVerity(const std::string& name) = 0;
  // Of a device that is served: merges to the end. undo_log: "" for none, else
  // prepared. kCancelled when `stop` is set meanwhile; the merge goes on then.
  virtual absl::Status Merge(const Snapshot& snapshot,
                             const std::string& undo_log,
                             const std::atomic<bool>* stop) = 0;
  // Of a device that is served and merged: it goes on without the daemon, on
  // the base itself, and whoever reads it notices nothing.
  virtual absl::Status Finish(const std::string& name) = 0;
  virtual absl::Status PauseMerge(const std::string& name) = 0;
};

}  // namespace dmu::ota

#endif  // TOOLS_OTA_DEVICES_H_
