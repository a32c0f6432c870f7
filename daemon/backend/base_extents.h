// SPDX-License-Identifier: Apache-2.0
//
// base_extents.h - tells the kernel what of a snapshot it can read from the
// base by itself.
//
// Told is only what is in the base for good, on the disk and not just in a
// cache, because the kernel does not look at the page cache: a block that no op
// gives, and the blocks of a window once its commit is durable, which comes
// after the flush of the base. Neither is ever written again, so nothing told
// is taken back but to tell it in fewer pieces.
//
// First comes a flush of the base, which a killed predecessor may have left
// dirty; then a sweep over the device, a part of it in each idle turn of the
// loop; meanwhile and afterwards each window that is committed. A block of a
// window is told by exactly one of the two: by the sweep if that has not come
// so far yet, else with the window. What could not be told (the kernel's bound,
// a window that an earlier daemon left in scratch) is told at the end of the
// merge, when all of the device is one extent.
#ifndef DAEMON_BACKEND_BASE_EXTENTS_H_
#define DAEMON_BACKEND_BASE_EXTENTS_H_

#include <cstdint>
#include <memory>

#include "daemon/base/task.h"
#include "daemon/block/channel.h"
#include "daemon/cow/image.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/merge/plan.h"
#include "daemon/merge/view.h"

namespace dmu {

class BaseExtents {
 public:
  // All must outlive it.
  struct Parts {
    Loop* loop = nullptr;
    Disk* base = nullptr;
    const cow::Image* image = nullptr;
    const merge::View* view = nullptr;
  };
  explicit BaseExtents(const Parts& parts);
  ~BaseExtents();
  BaseExtents(const BaseExtents&) = delete;
  BaseExtents& operator=(const BaseExtents&) = delete;

  // Extents told to the kernel in one call, and in one turn of the loop.
  static constexpr uint32_t kExtentsPerTurn = 256;
  // From 1 to that; a sweep that takes long shows more of what may go wrong.
  void set_extents_per_turn(uint32_t extents) { extents_per_turn_ = extents; }

  // Called at most once, for a device of so many bytes. redirect: empty, lives
  // until Stop or longer. Does nothing for a file in which two ops give a
  // block.
  void Begin(Redirect* redirect, uint64_t device_bytes);

  // The engine's: a window is durable. nullptr: one whose blocks it does not
  // know any more.
  void OnCommitted(const merge::Window* window);
  // The whole merge is durable.
  void OnMerged();

  // Tells no more. `stopped` is posted when no I/O is in flight.
  void Stop(Task* stopped);

 private:
  // So many blocks from one that a window wrote.
  struct Run {
    uint32_t first_block = 0;
    uint32_t blocks = 0;
  };

  static void OnFlushed(void* context);
  static void OnSweep(void* context);
  void Sweep();
  void TellRuns(const Run* runs, size_t count);
  Redirect::Extent Extent(uint64_t first_block, uint64_t blocks) const;

  const Parts parts_;
  DiskOp flush_;
  bool flushing_ = false;
  Task sweep_;
  Redirect* redirect_ = nullptr;  // while there is something to tell it
  Task* stopped_ = nullptr;
  uint32_t extents_per_turn_ = kExtentsPerTurn;
  // Where the device ends, or the base, if that is earlier.
  uint64_t end_sector_ = 0;
  // The sweep has told of all blocks before this one.
  uint64_t swept_blocks_ = 0;
  // Something is in the base and was not told.
  bool incomplete_ = false;
  // Of the window that is being told; exists from the first one to the end of
  // the merge.
  std::unique_ptr<Run[]> runs_;
  uint32_t runs_capacity_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_BASE_EXTENTS_H_
