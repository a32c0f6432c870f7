// SPDX-License-Identifier: Apache-2.0
//
// file_world.h - takes an update's steps on files, block devices and the
// kernel.
//
// Each step may be interrupted anywhere and taken again. Nothing that was not
// put there by an earlier step is removed: COW files only when they are COW
// files and copies, undo logs only when they are undo logs.
#ifndef TOOLS_OTA_FILE_WORLD_H_
#define TOOLS_OTA_FILE_WORLD_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/ota/devices.h"
#include "tools/ota/executor.h"
#include "tools/ota/store.h"

namespace dmu::ota {

class FileWorld : public World {
 public:
  struct Options {
    // kStage: where the COW file of each image is now.
    std::vector<std::string> sources = {};
    bool progress = false;  // draw bars
    // Set by a signal handler: merge and undo end with kCancelled at the next
    // safe point.
    const std::atomic<bool>* stop = nullptr;
    // They end so after that many windows or steps; at least 1.
    uint64_t windows_max = UINT64_MAX;
  };

  // Both must outlive it.
  FileWorld(Store* store, Devices* devices, Options options)
      : store_(*store), devices_(*devices), options_(std::move(options)) {}

  absl::StatusOr<OtaState> Load() override { return store_.Load(); }
  absl::Status Save(const OtaState& state) override {
    return store_.Save(state);
  }
  absl::Status Take(const Step& step, const OtaState& state) override;

  // Facts::is_mapped. What cannot be known is taken to be mapped.
  bool IsAnyMapped(const OtaState& state) const;

 private:
  Devices::Snapshot SnapshotOf(const OtaImage& image) const;
  absl::Status CheckSource(const OtaImage& image, const std::string& source);
  absl::Status CheckSpace(const OtaState& state);
  absl::Status Place(const OtaImage& image, const std::string& source);
  absl::Status Verify(const OtaImage& image);
  absl::Status CheckTarget(const OtaImage& image);
  absl::Status CheckTree(const OtaImage& image, const OtaState& state);
  absl::Status CheckBase(const OtaImage& image);
  absl::Status CheckIdle(const OtaImage& image);
  absl::Status CheckUnused(const OtaImage& image);
  absl::Status CheckMergeable(const OtaImage& image);
  absl::Status PrepareUndoLog(const OtaImage& image);
  absl::Status Merge(const OtaImage& image, bool keep_log);
  absl::Status Undo(const OtaImage& image);

  Store& store_;
  Devices& devices_;
  const Options options_;
};

}  // namespace dmu::ota

#endif  // TOOLS_OTA_FILE_WORLD_H_
