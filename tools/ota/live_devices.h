// SPDX-License-Identifier: Apache-2.0
//
// live_devices.h - devices of this kernel, served by dmuserd.
#ifndef TOOLS_OTA_LIVE_DEVICES_H_
#define TOOLS_OTA_LIVE_DEVICES_H_

#include <functional>
#include <string>
#include <utility>

#include "proto/control.pb.h"
#include "tools/ota/devices.h"

namespace dmu::ota {

class LiveDevices : public Devices {
 public:
  // progress: called while a merge of that device is waited for; may be empty.
  using Progress =
      std::function<void(const std::string& name, const proto::MergeStatus&)>;
  explicit LiveDevices(std::string control_path, Progress progress = nullptr)
      : control_path_(std::move(control_path)),
        progress_(std::move(progress)) {}

  absl::StatusOr<Presence> Look(const Snapshot& snapshot) override;
  absl::Status Map(const Snapshot& snapshot) override;
  absl::Status Unmap(const std::string& name) override;
  absl::Status MapVerity(const Verified& verified) override;
  absl::Status UnmapVerity(const std::string& name) override;
  absl::Status CheckVerity(const std::string& name) override;
  absl::Status Merge(const Snapshot& snapshot, const std::string& undo_log,
                     const std::atomic<bool>* stop) override;
  absl::Status Finish(const std::string& name) override;
  absl::Status PauseMerge(const std::string& name) override;

 private:
  const std::string control_path_;
  const Progress progress_;
};

}  // namespace dmu::ota

#endif  // TOOLS_OTA_LIVE_DEVICES_H_
