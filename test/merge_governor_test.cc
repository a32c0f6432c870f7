// SPDX-License-Identifier: Apache-2.0
//
// Goal: merges keep to their limits, share what there is, and none waits for
// ever.
// Method: merges that move nothing, on the simulator's loop: a step takes a
// time of the virtual clock, as a disk would. Pressure is what the test says,
// and the merges' own stalls beside it.
#include "daemon/backend/merge_governor.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "daemon/backend/pressure.h"
#include "gtest/gtest.h"
#include "test/sim/rng.h"
#include "test/sim/sim_loop.h"

namespace dmu {
namespace {

using Held = MergeGovernor::Held;
using sim::SimLoop;

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kMs = 1000;
constexpr uint64_t kSecond = 1000 * kMs;

// Others stall for `percent` of the time; merges add their own.
class FakePressure : public PressureSource {
 public:
  explicit FakePressure(const SimLoop* loop) : loop_(loop) {}

  bool Read(Totals* totals) override {
    if (!known) return false;
    SetPercent(percent_);
    reads_us.push_back(loop_->NowUs());
    (of_memory ? totals->memory_us : totals->io_us) = sum_us_;
    // Large and still: only growth counts.
    (of_memory ? totals->io_us : totals->memory_us) = uint64_t{1} << 50;
    return true;
  }
  void SetPercent(uint32_t percent) {
    const uint64_t now_us = loop_->NowUs();
    sum_us_ += (now_us - since_us_) * percent_ / 100;
    since_us_ = now_us;
    percent_ = percent;
  }
  void AddStall(uint64_t us) { sum_us_ += us; }

  bool known = true;
  bool of_memory = false;
  std::vector<uint64_t> reads_us;

 private:
  const SimLoop* const loop_;
  uint32_t percent_ = 0;
  uint64_t since_us_ = 0;
  uint64_t sum_us_ = 0;
};

struct Step {
  int merge;
  uint64_t at_us;
  uint64_t bytes;
};

// What the merges of one governor did.
struct World {
  explicit World(uint64_t seed = 1) : loop(seed) {}
  SimLoop loop;
  FakePressure pressure{&loop};
  std::vector<Step> steps;

  // Virtual time, not turns: without work it jumps.
  void RunFor(uint64_t us) {
    bool over = false;
    Timer end([](void* context) { *static_cast<bool*>(context) = true; },
              &over);
    loop.Arm(&end, us);
    while (!over) loop.Turn();
  }
  uint64_t Moved(int merge, uint64_t from_us = 0) const {
    uint64_t bytes = 0;
    for (const Step& step : steps) {
      if (step.merge == merge && step.at_us >= from_us) bytes += step.bytes;
    }
    return bytes;
  }
  uint64_t MovedByAll(uint64_t from_us = 0) const {
    uint64_t bytes = 0;
    for (const Step& step : steps) {
      if (step.at_us >= from_us) bytes += step.bytes;
    }
    return bytes;
  }
  // The most of any second.
  uint64_t MostInASecond() const {
    uint64_t most = 0;
    uint64_t bytes = 0;
    size_t first = 0;
    for (const Step& step : steps) {
      bytes += step.bytes;
      while (steps[first].at_us + kSecond <= step.at_us) {
        bytes -= steps[first++].bytes;
      }
      most = std::max(most, bytes);
    }
    return most;
  }
};

struct Merge {
  Merge(World* world_in, MergeGovernor* governor_in, int id_in)
      : world(world_in), governor(governor_in), id(id_in) {}
  ~Merge() { Stop(); }

  static void OnStep(void* context) {
    auto* self = static_cast<Merge*>(context);
    if (!self->wants || !self->governor->MayStep(&self->member)) return;
    self->world->steps.push_back(
        {self->id, self->world->loop.NowUs(), self->step_bytes});
    self->governor->Charge(&self->member, self->step_bytes);
    self->world->loop.Advance(self->step_us);
    self->world->pressure.AddStall(self->step_us);
    self->Start();
  }
  void Start() {
    wants = true;
    world->loop.PostIdle(&task);
  }
  // Stops asking, and does not say so.
  void FallSilent() {
    wants = false;
    world->loop.Cancel(&task);
  }
  void Stop() {
    FallSilent();
    governor->Leave(&member);
  }
  Held held() const { return governor->held(member); }

  World* const world;
  MergeGovernor* const governor;
  const int id;
  uint64_t step_bytes = 256 * kKiB;
  uint64_t step_us = 500;  // 500 MiB per second
  bool wants = false;
  Task task{OnStep, this};
  MergeGovernor::Member member{&task};
};

using Merges = std::vector<std::unique_ptr<Merge>>;

Merges MakeMerges(World* world, MergeGovernor* governor, int count) {
  Merges merges;
  for (int i = 0; i < count; ++i) {
    merges.push_back(std::make_unique<Merge>(world, governor, i));
  }
  return merges;
}

void StartAll(const Merges& merges) {
  for (const auto& merge : merges) merge->Start();
}

void ExpectWithinPercent(uint64_t value, uint64_t expected, uint64_t percent) {
  EXPECT_GE(value, expected - expected * percent / 100);
  EXPECT_LE(value, expected + expected * percent / 100);
}

// Nothing is left that would wake an idle daemon.
void ExpectNoTimer(World* world) {
  const uint64_t before_us = world->loop.NowUs();
  while (world->loop.Turn()) {
  }
  EXPECT_EQ(world->loop.NowUs(), before_us);
}

TEST(TokenBucketTest, RefillsDoNotRound) {
  TokenBucket bucket(256 * kKiB);
  bucket.SetRate(5000, /*now_us=*/0);
  for (uint64_t us = 1; us <= kSecond; ++us) bucket.Refill(us);
  EXPECT_TRUE(bucket.Has(5000));
  EXPECT_FALSE(bucket.Has(5001));
}

TEST(TokenBucketTest, ReadyWhenItSays) {
  for (uint64_t rate : {uint64_t{1}, uint64_t{3}, uint64_t{7'000'001},
                        TokenBucket::kRateMaxBytesPerS, UINT64_MAX}) {
    SCOPED_TRACE(rate);
    TokenBucket bucket(1000);
    bucket.SetRate(rate, /*now_us=*/5);
    const uint64_t ready_us = bucket.ReadyUs(1000);
    bucket.Refill(ready_us - 1);
    EXPECT_FALSE(bucket.Has(1000));
    bucket.Refill(ready_us);
    EXPECT_TRUE(bucket.Has(1000));
    // Years later it holds the burst, and no more.
    bucket.Refill(uint64_t{1} << 60);
    const uint64_t burst = std::max(
        uint64_t{1000}, std::min(rate, TokenBucket::kRateMaxBytesPerS) / 10);
    EXPECT_TRUE(bucket.Has(burst));
    EXPECT_FALSE(bucket.Has(burst + 1));
  }
}

TEST(MergeGovernorTest, WithoutLimitsAMergeGoesOnAndNothingIsArmed) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  Merge merge(&world, &governor, 0);
  merge.Start();
  for (int i = 0; i < 1000; ++i) world.loop.Turn();
  EXPECT_EQ(world.steps.size(), 1000u);
  EXPECT_TRUE(world.pressure.reads_us.empty());
  EXPECT_EQ(merge.held(), Held::kNo);
  merge.FallSilent();
  ExpectNoTimer(&world);
}

TEST(MergeGovernorTest, TheRateIsKept) {
  for (uint64_t rate :
       {100 * kKiB, 3 * kMiB, 10 * kMiB, 100 * kMiB, 300 * kMiB}) {
    for (uint64_t step_bytes : {4 * kKiB, 256 * kKiB, 500 * kKiB}) {
      for (int count : {1, 2, 3}) {
        SCOPED_TRACE(testing::Message()
                     << rate << " " << step_bytes << " " << count);
        World world;
        MergeGovernor governor(&world.loop, nullptr);
        governor.SetLimits({.rate_bytes_per_s = rate});
        Merges merges = MakeMerges(&world, &governor, count);
        for (auto& merge : merges) {
          merge->step_bytes = step_bytes;
          merge->step_us = step_bytes / 512;
        }
        StartAll(merges);
        // Time for some grants, at a low rate.
        const uint64_t seconds = rate < 3 * kMiB ? 100 : 10;
        world.RunFor(seconds * kSecond);
        ExpectWithinPercent(world.MovedByAll(), seconds * rate, 10);
        // What was not used is not saved up.
        for (auto& merge : merges) merge->Stop();
        world.RunFor(10 * kSecond);
        StartAll(merges);
        world.RunFor(2 * kSecond);
        const uint64_t active = std::min(count, 2);
        EXPECT_LE(world.MostInASecond(),
                  rate + std::max(rate / 10, MergeGovernor::kGrantBytes) +
                      active * (MergeGovernor::kGrantBytes + step_bytes));
      }
    }
  }
}

// Stalls of the daemon's one thread, as from a flush, cost no rate while they
// are shorter than the burst.
TEST(MergeGovernorTest, TheRateIsKeptBesideStalls) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.rate_bytes_per_s = 20 * kMiB});
  Merge merge(&world, &governor, 0);
  merge.Start();
  for (int i = 0; i < 100; ++i) {
    world.RunFor(30 * kMs);
    world.loop.Advance(70 * kMs);
  }
  ExpectWithinPercent(world.MovedByAll(), 200 * kMiB, 10);
}

TEST(MergeGovernorTest, MergesMoveFairShares) {
  for (uint64_t rate : {uint64_t{0}, 20 * kMiB}) {
    for (uint32_t active_max : {1u, 2u, 3u}) {
      for (uint64_t step_us : {500u, 5000u, 50000u}) {
        SCOPED_TRACE(testing::Message()
                     << rate << " " << active_max << " " << step_us);
        World world;
        MergeGovernor governor(&world.loop, nullptr);
        governor.SetLimits(
            {.rate_bytes_per_s = rate, .active_max = active_max});
        Merges merges = MakeMerges(&world, &governor, 3);
        for (auto& merge : merges) merge->step_us = step_us;
        StartAll(merges);
        world.RunFor(90 * kSecond);
        const uint64_t third = world.MovedByAll() / 3;
        for (int i = 0; i < 3; ++i) {
          ExpectWithinPercent(world.Moved(i), third, 5);
        }
        // A turn is a slice and not a step: the disk's head stays where it is.
        if (active_max > 1) continue;
        size_t changes = 0;
        for (size_t i = 1; i < world.steps.size(); ++i) {
          changes += world.steps[i].merge != world.steps[i - 1].merge;
        }
        EXPECT_LE(changes,
                  90 + world.MovedByAll() / MergeGovernor::kSliceBytes);
      }
    }
  }
}

// A grant every three seconds, and slices of one: each would be the same one's.
TEST(MergeGovernorTest, SlicesAndGrantsDoNotKeepTime) {
  for (uint64_t seconds : {1, 2, 3, 6}) {
    World world;
    MergeGovernor governor(&world.loop, nullptr);
    governor.SetLimits(
        {.rate_bytes_per_s = MergeGovernor::kGrantBytes / seconds,
         .active_max = 1});
    Merges merges = MakeMerges(&world, &governor, 3);
    StartAll(merges);
    world.RunFor(300 * kSecond);
    const uint64_t third = world.MovedByAll() / 3;
    EXPECT_GT(third, 0u);
    for (int i = 0; i < 3; ++i) {
      ExpectWithinPercent(world.Moved(i), third, 20);
    }
  }
}

TEST(MergeGovernorTest, NoMoreThanActiveMaxGoOn) {
  for (uint32_t active_max : {1u, 2u}) {
    World world;
    MergeGovernor governor(&world.loop, nullptr);
    governor.SetLimits({.active_max = active_max});
    Merges merges = MakeMerges(&world, &governor, 4);
    StartAll(merges);
    for (int i = 0; i < 20; ++i) world.loop.Turn();
    std::vector<bool> stepped(4);
    for (const Step& step : world.steps) stepped[step.merge] = true;
    for (uint32_t i = 0; i < 4; ++i) {
      EXPECT_EQ(stepped[i], i < active_max);
      EXPECT_EQ(merges[i]->held(), i < active_max ? Held::kNo : Held::kTurn);
    }
  }
}

TEST(MergeGovernorTest, AMergesOwnRateKeepsNobodyElseBack) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 3);
  governor.SetRate(&merges[0]->member, 3 * kMiB);
  StartAll(merges);
  world.RunFor(20 * kSecond);
  // Less by the times in line.
  EXPECT_LE(world.Moved(0), 20 * 3 * kMiB);
  EXPECT_GE(world.Moved(0), 20 * 2 * kMiB);
  ExpectWithinPercent(world.MovedByAll(), 20 * 500 * kMiB, 10);
  ExpectWithinPercent(world.Moved(1), world.Moved(2), 5);
  // Alone.
  merges[1]->Stop();
  merges[2]->Stop();
  uint64_t begin_us = world.loop.NowUs();
  world.RunFor(10 * kSecond);
  ExpectWithinPercent(world.Moved(0, begin_us), 10 * 3 * kMiB, 10);
  EXPECT_EQ(merges[0]->held(), Held::kRate);
  // Lifted while it waits.
  governor.SetRate(&merges[0]->member, 0);
  begin_us = world.loop.NowUs();
  world.RunFor(kSecond);
  ExpectWithinPercent(world.Moved(0, begin_us), 500 * kMiB, 10);
}

TEST(MergeGovernorTest, OwnStallsAreNoPressure) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  governor.SetLimits({.pressure_percent = 10});
  Merges merges = MakeMerges(&world, &governor, 2);
  StartAll(merges);
  world.RunFor(10 * kSecond);
  // Held 20 ms of each 220, and never longer.
  ExpectWithinPercent(world.MovedByAll(), 5000 * kMiB * 200 / 220, 3);
  const std::vector<uint64_t>& reads_us = world.pressure.reads_us;
  for (size_t i = 1; i < reads_us.size(); i += 2) {
    EXPECT_EQ(reads_us[i] - reads_us[i - 1], MergeGovernor::kProbeMinUs);
  }
}

class PressureTest : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(IoAndMemory, PressureTest, ::testing::Bool());

TEST_P(PressureTest, HoldsBacksOffAndFallsBack) {
  World world;
  world.pressure.of_memory = GetParam();
  MergeGovernor governor(&world.loop, &world.pressure);
  governor.SetLimits({.pressure_percent = 20});
  Merges merges = MakeMerges(&world, &governor, 3);
  world.pressure.SetPercent(21);
  StartAll(merges);
  world.RunFor(5 * kSecond);
  // From the start.
  EXPECT_TRUE(world.steps.empty());
  EXPECT_EQ(merges[0]->held(), Held::kPressure);
  EXPECT_EQ(merges[2]->held(), Held::kPressure);
  const std::vector<uint64_t>& reads_us = world.pressure.reads_us;
  const std::vector<uint64_t> expected_ms = {20,  40,   80,   160, 320,
                                             640, 1000, 1000, 1000};
  ASSERT_GE(reads_us.size(), 9u);
  for (size_t i = 1; i < reads_us.size(); ++i) {
    EXPECT_EQ(reads_us[i] - reads_us[i - 1], expected_ms[i - 1] * kMs) << i;
  }
  // Seen at the end of the probe after the one that runs, at the latest.
  world.pressure.SetPercent(19);
  const uint64_t fell_us = world.loop.NowUs();
  world.RunFor(10 * kSecond);
  EXPECT_GT(world.steps.at(0).at_us, fell_us);
  EXPECT_LE(world.steps[0].at_us, fell_us + 2 * MergeGovernor::kProbeMaxUs);
  // And probes are short again.
  EXPECT_EQ(reads_us.back() - *(reads_us.end() - 2) < 300 * kMs, true);
  const uint64_t begin_us = world.loop.NowUs();
  world.RunFor(10 * kSecond);
  ExpectWithinPercent(world.MovedByAll(begin_us), 5000 * kMiB * 200 / 220, 3);
  // Comes back: seen within one time of merging.
  world.pressure.SetPercent(100);
  const uint64_t rose_us = world.loop.NowUs();
  world.RunFor(5 * kSecond);
  EXPECT_LE(world.steps.back().at_us,
            rose_us + MergeGovernor::kMergeUs + MergeGovernor::kProbeMinUs);
}

TEST(MergeGovernorTest, ALittleIsLetThroughHoweverLongPressureLasts) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  governor.SetLimits({.pressure_percent = 20});
  Merges merges = MakeMerges(&world, &governor, 3);
  world.pressure.SetPercent(100);
  StartAll(merges);
  world.RunFor(300 * kSecond);
  // 200 ms in 10 to 11 seconds.
  const uint64_t full_bytes = 300 * 500 * kMiB;
  EXPECT_GE(world.MovedByAll(), full_bytes * 200 / 11400);
  EXPECT_LE(world.MovedByAll(), full_bytes * 200 / 10000);
  const uint64_t third = world.MovedByAll() / 3;
  for (int i = 0; i < 3; ++i) ExpectWithinPercent(world.Moved(i), third, 25);
}

// The loop comes to a posted merge later than the merge would be held again.
TEST(MergeGovernorTest, ABusyLoopDoesNotLoseTheLittle) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  governor.SetLimits({.pressure_percent = 20, .active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 2);
  world.pressure.SetPercent(100);
  struct Busy {
    World* world;
    Task task;
  } busy = {&world, {}};
  busy.task.run = [](void* context) {
    auto* self = static_cast<Busy*>(context);
    self->world->loop.Advance(300 * kMs);
    self->world->loop.Post(&self->task);
  };
  busy.task.context = &busy;
  world.loop.Post(&busy.task);
  StartAll(merges);
  world.RunFor(300 * kSecond);
  EXPECT_GE(world.Moved(0), 8 * 256 * kKiB);
  EXPECT_GE(world.Moved(1), 8 * 256 * kKiB);
  world.loop.Cancel(&busy.task);
}

TEST(MergeGovernorTest, WithoutPressureInformationThereIsNoSuchLimit) {
  World world;
  world.pressure.known = false;
  world.pressure.SetPercent(100);
  for (PressureSource* source : {static_cast<PressureSource*>(&world.pressure),
                                 static_cast<PressureSource*>(nullptr)}) {
    MergeGovernor governor(&world.loop, source);
    governor.SetLimits({.pressure_percent = 1});
    Merge merge(&world, &governor, 0);
    merge.Start();
    const uint64_t begin_us = world.loop.NowUs();
    world.RunFor(kSecond);
    ExpectWithinPercent(world.MovedByAll(begin_us), 500 * kMiB, 1);
  }
}

TEST(MergeGovernorTest, PressureInformationThatEndsHoldsNobody) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  governor.SetLimits({.pressure_percent = 1});
  world.pressure.SetPercent(100);
  Merge merge(&world, &governor, 0);
  merge.Start();
  world.RunFor(3 * kSecond);
  EXPECT_TRUE(world.steps.empty());
  world.pressure.known = false;
  world.RunFor(2 * kSecond);
  EXPECT_GE(world.MovedByAll(), 500 * kMiB);
}

TEST(MergeGovernorTest, LimitsChangeForThoseThatAreHeld) {
  World world;
  MergeGovernor governor(&world.loop, &world.pressure);
  Merges merges = MakeMerges(&world, &governor, 3);
  auto moves_bytes = [&](uint64_t us) {
    const uint64_t begin_us = world.loop.NowUs();
    world.RunFor(us);
    return world.MovedByAll(begin_us);
  };
  // By the rate.
  governor.SetLimits({.rate_bytes_per_s = 1});
  StartAll(merges);
  EXPECT_EQ(moves_bytes(kSecond), 0u);
  EXPECT_EQ(merges[0]->held(), Held::kRate);
  EXPECT_EQ(merges[2]->held(), Held::kTurn);
  governor.SetLimits({.rate_bytes_per_s = 10 * kMiB});
  ExpectWithinPercent(moves_bytes(10 * kSecond), 100 * kMiB, 10);
  governor.SetLimits({.rate_bytes_per_s = 20 * kMiB});
  ExpectWithinPercent(moves_bytes(10 * kSecond), 200 * kMiB, 10);
  governor.SetLimits({.rate_bytes_per_s = 1});
  EXPECT_LE(moves_bytes(kSecond), 2 * kMiB);
  governor.SetLimits({});
  ExpectWithinPercent(moves_bytes(kSecond), 500 * kMiB, 1);
  // By pressure.
  world.pressure.SetPercent(50);
  governor.SetLimits({.pressure_percent = 40});
  EXPECT_LE(moves_bytes(5 * kSecond), kMiB);
  EXPECT_EQ(merges[0]->held(), Held::kPressure);
  governor.SetLimits({});
  ExpectWithinPercent(moves_bytes(kSecond), 500 * kMiB, 1);
  governor.SetLimits({.pressure_percent = 40});
  EXPECT_LE(moves_bytes(5 * kSecond), kMiB);
  governor.SetLimits({.pressure_percent = 60});
  EXPECT_GE(moves_bytes(5 * kSecond), 500 * kMiB);
  governor.SetLimits({.pressure_percent = 100});
  ExpectWithinPercent(moves_bytes(kSecond), 500 * kMiB, 1);
}

TEST(MergeGovernorTest, ActiveMaxChangesForThoseThatWait) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.active_max = 0});  // is 1
  Merges merges = MakeMerges(&world, &governor, 3);
  StartAll(merges);
  for (int i = 0; i < 10; ++i) world.loop.Turn();
  auto waiting = [&] {
    return std::count_if(merges.begin(), merges.end(), [](const auto& merge) {
      return merge->held() == Held::kTurn;
    });
  };
  EXPECT_EQ(waiting(), 2);
  governor.SetLimits({.active_max = 3});
  EXPECT_EQ(waiting(), 0);
  for (int i = 0; i < 10; ++i) world.loop.Turn();
  EXPECT_GT(world.Moved(1), 0u);
  EXPECT_GT(world.Moved(2), 0u);
  governor.SetLimits({.active_max = 1});
  for (int i = 0; i < 3; ++i) world.loop.Turn();
  EXPECT_EQ(waiting(), 2);
  world.RunFor(3 * kSecond);
  for (int i = 0; i < 3; ++i) EXPECT_GT(world.Moved(i), 32 * kMiB);
}

TEST(MergeGovernorTest, WhoLeavesMakesRoomAtOnce) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 3);
  StartAll(merges);
  for (int i = 0; i < 5; ++i) world.loop.Turn();
  EXPECT_EQ(merges[1]->held(), Held::kTurn);
  EXPECT_EQ(merges[2]->held(), Held::kTurn);
  merges[1]->Stop();  // waiting
  EXPECT_EQ(merges[1]->held(), Held::kNo);
  merges[1]->Stop();
  const uint64_t left_us = world.loop.NowUs();
  merges[0]->Stop();  // active
  for (int i = 0; i < 5; ++i) world.loop.Turn();
  EXPECT_EQ(world.steps.back().merge, 2);
  EXPECT_EQ(world.Moved(1), 0u);
  EXPECT_EQ(world.loop.NowUs(), left_us + 5 * merges[2]->step_us);
  merges[2]->Stop();
  ExpectNoTimer(&world);
}

TEST(MergeGovernorTest, WhoLeavesWhileHeldLeavesNoTimer) {
  for (const MergeGovernor::Limits& limits :
       {MergeGovernor::Limits{.rate_bytes_per_s = 1},
        MergeGovernor::Limits{.pressure_percent = 1}}) {
    World world;
    MergeGovernor governor(&world.loop, &world.pressure);
    governor.SetLimits(limits);
    world.pressure.SetPercent(100);
    Merges merges = MakeMerges(&world, &governor, 2);
    StartAll(merges);
    world.RunFor(kSecond);
    EXPECT_EQ(world.MovedByAll(), 0u);
    for (auto& merge : merges) merge->Stop();
    ExpectNoTimer(&world);
  }
}

// One that waits for a reader and does not say so.
TEST(MergeGovernorTest, ASilentMergeLosesItsPlace) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 2);
  StartAll(merges);
  for (int i = 0; i < 5; ++i) world.loop.Turn();
  EXPECT_EQ(merges[1]->held(), Held::kTurn);
  merges[0]->FallSilent();
  const uint64_t silent_us = world.loop.NowUs();
  world.RunFor(2 * kSecond);
  EXPECT_GT(world.Moved(1), 400 * kMiB);
  // It comes back to the end of the line, and with no more than its share.
  merges[0]->Start();
  world.RunFor(kSecond);
  EXPECT_GT(world.Moved(0, silent_us), 200 * kMiB);
}

// Its slice was over before it was posted, and then it does not ask.
TEST(MergeGovernorTest, AMergeThatIsPostedAndFallsSilentLosesItsPlace) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits(
      {.rate_bytes_per_s = MergeGovernor::kGrantBytes / 3, .active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 2);
  StartAll(merges);
  for (int i = 0; i < 10 && merges[1]->held() != Held::kTurn; ++i) {
    world.loop.Turn();
  }
  while (!merges[0]->task.queued) world.loop.Turn();
  ASSERT_TRUE(world.steps.empty());
  merges[0]->FallSilent();
  world.RunFor(10 * kSecond);
  EXPECT_GT(world.Moved(1), 0u);
}

// Slices of several merges end together, or nearly.
TEST(MergeGovernorTest, ShareIsFairWhoeverIsAStepAhead) {
  for (int count : {3, 4, 5}) {
    for (uint32_t active_max = 1; active_max < 5; ++active_max) {
      for (uint64_t seed = 0; seed < 5; ++seed) {
        SCOPED_TRACE(testing::Message()
                     << count << " " << active_max << " " << seed);
        World world(seed);
        MergeGovernor governor(&world.loop, nullptr);
        governor.SetLimits({.active_max = active_max});
        Merges merges = MakeMerges(&world, &governor, count);
        for (auto& merge : merges) {
          merge->Start();
          for (uint32_t i = world.loop.rng()->Below(4); i > 0; --i) {
            world.loop.Turn();
          }
        }
        world.RunFor(20 * kSecond);
        const uint64_t share = world.MovedByAll() / count;
        for (int i = 0; i < count; ++i) {
          ExpectWithinPercent(world.Moved(i), share, 5);
        }
      }
    }
  }
}

// What a merge was granted and did not use is for the others.
TEST(MergeGovernorTest, WhoLeavesTakesNothingOfTheRate) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.rate_bytes_per_s = 20 * kMiB});
  Merges merges = MakeMerges(&world, &governor, 2);
  merges[1]->step_bytes = 4 * kKiB;
  StartAll(merges);
  for (int i = 0; i < 500; ++i) {
    const size_t steps = world.steps.size();
    while (world.steps.size() == steps || world.steps.back().merge != 1) {
      world.loop.Turn();
    }
    merges[1]->Stop();
    merges[1]->Start();
  }
  const uint64_t took_us = world.loop.NowUs() - world.steps[0].at_us;
  ExpectWithinPercent(world.MovedByAll(), 20 * kMiB * took_us / kSecond, 10);
}

// Two that leave and come back by turns, as for readers.
TEST(MergeGovernorTest, WhoLeavesEarlyKeepsNobodyOut) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  governor.SetLimits({.active_max = 1});
  Merges merges = MakeMerges(&world, &governor, 3);
  StartAll(merges);
  for (int i = 0; i < 20; ++i) {
    Merge& leaves = *merges[i % 2];
    world.RunFor(leaves.step_us);
    leaves.Stop();
    leaves.Start();
  }
  EXPECT_GT(world.Moved(0), 0u);
  EXPECT_GT(world.Moved(1), 0u);
  EXPECT_GT(world.Moved(2), 0u);
}

// Whatever happens, who wants to go on comes to a step.
TEST(MergeGovernorTest, NoMergeStarves) {
  constexpr int kMerges = 5;
  // The longest wait for one: all others' slices, each begun by a wait for
  // pressure and for a grant, at the lowest rates below.
  constexpr uint64_t kLongestUs = 200 * kSecond;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    sim::Rng rng(seed);
    MergeGovernor governor(&world.loop, &world.pressure);
    Merges merges = MakeMerges(&world, &governor, kMerges);
    for (auto& merge : merges) {
      merge->step_us = 20 * kMs + rng.Below(100 * kMs);
      merge->step_bytes = 4 * kKiB + rng.Below(500 * kKiB);
    }
    for (int action = 0; action < 100; ++action) {
      Merge& merge = *merges[rng.Below(kMerges)];
      switch (rng.Below(10)) {
        case 0:
        case 1:
        case 2:
          merge.Start();
          break;
        case 3:
          merge.Stop();
          break;
        case 4:
          merge.FallSilent();
          break;
        case 5:
          governor.SetLimits(
              {.rate_bytes_per_s =
                   rng.OneIn(2) ? 0 : 64 * kKiB + rng.Below(10 * kMiB),
               .pressure_percent = rng.OneIn(2) ? 0 : rng.Below(120),
               .active_max = rng.Below(4)});
          break;
        case 6:
          governor.SetRate(&merge.member,
                           rng.OneIn(2) ? 0 : 64 * kKiB + rng.Below(kMiB));
          break;
        case 7:
          world.pressure.SetPercent(rng.Below(101));
          world.pressure.known = !rng.OneIn(4);
          break;
        case 8:
          // Asked out of turn, as at the end of its I/O.
          if (merge.wants) world.loop.PostIdle(&merge.task);
          break;
        case 9:
          // Charged without being asked, as on the way to a pause.
          governor.Charge(&merge.member, rng.Below(kMiB));
          break;
      }
      if (rng.OneIn(2)) world.RunFor(rng.Below(3 * kSecond));
    }
    const uint64_t begin_us = world.loop.NowUs();
    world.RunFor(kLongestUs);
    for (const auto& merge : merges) {
      if (!merge->wants) continue;
      EXPECT_GT(world.Moved(merge->id, begin_us), 0u) << merge->id;
    }
    for (auto& merge : merges) merge->Stop();
    ExpectNoTimer(&world);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(MergeGovernorTest, TellsWhenTheFirstComesAndTheLastIsGone) {
  World world;
  MergeGovernor governor(&world.loop, nullptr);
  std::vector<bool> told;
  governor.SetListener(
      [](void* context, bool merging) {
        static_cast<std::vector<bool>*>(context)->push_back(merging);
      },
      &told);
  Merges merges = MakeMerges(&world, &governor, 2);
  EXPECT_TRUE(told.empty());
  StartAll(merges);
  world.RunFor(kSecond / 10);
  EXPECT_EQ(told, std::vector<bool>{true});
  merges[0]->Stop();
  world.RunFor(kSecond / 10);
  EXPECT_EQ(told, std::vector<bool>{true});
  merges[1]->Stop();
  EXPECT_EQ(told, (std::vector<bool>{true, false}));
  merges[1]->Stop();  // has left
  EXPECT_EQ(told, (std::vector<bool>{true, false}));
  merges[0]->Start();
  world.RunFor(kSecond / 10);
  EXPECT_EQ(told, (std::vector<bool>{true, false, true}));
}

class ProcPressureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/pressureXXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void Put(const char* name, const std::string& text) {
    FILE* file = fopen((directory_ + "/" + name).c_str(), "w");
    ASSERT_NE(file, nullptr);
    fwrite(text.data(), 1, text.size(), file);
    fclose(file);
  }
  static std::string Text(const std::string& some_total) {
    return "some avg10=1.50 avg60=0.03 avg300=0.10 total=" + some_total +
           "\nfull avg10=0.00 avg60=0.03 avg300=0.06 total=77\n";
  }
  std::string directory_;
};

TEST_F(ProcPressureTest, ReadsTheTotalsAnewEachTime) {
  Put("io", Text("217120719"));
  Put("memory", Text("0"));
  ProcPressure pressure(directory_.c_str());
  PressureSource::Totals totals;
  ASSERT_TRUE(pressure.Read(&totals));
  EXPECT_EQ(totals.io_us, 217120719u);
  EXPECT_EQ(totals.memory_us, 0u);
  Put("io", Text("217120720"));
  Put("memory", Text("18446744073709551615"));
  ASSERT_TRUE(pressure.Read(&totals));
  EXPECT_EQ(totals.io_us, 217120720u);
  EXPECT_EQ(totals.memory_us, UINT64_MAX);
}

TEST_F(ProcPressureTest, IsFalseWhenItDoesNotKnow) {
  PressureSource::Totals totals;
  totals.io_us = 5;
  EXPECT_FALSE(ProcPressure(directory_.c_str()).Read(&totals));
  EXPECT_FALSE(ProcPressure((directory_ + std::string(5000, 'x')).c_str())
                   .Read(&totals));
  for (const char* total : {"", "-1", "1x", "18446744073709551616"}) {
    Put("io", Text(total));
    EXPECT_FALSE(ProcPressure(directory_.c_str()).Read(&totals)) << total;
  }
  for (const char* text : {"", "\n", "full total=1\n", "some avg10=0.00\n"}) {
    Put("io", text);
    EXPECT_FALSE(ProcPressure(directory_.c_str()).Read(&totals)) << text;
  }
  Put("io", Text("1"));
  Put("memory", "nothing");
  EXPECT_FALSE(ProcPressure(directory_.c_str()).Read(&totals));
  EXPECT_EQ(totals.io_us, 5u);
}

TEST_F(ProcPressureTest, DoesWithoutTheMemorys) {
  Put("io", Text("12"));
  PressureSource::Totals totals;
  ASSERT_TRUE(ProcPressure(directory_.c_str()).Read(&totals));
  EXPECT_EQ(totals.io_us, 12u);
  EXPECT_EQ(totals.memory_us, 0u);
}

// This kernel's own, if it has it: the format is as above, and time goes on.
TEST_F(ProcPressureTest, ReadsThisKernels) {
  ProcPressure pressure;
  PressureSource::Totals before;
  if (!pressure.Read(&before)) GTEST_SKIP() << "no PSI";
  PressureSource::Totals after;
  ASSERT_TRUE(pressure.Read(&after));
  EXPECT_GE(after.io_us, before.io_us);
  EXPECT_GE(after.memory_us, before.memory_us);
}

}  // namespace
}  // namespace dmu
