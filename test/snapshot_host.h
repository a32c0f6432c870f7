// SPDX-License-Identifier: Apache-2.0
//
// snapshot_host.h - the snapshot back end over simulated disks and a simulated
// loop, attached, detached and cut off from power at will.
#ifndef TEST_SNAPSHOT_HOST_H_
#define TEST_SNAPSHOT_HOST_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/backend/merge_governor.h"
#include "daemon/backend/snapshot.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"
#include "test/sim/sim_loop.h"

namespace dmu::sim {

inline constexpr uint32_t kTurnsMax = 2'000'000;

// One read by a device, with its buffer.
struct TestRead {
  Request request;
  std::vector<uint8_t> buffer;
  bool done = false;
};

// A base and a COW file on simulated disks, attached and detached at will.
class SnapshotHost {
 public:
  SnapshotHost(Scenario scenario, uint64_t seed)
      : scenario_(std::move(scenario)),
        loop_(seed),
        base_(&store_, scenario_.base),
        cow_(&store_, scenario_.cow) {}

  ~SnapshotHost() {
    if (backend_ != nullptr) Close();
  }

  // From now on the old image is a disk of its own; the base has so many blocks
  // of it, which the target has, too.
  void SplitSource(uint32_t base_blocks) {
    source_.emplace(&store_, scenario_.base);
    scenario_.target.resize(size_t{base_blocks} * kBlockBytes);
    std::vector<uint8_t> base = scenario_.base;
    base.resize(scenario_.target.size());
    base_ = SimDisk(&store_, base);
  }

  void DropSource() { source_.reset(); }

  absl::Status Open() {
    std::unique_ptr<SimLoopDisk> source;
    if (source_.has_value()) {
      source = std::make_unique<SimLoopDisk>(&*source_, &loop_);
    }
    auto base = std::make_unique<SimLoopDisk>(&base_, &loop_);
    auto cow = std::make_unique<SimLoopDisk>(&cow_, &loop_);
    base_disk_ = base.get();
    cow_disk_ = cow.get();
    absl::Status status;
    bool done = false;
    OpenSnapshotBackend(std::move(base), std::move(cow), std::move(source),
                        &loop_, &governor_,
                        [&](absl::StatusOr<std::unique_ptr<Backend>> result) {
                          done = true;
                          status = result.status();
                          if (result.ok()) backend_ = std::move(*result);
                        });
    EXPECT_FALSE(done);
    EXPECT_TRUE(loop_.TurnUntil([&] { return done; }, kTurnsMax));
    return status;
  }

  // Drains and deletes the back end; its reads must end first.
  void Close() {
    bool drained = false;
    Task done([](void* context) { *static_cast<bool*>(context) = true; },
              &drained);
    backend_->Drain(&done);
    EXPECT_TRUE(loop_.TurnUntil([&] { return drained; }, kTurnsMax));
    backend_.reset();
  }

  void CutPower() {
    base_ = SimDisk(base_, AfterCrash(base_));
    cow_ = SimDisk(cow_, AfterCrash(cow_));
  }

  std::unique_ptr<TestRead> Read(uint64_t sector, uint64_t sectors) {
    auto read = std::make_unique<TestRead>();
    read->buffer.assign(sectors * kSectorBytes, 0xa5);
    read->request.op = Request::Op::kRead;
    read->request.sector = sector;
    read->request.length_bytes = read->buffer.size();
    read->request.payload = read->buffer;
    read->request.channel_data = read.get();
    read->request.on_complete = [](Request* request) {
      auto* done = static_cast<TestRead*>(request->channel_data);
      EXPECT_FALSE(done->done);
      done->done = true;
    };
    backend_->Submit(&read->request);
    return read;
  }

  std::unique_ptr<TestRead> RandomRead() {
    const uint64_t total = backend_->geometry().size_bytes / kSectorBytes;
    Rng* rng = loop_.rng();
    const uint64_t sector = rng->Below(total);
    const uint64_t most = std::min<uint64_t>(
        total - sector, rng->OneIn(16) ? 1000 : 1 + rng->Below(64));
    return Read(sector, 1 + rng->Below(most));
  }

  bool Matches(const TestRead& read) const {
    return std::memcmp(read.buffer.data(),
                       scenario_.target.data() + read.request.offset(),
                       read.buffer.size()) == 0;
  }

  // A sector of the base as a power cut would leave it that loses all it can.
  const uint8_t* DurableSector(uint32_t sector) const {
    const auto written = base_.durable().find(sector);
    return written != base_.durable().end()
               ? store_.Get(written->second)
               : scenario_.base.data() + size_t{sector} * kSectorBytes;
  }

  SimLoop& loop() { return loop_; }
  SnapshotBackend& backend() {
    return static_cast<SnapshotBackend&>(*backend_);
  }
  MergeControl& merge() { return *backend_->merge(); }
  SimDisk& base() { return base_; }
  SimDisk& cow() { return cow_; }
  const SimDisk& source() const { return *source_; }
  SimLoopDisk& base_disk() { return *base_disk_; }
  SimLoopDisk& cow_disk() { return *cow_disk_; }
  const Scenario& scenario() const { return scenario_; }

 private:
  Overlay AfterCrash(const SimDisk& disk) {
    std::vector<bool> kept(disk.pending().size());
    for (size_t i = 0; i < kept.size(); ++i) kept[i] = loop_.rng()->OneIn(2);
    return disk.AfterCrash(kept);
  }

  Scenario scenario_;
  SectorStore store_;
  SimLoop loop_;
  MergeGovernor governor_{&loop_, nullptr};
  SimDisk base_;
  SimDisk cow_;
  std::optional<SimDisk> source_;
  SimLoopDisk* base_disk_ = nullptr;
  SimLoopDisk* cow_disk_ = nullptr;
  std::unique_ptr<Backend> backend_;
};

}  // namespace dmu::sim

#endif  // TEST_SNAPSHOT_HOST_H_
