// SPDX-License-Identifier: Apache-2.0
//
// backend.h - what answers requests: null, file, snapshot.
//
// A back end knows neither the channel that carries its requests nor any other
// back end. It runs on the loop's one thread.
#ifndef DAEMON_BLOCK_BACKEND_H_
#define DAEMON_BLOCK_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "daemon/base/task.h"
#include "daemon/block/request.h"

namespace dmu {

class Redirect;  // daemon/block/channel.h
class Disk;      // daemon/io/disk.h: whoever hands one over knows it

struct Geometry {
  uint64_t size_bytes = 0;  // a multiple of 512
  bool read_only = false;
  // Device number of the block device that extents of Redirect are on, or the
  // places of `remap`; 0: there is none.
  uint64_t base_device = 0;
  // How many requests it works on at a time; it takes more, which wait.
  uint32_t depth = 16;
  // Its I/O goes past the page cache.
  bool direct_io = false;
  // It touches no data: requests carry none, and what is not a flush is
  // answered with its place on base_device, or with an error.
  bool remap = false;
};

struct MergeStatus {
  enum class State : uint8_t {
    kIdle,     // not asked for, or paused before the next window
    kRunning,  // windows are being merged
    kDone,     // counter equals total: the base is the target image
    kFailed,   // stopped at a window edge; every block still reads right
  };
  State state = State::kIdle;
  uint64_t merged_ops = 0;
  uint64_t total_ops = 0;
  uint64_t merged_bytes = 0;    // of the base written by committed windows
  uint64_t total_bytes = 0;     // that a whole merge writes
  uint64_t undo_log_bytes = 0;  // in use; 0: no log is kept
  // kRunning: since Start, on the average; and what it waits for, if anything.
  uint64_t rate_bytes_per_s = 0;
  const char* held = "";
  // kFailed: a sentence, static or owned by the back end; else empty.
  const char* error = "";
};

// The part of a back end that folds a delta into its base. One listener.
class MergeControl {
 public:
  virtual ~MergeControl() = default;
  // Has the merge keep what it overwrites in `log`, which was made for this
  // merge (merge/undo_format.h); not while it runs. `done` is called once, from
  // a turn of the loop: kFailedPrecondition when the log does not hold what was
  // overwritten so far. It goes before Start.
  virtual void KeepUndoLog(std::unique_ptr<Disk> log,
                           std::function<void(absl::Status)> done) = 0;
  // Begins or goes on; no effect while running or when done.
  virtual void Start() = 0;
  // Stops at the next window edge; Start goes on. No effect when not running.
  virtual void Pause() = 0;
  // At most so many bytes per second from now on; 0: as fast as it goes.
  virtual void SetRate(uint64_t rate_bytes_per_s) = 0;
  virtual MergeStatus status() const = 0;
  // `changed` runs after every committed window and every change of state. It
  // must outlive the back end or be taken back with nullptr.
  virtual void SetListener(Task* changed) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Geometry geometry() const = 0;

  // Takes the request and calls request->Complete exactly once, now or later.
  // The caller has checked that the range lies inside geometry() and that a
  // read-only device gets no write; an op the back end does not know completes
  // with kUnsupported. One failure fails this request alone, with what is known
  // of it in request->cause.
  virtual void Submit(Request* request) = 0;

  // Begins no new work of its own (a merge stops where it is: every durable
  // state is a state to go on from); `done` runs, from a turn of the loop, when
  // nothing is in flight and the back end may be deleted. Called once, last.
  virtual void Drain(Task* done) = 0;

  struct CacheCounters {
    uint64_t hits = 0;
    uint64_t misses = 0;  // that waited for the storage
  };
  virtual CacheCounters cache_counters() const { return {}; }
  // What the kernel may read by itself is to be told there; called once, before
  // the first Submit, and never if the device has no such thing. It outlives
  // the back end.
  virtual void OfferRedirect(Redirect* /*redirect*/) {}

  // nullptr when there is nothing to merge.
  virtual MergeControl* merge() { return nullptr; }
};

}  // namespace dmu

#endif  // DAEMON_BLOCK_BACKEND_H_
