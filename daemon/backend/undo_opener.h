// SPDX-License-Identifier: Apache-2.0
//
// undo_opener.h - reads the undo log of a merge in turns of the loop, to go on
// with it.
#ifndef DAEMON_BACKEND_UNDO_OPENER_H_
#define DAEMON_BACKEND_UNDO_OPENER_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "daemon/backend/mapped_memory.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/merge/undo_loader.h"

namespace dmu {

class UndoOpener {
 public:
  // Called once, from a turn of the loop; the opener may be deleted then.
  using Done = std::function<void(absl::Status)>;

  // `image` and `loop` must outlive the opener.
  UndoOpener(std::unique_ptr<Disk> log, const cow::Image& image, Loop* loop,
             Done done);
  ~UndoOpener();
  UndoOpener(const UndoOpener&) = delete;
  UndoOpener& operator=(const UndoOpener&) = delete;

  // Reads on; `done` comes later.
  void Begin() { loop_->Post(&step_); }
  // Nothing more is read; `done` comes with kCancelled.
  void Cancel() { cancelled_ = true; }

  // When done without an error.
  const merge::UndoTail& tail() const { return loader_.tail(); }
  std::unique_ptr<Disk> TakeDisk() { return std::move(log_); }

 private:
  static void OnStep(void* context);
  static void OnRead(void* context);
  void Step();
  void Finish(absl::Status status);

  std::unique_ptr<Disk> log_;
  Loop* const loop_;
  Done done_;
  merge::UndoLoader loader_;
  MappedMemory buffer_;
  DiskOp op_;
  Task step_;
  bool cancelled_ = false;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_UNDO_OPENER_H_
