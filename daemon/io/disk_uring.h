// SPDX-License-Identifier: Apache-2.0
//
// disk_uring.h - a regular file or block device as a Disk that does not hold up
// the loop when its storage is slow or does not answer at all.
//
// What is in the page cache is read and written at once, by the same calls as
// FileDisk makes: going through the ring would only add to them. What would
// wait is handed to the kernel:
//  - a read that is not in the cache, to the ring;
//  - a flush, to the flusher; those that come while one is under way share the
//    next;
//  - a discard or zeroing, to the ring, where a thread of the kernel's does it;
//  - everything, to the ring, on a file that cannot say what is in its cache
//    (a network file system, an overlay, some mapped devices);
//  - everything, to the ring, past the page cache (DirectIo): storage and ring
//    take as much at a time as there is, and nothing below has to wait for
//    anything here.
//
// A write goes to the cache, and that takes no time while nothing stands in its
// way. So it waits here, and not in the kernel, for what could:
//  - a flush of this disk: a journal, pages that must not change meanwhile;
//  - a discard or zeroing: the file's lock;
//  - a read of the same pages or of those before them, which has them locked;
//  - the rest of a page it covers in part and that is not in the cache: the
//  ring
//    reads it first;
//  - too much that was written and not flushed, for which the kernel would make
//    the writer wait: then the disk flushes by itself;
//  - anything that has not come back for kStuckUs.
// What is left is what a file system does behind a write, most of all reading
// its own metadata; a block device has none.
//
// Fenced: a process that dies ends its writes to the cache and its flushes, and
// waits for the kernel's threads that discard, before it closes its channels.
// What may still be under way then is reads, what goes past the cache and, on
// Linux 6.12, a discard of a block device; and until they have ended nobody
// else gets the disk (see DiskOptions::exclusive).
#ifndef DAEMON_IO_DISK_URING_H_
#define DAEMON_IO_DISK_URING_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/base/grown_array.h"
#include "daemon/io/disk.h"
#include "daemon/io/disk_open.h"
#include "daemon/io/flusher.h"
#include "daemon/io/loop.h"
#include "daemon/io/ring.h"

namespace dmu {

class UringDisk : public Disk {
 public:
  // As OpenDiskFile. Ring, flusher and loop outlive the disk.
  static absl::StatusOr<std::unique_ptr<UringDisk>> Open(
      const std::string& path, const DiskOptions& options, Ring* ring,
      Flusher* flusher, Loop* loop);

  UringDisk(DiskFile file, Ring* ring, Flusher* flusher, Loop* loop);
  // Nothing that was submitted may be under way. A flush of the disk's own may:
  // the file is closed when it has ended.
  ~UringDisk() override;

  uint64_t size_bytes() const override { return file_.size_bytes; }
  const char* name() const override { return file_.path.c_str(); }
  uint64_t device_number() const override { return DeviceNumber(file_); }
  uint32_t depth() const override {
    return file_.direct ? runs_.size() : Disk::depth();
  }
  bool direct_io() const override { return file_.direct; }
  void Submit(DiskOp* op) override;

  // For tests: how much may be written before the disk flushes by itself.
  void set_dirty_bytes_max(uint64_t bytes) { dirty_bytes_max_ = bytes; }
  // And what a file is like that cannot tell what is in its cache.
  void set_opaque() { cache_ = Cache::kOpaque; }

 private:
  static constexpr uint32_t kRuns = 8;
  // Past the cache, as many as the storage takes, but no more than this.
  static constexpr uint32_t kDirectRuns = 128;
  static constexpr uint64_t kStuckUs = 100'000;

  // What the file can do.
  enum class Cache : uint8_t {
    kAsks,    // tells whether a read would wait
    kMemory,  // has no storage below: nothing waits
    kOpaque,  // does not tell
    kPassed,  // is not used
  };

  // How storage is told to forget a range.
  enum class Discard : uint8_t {
    kCommand,  // block devices: Linux 6.12 and later
    kStale,    // block devices: up to Linux 6.8
    kPunch,    // files
    kNone,
  };

  // An operation with the ring.
  struct Run : RingOp {
    UringDisk* disk = nullptr;
    DiskOp* op = nullptr;
    uint64_t done_bytes = 0;
    uint64_t begun_us = 0;
    // Of the page that a write has in part; read to have it in the cache.
    bool is_page = false;
    uint64_t page_offset = 0;
    uint8_t byte = 0;
    Run* next_run = nullptr;  // in the list of free ones
  };

  // Outlives the disk when the disk goes away in the middle of it.
  struct Flush : FlushOp {
    UringDisk* disk = nullptr;  // nullptr: nobody waits for it any more
    UniqueFd fd_kept;
  };

  struct OpList {
    DiskOp* head = nullptr;
    DiskOp* tail = nullptr;
    void Append(DiskOp* op);
    DiskOp* Pop();
  };

  static void Prepare(RingOp* op, io_uring_sqe* entry);
  static void OnDone(RingOp* op, int32_t result);
  static void OnFlushed(FlushOp* op, int error);

  // false: it has to wait, behind what else does.
  bool Begin(DiskOp* op);
  bool BeginDirect(DiskOp* op);
  bool BeginRead(DiskOp* op);
  bool BeginWrite(DiskOp* op);
  bool BeginRange(DiskOp* op);
  void BeginFlush(DiskOp* op);
  void StartFlush();
  void Resume();
  // Whether there is a free one; makes one if there may be more.
  bool HasRun();
  // There is a free one.
  void StartRun(DiskOp* op, uint64_t done_bytes);
  void StartPage(DiskOp* op, uint64_t page_offset);
  void FreeRun(Run* run);
  // `error`: 0, an errno value, or kEnded.
  void Finish(DiskOp* op, int error);

  // Reads what can be had at once. true: that was all, or *error is one.
  bool ReadCached(const DiskOp& op, uint64_t* done_bytes, int* error);
  bool IsCached(uint64_t offset);
  // Whether a page that the write covers in part is not in the cache; *offset.
  bool LacksPage(const DiskOp& write, uint64_t* offset);
  bool IsStuck() const;
  bool MeetsRead(const DiskOp& write) const;
  bool MeetsWaitingWrite(const DiskOp& read) const;
  void PrepareRange(const DiskOp& op, io_uring_sqe* entry) const;
  // Whether there is another way to discard, after that one gave `result`.
  bool TryOtherDiscard(const DiskOp& op, int32_t result);

  DiskFile file_;
  Ring* const ring_;
  Flusher* const flusher_;
  Loop* const loop_;
  Cache cache_ = Cache::kAsks;
  Discard discard_ = Discard::kPunch;

  GrownArray<Run> runs_;
  Run* free_runs_ = nullptr;
  int running_ = 0;
  bool range_under_way_ = false;
  OpList waiting_;  // in the order of Submit, but for what may overtake

  std::unique_ptr<Flush> flush_;
  bool flushing_ = false;
  OpList flushing_ops_;  // answered by the flush under way
  OpList flush_next_;    // by the next one
  // What a flush of the disk's own has found; told to the next that asks.
  int flush_error_ = 0;
  uint64_t dirty_bytes_ = 0;  // written since the last flush began
  uint64_t dirty_bytes_max_;
};

}  // namespace dmu

#endif  // DAEMON_IO_DISK_URING_H_
