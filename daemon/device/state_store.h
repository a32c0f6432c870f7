// SPDX-License-Identifier: Apache-2.0
//
// state_store.h - one small file per served device, for the next daemon.
//
// A record is there if and only if the device shall be served: it is written
// before the attach is answered and removed when the device is detached or its
// dm device is gone. Killing the daemon changes none of them. Files whose names
// begin with a dot, as no device's does, are records that are being written.
#ifndef DAEMON_DEVICE_STATE_STORE_H_
#define DAEMON_DEVICE_STATE_STORE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/state.pb.h"

namespace dmu {

class StateStore {
 public:
  explicit StateStore(std::string directory)
      : directory_(std::move(directory)) {}

  // Makes the directory (0700) and removes what an interrupted Save left.
  absl::Status Prepare();

  // Durable when it returns: written beside, synced, renamed, directory synced.
  absl::Status Save(const proto::DeviceRecord& record);
  absl::Status Remove(const std::string& name);

  // Every record that can be read; one that cannot is logged and left alone.
  std::vector<proto::DeviceRecord> LoadAll() const;
  // One, if it is there and can be read.
  std::optional<proto::DeviceRecord> Load(const std::string& name) const;

  // A record's bytes, whatever they are, and back to them: to take a Save back.
  // Nothing: there is no such file.
  using Bytes = std::optional<std::string>;
  Bytes Read(const std::string& name) const;
  absl::Status PutBack(const std::string& name, const Bytes& bytes);

 private:
  absl::Status Write(const std::string& name, const std::string& bytes);
  absl::Status SyncDirectory() const;

  const std::string directory_;
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_STATE_STORE_H_
