// SPDX-License-Identifier: Apache-2.0
//
// registry.h - the devices of this daemon, by name, from attach to gone.
//
// Owns: devices, their records in the state store, whether a merge is wanted.
// Does not know any kind of channel or back end: it gets factories. Set-up
// work, so it may allocate; nothing here is on the path of a request.
#ifndef DAEMON_DEVICE_REGISTRY_H_
#define DAEMON_DEVICE_REGISTRY_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/device/device.h"
#include "daemon/device/state_store.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "proto/control.pb.h"

namespace dmu {

class Registry {
 public:
  using BackendDone =
      std::function<void(absl::StatusOr<std::unique_ptr<Backend>>)>;
  struct Factories {
    // Opens a back end; calls `done` once, from a turn of the loop or inside.
    // kAborted, something is in use: may be asked again.
    std::function<void(const proto::Attach&, BackendDone done)> open_backend;
    // recovering: as left back by a former daemon.
    std::function<absl::StatusOr<std::unique_ptr<Channel>>(
        const proto::DeviceRecord&, const Geometry&, bool recovering)>
        open_channel;
    // Whether the kernel is known to have no device of that record any more,
    // for what waits to be recovered. May be left out.
    std::function<bool(const proto::DeviceRecord&)> is_gone;
    // Decides on the transport of a new device and puts into its record what
    // the next daemon needs to find it. May be left out.
    std::function<absl::Status(proto::DeviceRecord*)> choose_transport;
    // Opens a file or device to write to, for this daemon alone.
    std::function<absl::StatusOr<std::unique_ptr<Disk>>(const std::string&)>
        open_disk;
    // A device is gone, and what it held may go back to the system.
    std::function<void()> trim_memory;
  };
  using Done = std::function<void(absl::Status)>;

  Registry(Factories factories, StateStore* store, Loop* loop);
  ~Registry();

  // kAlreadyExists, kInvalidArgument, or what the factories say. One that fails
  // changes nothing on disk, not the record of a former daemon's device either.
  void Attach(const proto::Attach& attach, Done done);

  // Attach in two steps, for who makes the dm device in between, as large as
  // Status says. The first opens and judges the back end, which holds its files
  // from then on; a restart forgets it, as nothing is served. The second opens
  // the channel, records the device and serves it: kNotFound without the first,
  // kAlreadyExists when that is done; when it fails it may be tried again.
  void Prepare(const proto::Attach& attach, Done done);
  void Serve(const std::string& name, Done done);

  void Detach(const std::string& name, Done done);
  // kAborted while the merge is not done, kInvalidArgument without one.
  void ShareBase(const std::string& name, Done done);
  // Starts or pauses; with an undo log `done` may come later, from a turn of
  // the loop.
  void SetMerge(const proto::Merge& merge, Done done);

  // One device, or all when name is empty. kNotFound.
  absl::StatusOr<std::vector<proto::DeviceStatus>> Status(
      const std::string& name, bool with_latency = false) const;

  static constexpr uint64_t kReadyUs = 10'000'000;
  // Attaches every recorded device; what cannot be attached is logged and its
  // record kept, unless its dm device is gone. What somebody else has in use -
  // as a disk is by a killed daemon's last I/O, for minutes if it is stuck - is
  // tried again until it is free, each second in the end: the log says so once
  // and when it is over, Status has the state WAITING and the reason, requests
  // wait in the kernel as they do without a daemon (until the table's orphan
  // deadline), and Detach, StopAll and the end of the dm device end the wait. A
  // merge that is to go on waits for its undo log in the same way.
  // `done` runs when all of them are served, given up, or waited for in vain
  // for kReadyUs; from inside this call when there is none.
  void Recover(std::function<void()> done);

  // Stops all devices and keeps their records, for the next daemon.
  void StopAll(std::function<void()> done);

  // Called with a device's name whenever its status changed by itself, and
  // when it is gone; in the order they were added.
  using Observer = std::function<void(const std::string&)>;
  void AddObserver(Observer observer) {
    observers_.push_back(std::move(observer));
  }

 private:
  struct Entry;
  struct Leftover;

  Entry* Find(const std::string& name) const;
  enum class Purpose { kAttach, kPrepare, kRecover };
  // settled: of what is recovered, see Recover; may be called more than once.
  void AttachRecord(const proto::DeviceRecord& record, Purpose purpose,
                    Done done, std::function<void()> settled);
  void OpenBackend(Entry* entry);
  // Both: what is in use is tried again later. False: it is not, it has been
  // waited for long enough.
  bool WaitForFiles(Entry* entry, const absl::Status& busy);
  bool WaitForLog(Entry* entry, const absl::Status& busy, Done* done);
  void OnBackend(Entry* entry,
                 absl::StatusOr<std::unique_ptr<Backend>> backend);
  // Takes the entry's back end only when it can be served.
  absl::Status BringUp(Entry* entry);
  void OnStarted(Entry* entry, const absl::Status& status);
  // A device with a record that could not be recovered: forgets it, and takes
  // away what its channel has made in the kernel.
  void DetachUnserved(const proto::DeviceRecord& record, Done done);
  static void OnLeftoverRemoved(void* context);
  void OnShared(const std::string& name, uint64_t serial,
                absl::StatusOr<std::unique_ptr<Backend>> backend,
                const Done& done);
  absl::Status PauseMerge(Entry* entry);
  // With the undo log of its record, which is opened first.
  void StartMerge(Entry* entry, Done done);
  void StopEntry(Entry* entry, bool keep_record);
  absl::Status ForgetRecord(Entry* entry);
  void Erase(Entry* entry, absl::Status attach_result);
  void OnMergeChanged(Entry* entry);
  void Tell(const std::string& name);
  static void OnClosed(void* context);
  static void OnClosedLater(void* context);
  static void OnStopped(void* context);
  static void OnOpenAgain(void* context);
  static void OnLogAgain(void* context);
  static void OnMerge(void* context);
  static void OnFailed(void* context);

  const Factories factories_;
  StateStore* const store_;
  Loop* const loop_;
  std::vector<std::unique_ptr<Entry>> entries_;
  std::vector<std::unique_ptr<Leftover>> leftovers_;
  std::vector<Observer> observers_;
  std::function<void()> all_stopped_;
  uint64_t next_serial_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_REGISTRY_H_
