// SPDX-License-Identifier: Apache-2.0
//
// snapshot.h - a base and a COW file, served read-only as the target image, and
// the merge that makes the base that image.
//
// The device reads as the target from the first request on, before, during and
// after the merge. One failed read fails one request.
#ifndef DAEMON_BACKEND_SNAPSHOT_H_
#define DAEMON_BACKEND_SNAPSHOT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/backend/base_extents.h"
#include "daemon/backend/merge_runner.h"
#include "daemon/backend/read_plan.h"
#include "daemon/backend/unit_cache.h"
#include "daemon/block/backend.h"
#include "daemon/block/channel.h"
#include "daemon/cow/codec.h"
#include "daemon/cow/loader.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/view.h"

namespace dmu {

class SnapshotBackend : public Backend {
 public:
  // Reads worked on at a time; more wait in a list through the requests.
  static constexpr uint32_t kPlans = 16;

  struct Parts {
    Loop* loop = nullptr;
    MergeGovernor* governor = nullptr;
    std::unique_ptr<Disk> base;    // written by a merge
    std::unique_ptr<Disk> cow;     // likewise
    std::unique_ptr<Disk> source;  // nullptr: the base
    std::unique_ptr<cow::Image> image;
    uint64_t merged_bytes = 0;  // of the ops before the image's counter
  };

  // kUnimplemented without a codec for it, kResourceExhausted without memory.
  static absl::StatusOr<std::unique_ptr<SnapshotBackend>> Create(Parts parts);
  ~SnapshotBackend() override;

  Geometry geometry() const override;
  void Submit(Request* request) override;
  void Drain(Task* done) override;
  // The kernel reads what no op changes, and in the end everything.
  void OfferRedirect(Redirect* redirect) override;
  // As of BaseExtents.
  void set_extents_per_turn(uint32_t extents) {
    extents_.set_extents_per_turn(extents);
  }
  MergeControl* merge() override { return &runner_; }
  CacheCounters cache_counters() const override {
    return {units_->hits() + pages_->hits(),
            units_->misses() + pages_->misses()};
  }

 private:
  SnapshotBackend(Parts parts, std::unique_ptr<cow::Codec> codec,
                  std::unique_ptr<UnitCache> units,
                  std::unique_ptr<UnitCache> pages);

  // source: nullptr for the base.
  static std::string MergeRefusal(const cow::Image& image, const Disk& base,
                                  const Disk* source);
  static void OnPlanFinished(void* owner, ReadPlan* plan, Request* request,
                             IoStatus status);
  static void OnLeaseReleased(void* owner);
  static void OnRunnerStopped(void* context);
  static void OnExtentsStopped(void* context);
  static void OnCommitted(void* context, const merge::Window* window);
  static void OnMerged(void* context);
  void Pump();
  void FinishDrain();

  Loop* const loop_;
  const std::unique_ptr<Disk> base_;
  const std::unique_ptr<Disk> cow_;
  const std::unique_ptr<Disk> source_;
  const std::unique_ptr<cow::Image> image_;
  const std::unique_ptr<cow::Codec> codec_;
  const std::unique_ptr<UnitCache> units_;
  const std::unique_ptr<UnitCache> pages_;
  const std::string refusal_;  // the engine holds a pointer to it
  merge::Engine engine_;
  merge::View view_;
  MergeRunner runner_;

  ReadContext context_;
  ReadPlan plans_[kPlans];
  ReadPlan* free_plans_ = nullptr;
  uint32_t running_ = 0;
  bool pumping_ = false;
  Request* waiting_head_ = nullptr;
  Request* waiting_tail_ = nullptr;
  Task runner_stopped_;
  bool runner_is_stopped_ = false;
  Task* drained_ = nullptr;

  BaseExtents extents_;
  Task extents_stopped_;
  bool extents_are_stopped_ = false;
  Task merged_;
};

// Reads and judges the COW file in turns of the loop, however large it is, and
// makes the back end. source: the old image, where the base is not it; else
// nullptr. Calls `done` once, from a turn of the loop: with the
// loader's and CheckBase's errors, kInternal when the file cannot be read, or
// what Create says. The loop must turn until then; the governor outlives the
// back end.
void OpenSnapshotBackend(
    std::unique_ptr<Disk> base, std::unique_ptr<Disk> cow,
    std::unique_ptr<Disk> source, Loop* loop, MergeGovernor* governor,
    std::function<void(absl::StatusOr<std::unique_ptr<Backend>>)> done);

}  // namespace dmu

#endif  // DAEMON_BACKEND_SNAPSHOT_H_
