// SPDX-License-Identifier: Apache-2.0
//
// file.h - one Disk served one to one: a file, a block device, a loop device.
//
// A request becomes one to three operations of the disk, one after the other:
// flush (preflush), the data, flush (FUA). Requests among themselves are not
// ordered, as for any disk.
#ifndef DAEMON_BACKEND_FILE_H_
#define DAEMON_BACKEND_FILE_H_

#include <cstdint>
#include <memory>

#include "daemon/base/grown_array.h"
#include "daemon/block/backend.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"

namespace dmu {

class FileBackend : public Backend {
 public:
  // As many requests are worked on at a time as is worth it for the disk; more
  // wait in a list through the requests.
  FileBackend(std::unique_ptr<Disk> disk, bool read_only, Loop* loop);
  ~FileBackend() override;

  // The disk's size, cut to whole sectors.
  Geometry geometry() const override;
  void Submit(Request* request) override;
  void Drain(Task* done) override;

 private:
  enum class Stage : uint8_t { kPreflush, kData, kPostflush };

  struct Run {
    DiskOp op;
    FileBackend* backend = nullptr;
    Request* request = nullptr;
    Stage stage = Stage::kPreflush;
    Run* next = nullptr;
  };

  static void OnDone(void* context);

  // Whether there is a free one; makes one if there may be more.
  bool HasRun();
  void Begin(Run* run, Request* request);
  void Advance(Run* run);
  static void NextStage(Run* run);
  // Fills run->op for its stage; false when the stage has nothing to do.
  bool Prepare(Run* run);
  void Finish(Run* run, IoStatus status);

  const std::unique_ptr<Disk> disk_;
  const bool read_only_;
  const uint32_t depth_;
  Loop* const loop_;
  GrownArray<Run> runs_;
  Run* free_runs_ = nullptr;
  uint32_t running_ = 0;
  Request* waiting_head_ = nullptr;
  Request* waiting_tail_ = nullptr;
  Task* drained_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_FILE_H_
