// SPDX-License-Identifier: Apache-2.0
//
// backend_test.cc - the snapshot back end as the device sees it.
//
// Goal: whatever the merge is doing, and through restarts and power cuts, each
// read gives the target's bytes, and an error stays with the request it hit.
// Method: the real back end over simulated disks and a simulated loop; random
// requests of 512-byte granularity and odd sizes, compared with the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "daemon/backend/merge_governor.h"
#include "daemon/backend/snapshot.h"
#include "daemon/cow/unit_check.h"
#include "daemon/cow/writer.h"
#include "test/cow_test_util.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"
#include "test/sim/sim_loop.h"
#include "test/snapshot_host.h"

namespace dmu::sim {
namespace {

// Keeps some reads in flight and checks those that end.
class Readers {
 public:
  explicit Readers(SnapshotHost* host) : host_(host) {}

  void Turn() {
    if (reads_.size() < 24 && host_->loop().rng()->OneIn(6)) {
      reads_.push_back(host_->RandomRead());
    }
    host_->loop().Turn();
    Collect();
  }

  void Finish() {
    EXPECT_TRUE(host_->loop().TurnUntil(
        [&] {
          Collect();
          return reads_.empty();
        },
        kTurnsMax));
  }

  // Failed requests are counted, not refused.
  bool errors_allowed = false;
  uint64_t errors = 0;
  uint64_t ended = 0;

 private:
  void Collect() {
    std::erase_if(reads_, [&](const std::unique_ptr<TestRead>& read) {
      if (!read->done) return false;
      ++ended;
      if (read->request.status != IoStatus::kOk) {
        ++errors;
        EXPECT_TRUE(errors_allowed) << IoStatusName(read->request.status);
      } else {
        EXPECT_TRUE(host_->Matches(*read))
            << "sector " << read->request.sector << ", "
            << read->request.length_bytes << " bytes";
      }
      return true;
    });
  }

  SnapshotHost* const host_;
  std::vector<std::unique_ptr<TestRead>> reads_;
};

struct Case {
  cow::Compression compression;
  uint8_t span_log2_max;
};

class SnapshotTest : public testing::TestWithParam<Case> {
 protected:
  Scenario Make(uint64_t seed) const {
    ScenarioOptions options;
    options.blocks_min = 40;
    options.blocks_max = 600;
    options.compression = GetParam().compression;
    options.span_log2_max = GetParam().span_log2_max;
    return MakeScenario(seed, options);
  }
};

TEST_P(SnapshotTest, ReadsAreRightBeforeDuringAndAfterTheMerge) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SnapshotHost host(Make(seed), seed);
    ASSERT_TRUE(host.Open().ok());
    EXPECT_TRUE(host.backend().geometry().read_only);
    EXPECT_EQ(host.backend().geometry().size_bytes,
              host.scenario().target.size());
    Readers readers(&host);
    for (int i = 0; i < 300; ++i) readers.Turn();
    host.merge().Start();
    uint64_t merged_bytes = 0;
    for (uint32_t i = 0; i < kTurnsMax; ++i) {
      readers.Turn();
      const MergeStatus status = host.merge().status();
      ASSERT_GE(status.merged_bytes, merged_bytes);
      merged_bytes = status.merged_bytes;
      ASSERT_NE(status.state, MergeStatus::State::kFailed) << status.error;
      if (status.state == MergeStatus::State::kDone) break;
    }
    EXPECT_EQ(host.merge().status().state, MergeStatus::State::kDone);
    EXPECT_EQ(host.merge().status().merged_ops,
              host.merge().status().total_ops);
    EXPECT_EQ(merged_bytes, host.merge().status().total_bytes);
    for (int i = 0; i < 300; ++i) readers.Turn();
    readers.Finish();
    EXPECT_GT(readers.ended, 50u);
    EXPECT_EQ(host.base().Contents(), host.scenario().target);
  }
}

TEST_P(SnapshotTest, AMergeSurvivesRestartsAndPowerCuts) {
  for (uint64_t seed = 11; seed <= 14; ++seed) {
    SnapshotHost host(Make(seed), seed);
    for (uint32_t life = 0; life < 100; ++life) {
      ASSERT_TRUE(host.Open().ok());
      Readers readers(&host);
      host.merge().Start();
      const uint32_t turns = 1 + host.loop().rng()->Below(60 * (life + 1));
      for (uint32_t i = 0; i < turns; ++i) readers.Turn();
      if (life % 5 == 4) host.merge().Pause();
      const MergeStatus status = host.merge().status();
      ASSERT_NE(status.state, MergeStatus::State::kFailed) << status.error;
      readers.Finish();
      host.Close();
      if (host.loop().rng()->OneIn(2)) host.CutPower();
      if (status.state == MergeStatus::State::kDone) break;
    }
    // A life that began after the last commit, and did not flush it, may have
    // reported the end of a merge that the power cut then took back.
    ASSERT_TRUE(host.Open().ok());
    host.merge().Start();
    while (host.loop().Turn()) {
    }
    EXPECT_EQ(host.merge().status().state, MergeStatus::State::kDone);
    EXPECT_EQ(host.base().Contents(), host.scenario().target);
  }
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (cow::Compression compression :
       {cow::Compression::kNone, cow::Compression::kGz,
        cow::Compression::kBrotli, cow::Compression::kLz4,
        cow::Compression::kZstd}) {
    for (uint8_t span_log2_max = 0; span_log2_max <= 6; ++span_log2_max) {
      cases.push_back({compression, span_log2_max});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(
    EveryCodecAndUnit, SnapshotTest, testing::ValuesIn(AllCases()),
    [](const auto& info) {
      return std::string(cow::CompressionName(info.param.compression)) +
             std::to_string(4 << info.param.span_log2_max) + "K";
    });

Scenario SmallScenario(uint64_t seed,
                       cow::Compression compression = cow::Compression::kLz4) {
  ScenarioOptions options;
  options.blocks_min = 60;
  options.blocks_max = 200;
  options.compression = compression;
  options.span_log2_max = 3;
  return MakeScenario(seed, options);
}

// Reads before, during and after a merge, to its end.
void MergeUnderReads(SnapshotHost* host) {
  Readers readers(host);
  for (int i = 0; i < 300; ++i) readers.Turn();
  host->merge().Start();
  for (uint32_t i = 0; i < kTurnsMax && host->merge().status().state ==
                                            MergeStatus::State::kRunning;
       ++i) {
    readers.Turn();
  }
  EXPECT_EQ(host->merge().status().state, MergeStatus::State::kDone)
      << host->merge().status().error;
  for (int i = 0; i < 300; ++i) readers.Turn();
  readers.Finish();
  EXPECT_EQ(host->base().Contents(), host->scenario().target);
}

TEST(SnapshotSourceTest, TheOldImageMayBeAnotherDisk) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SnapshotHost host(SmallScenario(seed), seed);
    host.SplitSource(host.scenario().blocks());
    ASSERT_TRUE(host.Open().ok());
    MergeUnderReads(&host);
    EXPECT_EQ(host.source().Contents(), host.scenario().base);
  }
}

// A partition that became smaller: what it loses is still read from.
TEST(SnapshotSourceTest, TheBaseMayBeShorterThanTheOldImage) {
  constexpr uint32_t kOldBlocks = 96;
  constexpr uint32_t kNewBlocks = 64;
  for (const bool split : {false, true}) {
    sim::Rng rng(7);
    std::vector<sim::Change> changes;
    for (uint32_t i = 0; i < 20; ++i) {
      sim::Change copy;
      copy.type = cow::OpType::kCopy;
      copy.new_block = 3 * i;
      copy.source_bytes = uint64_t{kNewBlocks + i} * kBlockBytes;
      changes.push_back(copy);
    }
    SnapshotHost host(sim::Build(sim::NumberedBlocks(kOldBlocks, 1), changes,
                                 {.version = 3, .scratch = true}, &rng),
                      1);
    host.SplitSource(kNewBlocks);
    if (!split) {
      host.DropSource();
      EXPECT_EQ(host.Open().code(), absl::StatusCode::kFailedPrecondition);
      continue;
    }
    const absl::Status opened = host.Open();
    ASSERT_TRUE(opened.ok()) << opened;
    EXPECT_EQ(host.backend().geometry().size_bytes, kNewBlocks * kBlockBytes);
    MergeUnderReads(&host);
  }
}

TEST(SnapshotErrorTest, AFailedReadFailsOneRequest) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SnapshotHost host(SmallScenario(seed), seed);
    ASSERT_TRUE(host.Open().ok());
    host.base_disk().set_faults({.read_one_in = 20});
    host.cow_disk().set_faults({.read_one_in = 20});
    Readers readers(&host);
    readers.errors_allowed = true;
    for (int i = 0; i < 3000; ++i) readers.Turn();
    readers.Finish();
    EXPECT_GT(readers.errors, 0u);
    EXPECT_LT(readers.errors, readers.ended);
    // Nothing of it lasts.
    host.base_disk().set_faults({});
    host.cow_disk().set_faults({});
    readers.errors_allowed = false;
    for (int i = 0; i < 1000; ++i) readers.Turn();
    readers.Finish();
  }
}

// A stage is repeated whole, so writes must fail seldom enough for it to end.
TEST(SnapshotErrorTest, AFailingDiskStopsTheMergeAndNotTheReads) {
  uint64_t failures = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SnapshotHost host(SmallScenario(seed), seed);
    ASSERT_TRUE(host.Open().ok());
    host.base_disk().set_faults({.write_one_in = 300, .flush_one_in = 3});
    host.cow_disk().set_faults({.write_one_in = 300, .flush_one_in = 3});
    Readers readers(&host);
    host.merge().Start();
    for (uint32_t i = 0; i < kTurnsMax; ++i) {
      readers.Turn();
      const MergeStatus status = host.merge().status();
      if (status.state == MergeStatus::State::kDone) break;
      if (status.state != MergeStatus::State::kFailed) continue;
      ++failures;
      EXPECT_STRNE(status.error, "");
      for (int j = 0; j < 50; ++j) readers.Turn();
      host.merge().Start();
    }
    readers.Finish();
    EXPECT_EQ(host.merge().status().state, MergeStatus::State::kDone);
    EXPECT_EQ(host.base().Contents(), host.scenario().target);
  }
  EXPECT_GT(failures, 0u);
}

// The file says what some blocks of its base are.
TEST(SnapshotOpenTest, AnotherBaseIsRefusedBeforeAByteIsServed) {
  constexpr uint32_t kBlocks = 16;
  Scenario scenario;
  scenario.base = NumberedBlocks(kBlocks, 1);
  scenario.target = scenario.base;
  std::fill_n(scenario.target.begin(), kBlockBytes, uint8_t{0});
  test::MemorySink sink;
  cow::WriterOptions options;
  options.scratch = false;
  options.op_count_max = 1;
  options.base_bytes = options.target_bytes = kBlocks * kBlockBytes;
  auto writer = cow::Writer::Create(&sink, options);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->AddZero(0).ok());
  cow::ImageFacts facts;
  for (const uint32_t block : {0u, 5u, 9u}) {
    const ConstByteSpan bytes(scenario.base.data() + block * kBlockBytes,
                              kBlockBytes);
    facts.samples.push_back({block, cow::UnitCheck(bytes)});
  }
  ASSERT_TRUE((*writer)->Finish(facts).ok());
  scenario.cow = sink.file;
  {
    SnapshotHost host(scenario, 1);
    const absl::Status status = host.Open();
    EXPECT_TRUE(status.ok()) << status;
  }
  // A block that an op gives may have been written by a merge already.
  Scenario merged = scenario;
  merged.base[17] ^= 1;
  EXPECT_TRUE(SnapshotHost(merged, 1).Open().ok());
  Scenario wrong = scenario;
  wrong.base[9 * kBlockBytes] ^= 1;
  const absl::Status status = SnapshotHost(wrong, 1).Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

// One byte of one unit is wrong: its readers are told, the others read on, and
// the merge stops before the base has anything of that window.
TEST(SnapshotErrorTest, ACorruptUnitNeverReachesTheBase) {
  Rng rng(1);
  std::vector<Change> changes;
  std::vector<uint8_t> text(kBlockBytes, 'x');
  for (uint32_t block = 0; block < 8; ++block) {
    Change change;
    change.type = cow::OpType::kReplace;
    change.new_block = block;
    change.data = text;
    changes.push_back(change);
  }
  LayoutOptions layout;
  layout.scratch = true;
  layout.compression = cow::Compression::kZstd;
  Scenario scenario = Build(NumberedBlocks(8, 1), changes, layout, &rng);
  // The last unit's frame header.
  const cow::Header header = cow::DecodeHeader(scenario.cow.data());
  cow::Op op;
  ASSERT_TRUE(cow::DecodeOpV3(
      scenario.cow.data() + header.OpsOffset() + 7 * cow::kOpBytesV3,
      header.compression, &op));
  scenario.cow[op.source] ^= 0xff;

  SnapshotHost host(scenario, 1);
  ASSERT_TRUE(host.Open().ok());
  auto good = host.Read(0, 7 * kSectorsPerBlock);
  auto bad = host.Read(7 * kSectorsPerBlock, 1);
  ASSERT_TRUE(host.loop().TurnUntil([&] { return good->done && bad->done; },
                                    kTurnsMax));
  EXPECT_EQ(good->request.status, IoStatus::kOk);
  EXPECT_TRUE(host.Matches(*good));
  EXPECT_EQ(bad->request.status, IoStatus::kCorrupt);

  host.merge().Start();
  ASSERT_TRUE(host.loop().TurnUntil(
      [&] {
        return host.merge().status().state == MergeStatus::State::kFailed;
      },
      kTurnsMax));
  EXPECT_NE(std::string(host.merge().status().error).find("block 7"),
            std::string::npos)
      << host.merge().status().error;
  EXPECT_EQ(host.base().Contents(), host.scenario().base);
}

TEST(SnapshotTest, OnlyReadsAndFlushesAreServed) {
  SnapshotHost host(SmallScenario(3), 3);
  ASSERT_TRUE(host.Open().ok());
  const struct {
    Request::Op op;
    IoStatus status;
  } cases[] = {
      {Request::Op::kWrite, IoStatus::kIoError},
      {Request::Op::kFlush, IoStatus::kOk},
      {Request::Op::kDiscard, IoStatus::kUnsupported},
      {Request::Op::kWriteZeroes, IoStatus::kUnsupported},
      {Request::Op::kSecureErase, IoStatus::kUnsupported},
      {Request::Op::kUnknown, IoStatus::kUnsupported},
  };
  for (const auto& c : cases) {
    Request request;
    request.op = c.op;
    bool done = false;
    request.channel_data = &done;
    request.on_complete = [](Request* r) {
      *static_cast<bool*>(r->channel_data) = true;
    };
    host.backend().Submit(&request);
    EXPECT_TRUE(done);
    EXPECT_EQ(request.status, c.status);
  }
}

TEST(SnapshotTest, ListenersHearOfEveryChangeAndPauseHolds) {
  SnapshotHost host(SmallScenario(5), 5);
  ASSERT_TRUE(host.Open().ok());
  uint32_t changes = 0;
  Task changed([](void* context) { ++*static_cast<uint32_t*>(context); },
               &changes);
  host.merge().SetListener(&changed);
  host.merge().Start();
  host.merge().Pause();
  ASSERT_TRUE(host.loop().TurnUntil(
      [&] { return host.merge().status().state == MergeStatus::State::kIdle; },
      kTurnsMax));
  while (host.loop().Turn()) {
  }
  EXPECT_EQ(host.merge().status().merged_ops, 0u);
  EXPECT_GT(changes, 0u);
  host.merge().Start();
  while (host.loop().Turn()) {
  }
  EXPECT_EQ(host.merge().status().state, MergeStatus::State::kDone);
  EXPECT_GT(changes, 2u);
  host.merge().SetListener(nullptr);
}

Scenario Zeros(uint32_t blocks) {
  std::vector<Change> changes(blocks);
  for (uint32_t i = 0; i < blocks; ++i) changes[i].new_block = i;
  Rng rng(1);
  LayoutOptions layout;
  layout.scratch = true;
  return Build(std::vector<uint8_t>(size_t{blocks} * kBlockBytes, 1), changes,
               layout, &rng);
}

// Several devices on one loop: each comes on while the others do, and not more
// than may go on at once have memory for it.
TEST(SnapshotTest, MergesTakeTurns) {
  constexpr uint32_t kBlocks = 20'000;  // 80 MB, a slice has 32 MiB
  SimLoop loop(1);
  MergeGovernor governor(&loop, nullptr);
  governor.SetLimits({.active_max = 1});
  const Scenario scenario = Zeros(kBlocks);
  SectorStore store;
  std::deque<SimDisk> disks;
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < 3; ++i) {
    disks.emplace_back(&store, scenario.base);
    auto base = std::make_unique<SimLoopDisk>(&disks.back(), &loop);
    disks.emplace_back(&store, scenario.cow);
    auto cow = std::make_unique<SimLoopDisk>(&disks.back(), &loop);
    const size_t opened = backends.size();
    OpenSnapshotBackend(std::move(base), std::move(cow), nullptr, &loop,
                        &governor,
                        [&](absl::StatusOr<std::unique_ptr<Backend>> result) {
                          ASSERT_TRUE(result.ok()) << result.status();
                          backends.push_back(std::move(*result));
                        });
    ASSERT_TRUE(
        loop.TurnUntil([&] { return backends.size() > opened; }, kTurnsMax));
  }
  for (auto& backend : backends) backend->merge()->Start();
  uint32_t waiting = 0;
  uint64_t least = 0;
  const auto merged = [&](size_t i) {
    return backends[i]->merge()->status().merged_ops;
  };
  ASSERT_TRUE(loop.TurnUntil(
      [&] {
        for (auto& backend : backends) {
          waiting += backend->merge()->status().held[0] != '\0' ? 1 : 0;
        }
        least = std::min({merged(0), merged(1), merged(2)});
        return std::max({merged(0), merged(1), merged(2)}) == kBlocks;
      },
      10 * kTurnsMax));
  EXPECT_GT(waiting, 0u);
  EXPECT_GE(least, kBlocks / 3) << "somebody was left behind";
  while (loop.Turn()) {
  }
  for (auto& backend : backends) {
    EXPECT_EQ(backend->merge()->status().state, MergeStatus::State::kDone);
    bool drained = false;
    Task done([](void* context) { *static_cast<bool*>(context) = true; },
              &drained);
    backend->Drain(&done);
    ASSERT_TRUE(loop.TurnUntil([&] { return drained; }, kTurnsMax));
  }
  for (size_t i = 0; i < disks.size(); i += 2) {
    EXPECT_TRUE(disks[i].Contents() == scenario.target);
  }
}

TEST(SnapshotTest, BadFilesAreRefusedWithASentence) {
  Scenario scenario = SmallScenario(7);
  scenario.cow[0] ^= 1;
  EXPECT_EQ(SnapshotHost(scenario, 1).Open().code(),
            absl::StatusCode::kDataLoss);
  scenario.cow.clear();
  EXPECT_EQ(SnapshotHost(scenario, 1).Open().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace dmu::sim
