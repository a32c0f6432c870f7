// SPDX-License-Identifier: Apache-2.0
//
// Goal: the daemon gives way only where that pays: tried when rounds are many
// and small, kept while they bring more, given up at once when they are late,
// and ever more rarely tried where it brings nothing.
#include "daemon/io/give_way.h"

#include <sched.h>

#include <algorithm>
#include <memory>

#include "gtest/gtest.h"
#include "test/sim/sim_loop.h"

namespace dmu {
namespace {

// A thread that notes what it is set to.
class GiveWayTest : public ::testing::Test {
 protected:
  static bool Set(void* context, bool batch) {
    auto* self = static_cast<GiveWayTest*>(context);
    ++self->asked_;
    if (self->refuses_) return false;
    self->batch_ = batch;
    return true;
  }

  void Rounds(uint32_t count, uint32_t requests, uint64_t apart_us) {
    for (uint32_t i = 0; i < count; ++i) {
      loop_.Advance(apart_us);
      give_way_->OnRound(loop_, requests);
    }
  }
  // As many as are judged together, and the one they begin with. While it is
  // tried they begin with the judgement before.
  void Window(uint32_t requests, uint64_t apart_us = kFastUs) {
    Rounds(1 + (GiveWay::kRequests + requests - 1) / requests, requests,
           apart_us);
  }
  // Until it is tried, at most so long.
  uint64_t TriedAfterUs(uint64_t at_most_us) {
    const uint64_t from_us = loop_.NowUs();
    while (!batch_ && loop_.NowUs() - from_us < at_most_us) {
      Rounds(1, 1, kFastUs);
    }
    return loop_.NowUs() - from_us;
  }

  static constexpr uint64_t kFastUs = 20;
  static constexpr uint64_t kWindowUs = (GiveWay::kRequests + 1) * kFastUs;

  sim::SimLoop loop_{1};
  bool batch_ = false;
  bool refuses_ = false;
  int asked_ = 0;
  std::unique_ptr<GiveWay> give_way_ = std::make_unique<GiveWay>(Set, this);
};

TEST_F(GiveWayTest, IsTriedWhenRoundsAreManyAndSmall) {
  Rounds(GiveWay::kRequests, 1, kFastUs);
  EXPECT_FALSE(batch_);
  Rounds(1, 1, kFastUs);
  EXPECT_TRUE(batch_);
}

TEST_F(GiveWayTest, IsNotTriedOnALoopThatIsNotBusy) {
  for (int i = 0; i < 10; ++i) Window(1, GiveWay::kBusyUs + 10);
  EXPECT_EQ(asked_, 0);
}

TEST_F(GiveWayTest, IsNotTriedWhereRoundsBringEnough) {
  for (int i = 0; i < 10; ++i) Window(GiveWay::kFew);
  EXPECT_EQ(asked_, 0);
  Window(GiveWay::kFew - 1);
  EXPECT_TRUE(batch_);
}

// Twice as many requests in a time, for as long as they come.
TEST_F(GiveWayTest, IsKeptWhileMoreComeThrough) {
  Window(1);
  ASSERT_TRUE(batch_);
  uint64_t batch_us = 0;
  const uint64_t from_us = loop_.NowUs();
  while (loop_.NowUs() - from_us < 10 * GiveWay::kProbeUs) {
    const uint64_t before_us = loop_.NowUs();
    if (batch_) {
      Rounds(1, 10, 10 * kFastUs / 2);
      batch_us += loop_.NowUs() - before_us;
    } else {
      Rounds(1, 1, kFastUs);
    }
  }
  EXPECT_GE(batch_us, 9 * GiveWay::kProbeUs);
  // What it would be without is measured again now and then.
  EXPECT_GE(asked_, 2 * 9);
  EXPECT_LE(asked_, 2 * 11);
}

TEST_F(GiveWayTest, IsGivenUpWhenNoMoreComeThrough) {
  Window(1);
  ASSERT_TRUE(batch_);
  Window(10, 10 * kFastUs / 2);
  ASSERT_TRUE(batch_);
  Window(10, 10 * kFastUs);
  Window(10, 10 * kFastUs);
  EXPECT_FALSE(batch_);
}

TEST_F(GiveWayTest, OneRequestARoundEndsATrySoon) {
  Window(1);
  ASSERT_TRUE(batch_);
  Rounds(1 + GiveWay::kFirstRounds, 1, kFastUs);
  EXPECT_FALSE(batch_);
}

TEST_F(GiveWayTest, WhatBringsNothingIsTriedEverMoreRarely) {
  Window(1);
  uint64_t back_off_us = GiveWay::kBackOffUs;
  for (int tries = 0; tries < 6; ++tries) {
    ASSERT_TRUE(batch_) << tries;
    Rounds(1 + GiveWay::kFirstRounds, 1, kFastUs);
    ASSERT_FALSE(batch_) << tries;
    const uint64_t after_us = TriedAfterUs(2 * GiveWay::kBackOffMaxUs);
    EXPECT_GE(after_us, back_off_us) << tries;
    EXPECT_LE(after_us, back_off_us + 2 * kWindowUs) << tries;
    back_off_us = std::min(2 * back_off_us, GiveWay::kBackOffMaxUs);
  }
  EXPECT_EQ(back_off_us, GiveWay::kBackOffMaxUs);
  // One that pays begins anew.
  ASSERT_TRUE(batch_);
  Window(10, 10 * kFastUs / 2);
  ASSERT_TRUE(batch_);
  Window(1);
  ASSERT_FALSE(batch_);
  EXPECT_LE(TriedAfterUs(GiveWay::kBackOffMaxUs),
            GiveWay::kBackOffUs + 2 * kWindowUs);
}

// Late: behind what would have come without it.
TEST_F(GiveWayTest, ALateRoundEndsItAtOnce) {
  Window(1);
  ASSERT_TRUE(batch_);
  Rounds(3, 6, 6 * kFastUs);
  Rounds(1, 6, GiveWay::kPauseUs + 6 * kFastUs - 1);
  EXPECT_TRUE(batch_);
  Rounds(1, 6, 6 * kFastUs + 1);
  EXPECT_FALSE(batch_);
  // No fault of what was tried: as soon as all is busy again.
  EXPECT_LE(TriedAfterUs(2 * kWindowUs), 2 * kWindowUs);
  EXPECT_TRUE(batch_);
  // The first round of a try can be late too.
  Rounds(1, 1, GiveWay::kPauseUs + kFastUs);
  EXPECT_FALSE(batch_);
  // And the first one after it was judged to pay.
  TriedAfterUs(2 * kWindowUs);
  Rounds(16, GiveWay::kRequests / 16, kFastUs);
  EXPECT_TRUE(batch_);
  Rounds(1, 1, GiveWay::kPauseUs + kFastUs);
  EXPECT_FALSE(batch_);
}

// A device that takes its time, and who has very many under way there: they
// come together, and seldom.
TEST_F(GiveWayTest, ALongRoundThatBringsManyIsNotLate) {
  Window(1);
  ASSERT_TRUE(batch_);
  for (int i = 0; i < 100; ++i) {
    Rounds(1, 16, 2 * GiveWay::kPauseUs / 3);
    Rounds(1, 112, 2 * GiveWay::kPauseUs / 3);
  }
  EXPECT_TRUE(batch_);
  EXPECT_EQ(asked_, 1);
}

TEST_F(GiveWayTest, AKernelThatRefusesIsAskedOnce) {
  refuses_ = true;
  for (int i = 0; i < 10; ++i) {
    Window(1);
    loop_.Advance(GiveWay::kBackOffMaxUs);
  }
  EXPECT_EQ(asked_, 1);
  EXPECT_FALSE(batch_);
}

TEST_F(GiveWayTest, TheThreadIsGivenBackAsItWas) {
  Window(1);
  ASSERT_TRUE(batch_);
  give_way_.reset();
  EXPECT_FALSE(batch_);
  asked_ = 0;
  give_way_ = std::make_unique<GiveWay>(Set, this);
  give_way_.reset();
  EXPECT_EQ(asked_, 0);
}

TEST_F(GiveWayTest, AThreadThatIsLeftAlone) {
  give_way_ = std::make_unique<GiveWay>(nullptr, nullptr);
  for (int i = 0; i < 10; ++i) Window(1);
  give_way_.reset();
  EXPECT_EQ(asked_, 0);
}

// The real one, on the thread that runs the test; SCHED_BATCH needs no rights.
TEST(GiveWayThreadTest, SetsTheCallingThread) {
  ASSERT_EQ(sched_getscheduler(0), SCHED_OTHER);
  const GiveWay::SetBatch set = GiveWay::ForThisThread();
  ASSERT_NE(set, nullptr);
  ASSERT_TRUE(set(nullptr, true));
  EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
  // Somebody's choice is left alone.
  EXPECT_EQ(GiveWay::ForThisThread(), nullptr);
  ASSERT_TRUE(set(nullptr, false));
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

}  // namespace
}  // namespace dmu
