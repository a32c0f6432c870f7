// SPDX-License-Identifier: Apache-2.0
//
// registry_entry.h - what the registry keeps of a device; for registry*.cc.
#ifndef DAEMON_DEVICE_REGISTRY_ENTRY_H_
#define DAEMON_DEVICE_REGISTRY_ENTRY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/base/task.h"
#include "daemon/device/busy_wait.h"
#include "daemon/device/device.h"
#include "daemon/device/registry.h"
#include "daemon/device/state_store.h"
#include "daemon/io/loop.h"
#include "proto/state.pb.h"

namespace dmu {

// How long who asks is kept waiting for what is in use.
inline constexpr uint64_t kBusyUs = 1'000'000;

struct Registry::Entry {
  Registry* registry = nullptr;
  proto::DeviceRecord record;
  proto::DeviceStatus::State state = proto::DeviceStatus::ATTACHING;
  Purpose purpose = Purpose::kAttach;
  std::unique_ptr<Backend> unserved;  // open, and not yet the device's
  std::unique_ptr<Device> device;
  // Tells it from a later device of the same name.
  uint64_t serial = 0;
  bool keeps_undo_log = false;
  bool keep_record = false;
  // The record in the store is this one's; before it, there was that.
  bool recorded = false;
  StateStore::Bytes record_before;
  // What the attach is answered with when the device goes before it served.
  absl::Status attach_result =
      absl::CancelledError("detached while it was attached");
  Done attach_done;
  std::vector<Done> detach_done;
  Task closed;        // called by the device, deep inside its channel
  Task closed_later;  // takes the device apart, in a turn of its own
  Task stopped;
  Task merge_changed;
  BusyWait files_wait;
  bool between_tries = false;  // to open its back end; open_again is armed
  Timer open_again;
  std::function<void()> settled;  // served, given up, or waited for too long
  BusyWait log_wait;
  Timer log_again;
  Done log_done;  // while log_again is armed
  Task failed;    // requests did

  const std::string& name() const { return record.attach().name(); }
  // Somebody waits to hear that it is served, who would be told that it is not:
  // then everything is to be as it was.
  bool is_on_trial() const {
    return purpose != Purpose::kRecover &&
           state != proto::DeviceStatus::SERVING && attach_done != nullptr;
  }
  Backend* backend() const {
    return device != nullptr ? device->backend() : unserved.get();
  }
  // Of what is served: nothing else may be merged.
  MergeControl* merge() const {
    return device != nullptr ? device->backend()->merge() : nullptr;
  }
};

struct Registry::Leftover {
  Registry* registry = nullptr;
  std::string name;
  std::unique_ptr<Channel> channel;
  Done done;
  Task removed;
};

// A recovered device, or its merge, begins to wait for what is in use; it is
// free.
void LogWait(const std::string& name, const BusyWait& wait);
void LogFree(const std::string& name, uint64_t waited_us);

absl::Status NotServed(const std::string& name);

}  // namespace dmu

#endif  // DAEMON_DEVICE_REGISTRY_ENTRY_H_
