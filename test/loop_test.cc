// SPDX-License-Identifier: Apache-2.0
//
// Goal: the loop runs tasks in order and in their turn, idle work gives way but
// is not starved, timers come in time, and nothing is called after it was taken
// back.
// Method: the real loop, a turn at a time, with pipes for readiness. Tests of
// timers wait in the loop only, and count turns: a turn more is a wake-up that
// nobody asked for.
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "test/sim/sim_loop.h"

namespace dmu {
namespace {

struct Named {
  Named(std::string* log_in, char name_in) : log(log_in), name(name_in) {
    task.run = [](void* context) {
      auto* self = static_cast<Named*>(context);
      self->log->push_back(self->name);
      if (self->again != nullptr) self->again->Post(&self->task);
    };
    task.context = this;
  }
  std::string* log;
  char name;
  EpollLoop* again = nullptr;  // posts itself again
  Task task;
};

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    read_end.reset(fds[0]);
    write_end.reset(fds[1]);
  }
  void MakeReadable() { EXPECT_EQ(write(write_end.get(), "x", 1), 1); }
  UniqueFd read_end;
  UniqueFd write_end;
};

TEST(LoopTest, TasksRunInOrderAndInTheNextTurn) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named a(&log, 'a'), b(&log, 'b');
  a.again = loop.get();
  loop->Post(&a.task);
  loop->Post(&b.task);
  loop->Post(&a.task);  // keeps its place
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "ab");
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "aba");
}

TEST(LoopTest, IdleWorkGivesWayAndIsNotStarved) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named busy(&log, '.'), idle(&log, 'i');
  loop->PostIdle(&idle.task);
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "i");
  busy.again = loop.get();
  loop->Post(&busy.task);
  loop->PostIdle(&idle.task);
  for (int i = 0; i < Loop::kBusyTurnsMax; ++i) loop->Turn(/*wait=*/false);
  EXPECT_EQ(log.find('i', 1), std::string::npos) << log;
  loop->Turn(/*wait=*/false);
  EXPECT_NE(log.find('i', 1), std::string::npos) << log;
}

TEST(LoopTest, LastIsAfterAllElseOfTheTurnAndBeforeTheSleep) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named last(&log, 'l'), task(&log, 't'), idle(&log, 'i');
  loop->PostLast(&last.task);
  loop->PostLast(&last.task);
  loop->PostIdle(&idle.task);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "il");
  loop->PostLast(&last.task);
  loop->Post(&task.task);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "iltl");
  loop->PostLast(&last.task);
  loop->Cancel(&last.task);
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "iltl");
}

// Asking for files that are ready costs a call, so with tasks at hand not every
// turn does; but a task that is always there keeps nobody from being seen.
TEST(LoopTest, FilesAreSeenBesideATaskThatIsAlwaysThere) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named task(&log, 't');
  task.again = loop.get();
  loop->Post(&task.task);
  Pipe pipe;
  pipe.MakeReadable();
  int seen = 0;
  struct Context {
    EpollLoop* loop;
    int* seen;
  } context = {loop.get(), &seen};
  Watch watch;
  watch.fd = pipe.read_end.get();
  watch.events = EPOLLIN;
  watch.context = &context;
  watch.ready = [](void* at, uint32_t) {
    auto* self = static_cast<Context*>(at);
    if (++*self->seen == 10) self->loop->Stop();
  };
  ASSERT_EQ(loop->AddWatch(&watch), 0);
  loop->Run();
  EXPECT_LE(log.size(), 10u * 4);
  EXPECT_GE(log.size(), 10u * 2) << "it asks in each turn";
  // Who does not wait wants to know.
  const size_t before = log.size();
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(seen, 11);
  EXPECT_EQ(log.size(), before + 1);
  loop->Cancel(&task.task);
  loop->Unwatch(&watch);
}

TEST(LoopTest, CancelReachesEveryQueue) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named a(&log, 'a'), b(&log, 'b'), idle(&log, 'i');
  loop->Post(&a.task);
  loop->Post(&b.task);
  loop->PostIdle(&idle.task);
  loop->Cancel(&b.task);
  loop->Cancel(&idle.task);
  loop->Cancel(&idle.task);
  for (int i = 0; i < 3; ++i) loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "a");
}

// A task cancels another one of the same turn.
TEST(LoopTest, CancelWithinATurn) {
  auto loop = EpollLoop::Create();
  std::string log;
  Named victim(&log, 'v');
  struct Killer {
    EpollLoop* loop;
    Task* victim;
    Task task;
  } killer = {loop.get(), &victim.task, {}};
  killer.task.run = [](void* context) {
    auto* self = static_cast<Killer*>(context);
    self->loop->Cancel(self->victim);
  };
  killer.task.context = &killer;
  loop->Post(&killer.task);
  loop->Post(&victim.task);
  loop->Turn(/*wait=*/false);
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "");
}

// Two files are ready in one turn; whichever comes first unwatches the other.
TEST(LoopTest, UnwatchTakesBackWhatTheTurnHadFetched) {
  auto loop = EpollLoop::Create();
  Pipe pipes[2];
  struct Side {
    EpollLoop* loop = nullptr;
    Watch watch;
    Watch* other = nullptr;
    int calls = 0;
  } sides[2];
  for (int i = 0; i < 2; ++i) {
    Side& side = sides[i];
    side.loop = loop.get();
    side.other = &sides[1 - i].watch;
    side.watch.fd = pipes[i].read_end.get();
    side.watch.events = EPOLLIN;
    side.watch.context = &side;
    side.watch.ready = [](void* context, uint32_t) {
      auto* self = static_cast<Side*>(context);
      ++self->calls;
      self->loop->Unwatch(self->other);
    };
    ASSERT_EQ(loop->AddWatch(&side.watch), 0);
    pipes[i].MakeReadable();
  }
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(sides[0].calls + sides[1].calls, 1);
}

TEST(LoopTest, ChangeWatchStopsAndStartsReadiness) {
  auto loop = EpollLoop::Create();
  Pipe pipe;
  int calls = 0;
  Watch watch;
  watch.fd = pipe.read_end.get();
  watch.events = EPOLLIN;
  watch.context = &calls;
  watch.ready = [](void* context, uint32_t) { ++*static_cast<int*>(context); };
  ASSERT_EQ(loop->AddWatch(&watch), 0);
  pipe.MakeReadable();
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(loop->ChangeWatch(&watch, 0), 0);
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(loop->ChangeWatch(&watch, EPOLLIN), 0);
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(calls, 2);
  loop->Unwatch(&watch);
}

struct NamedTimer {
  NamedTimer(std::string* log_in, char name_in)
      : log(log_in), name(name_in), timer(OnTimer, this) {}
  static void OnTimer(void* context) {
    auto* self = static_cast<NamedTimer*>(context);
    self->log->push_back(self->name);
  }
  std::string* log;
  char name;
  Timer timer;
};

constexpr uint64_t kFarUs = 3'600'000'000;

TEST(LoopTest, ATimerWakesOnceAndNotTooSoon) {
  auto loop = EpollLoop::Create();
  std::string log;
  NamedTimer a(&log, 'a'), b(&log, 'b');
  const uint64_t begin_us = loop->NowUs();
  loop->Arm(&a.timer, 2000);
  EXPECT_TRUE(a.timer.armed);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "a");
  EXPECT_GE(loop->NowUs(), begin_us + 2000);
  EXPECT_FALSE(a.timer.armed);
  // What woke the loop for `a` must not wake it again before `b`.
  loop->Arm(&b.timer, 2000);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "ab");
}

TEST(LoopTest, TimersComeInTheOrderOfTheirTimes) {
  auto loop = EpollLoop::Create();
  std::string log;
  NamedTimer a(&log, 'a'), b(&log, 'b'), c(&log, 'c'), far(&log, 'f');
  loop->Arm(&far.timer, UINT64_MAX);
  loop->Arm(&c.timer, 4000);
  loop->Arm(&a.timer, 0);
  loop->Arm(&b.timer, 2000);
  while (log.size() < 3) loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "abc");
  EXPECT_TRUE(far.timer.armed);
  // With only that one left, nothing wakes the loop.
  loop->Arm(&a.timer, 2000);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "abca");
  loop->Disarm(&far.timer);
}

TEST(LoopTest, ADisarmedTimerDoesNotWake) {
  auto loop = EpollLoop::Create();
  std::string log;
  NamedTimer a(&log, 'a'), b(&log, 'b');
  loop->Arm(&b.timer, 4000);
  loop->Arm(&a.timer, 1000);
  loop->Disarm(&a.timer);
  loop->Disarm(&a.timer);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "b");
}

TEST(LoopTest, ArmingAgainReplaces) {
  auto loop = EpollLoop::Create();
  std::string log;
  NamedTimer a(&log, 'a'), b(&log, 'b');
  // Later.
  loop->Arm(&a.timer, 1000);
  loop->Arm(&a.timer, 4000);
  loop->Arm(&b.timer, 2000);
  while (log.size() < 2) loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "ba");
  // Sooner.
  loop->Arm(&a.timer, kFarUs);
  loop->Arm(&a.timer, 1000);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "baa");
}

// Time is up and the task is posted: it can still be taken back, and arming
// again still replaces it. Both timers are due in one turn; the first meddles
// with the others.
TEST(LoopTest, ATimerIsTakenBackWhenItsTaskIsPosted) {
  auto loop = EpollLoop::Create();
  std::string log;
  NamedTimer disarmed(&log, 'd'), armed_again(&log, 'a');
  struct Meddler {
    EpollLoop* loop;
    NamedTimer* disarmed;
    NamedTimer* armed_again;
    Timer timer;
  } meddler = {loop.get(), &disarmed, &armed_again, {}};
  meddler.timer.task.run = [](void* context) {
    auto* self = static_cast<Meddler*>(context);
    EXPECT_TRUE(self->disarmed->timer.task.queued);
    EXPECT_TRUE(self->armed_again->timer.task.queued);
    self->loop->Disarm(&self->disarmed->timer);
    self->loop->Arm(&self->armed_again->timer, 2000);
    self->disarmed->log->push_back('m');
  };
  meddler.timer.task.context = &meddler;
  loop->Arm(&meddler.timer, 0);
  loop->Arm(&disarmed.timer, 0);
  loop->Arm(&armed_again.timer, 0);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "m");
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(log, "ma");
}

// A timer that arms itself again must not keep idle work away.
TEST(LoopTest, IdleWorkRunsBesideATimer) {
  auto loop = EpollLoop::Create();
  std::string log;
  struct Ticker {
    EpollLoop* loop;
    Timer timer;
  } ticker = {loop.get(), {}};
  ticker.timer.task.run = [](void* context) {
    auto* self = static_cast<Ticker*>(context);
    self->loop->Arm(&self->timer, 0);
  };
  ticker.timer.task.context = &ticker;
  loop->Arm(&ticker.timer, 0);
  Named idle(&log, 'i');
  loop->PostIdle(&idle.task);
  for (int i = 0; i <= Loop::kBusyTurnsMax; ++i) loop->Turn(/*wait=*/false);
  EXPECT_EQ(log, "i");
  loop->Disarm(&ticker.timer);
}

struct FakeSleeper : Sleeper {
  Came Enter(bool sleep) override {
    ++times;
    slept += sleep ? 1 : 0;
    return came;
  }
  Came came = Came::kWork;
  int times = 0;
  int slept = 0;
};

struct CountingWatch : Watch {
  CountingWatch(Loop* loop_in, int fd_in) : loop(loop_in) {
    fd = fd_in;
    events = EPOLLIN;
    ready = [](void* self, uint32_t) {
      ++static_cast<CountingWatch*>(self)->times;
    };
    context = this;
    EXPECT_EQ(loop->AddWatch(this), 0);
  }
  ~CountingWatch() { loop->Unwatch(this); }
  Loop* const loop;
  int times = 0;
};

TEST(LoopTest, ASleeperThatAlwaysHasWorkDoesNotKeepTheFiles) {
  auto loop = EpollLoop::Create();
  FakeSleeper sleeper;
  EXPECT_GE(loop->SetSleeper(&sleeper), 0);
  Pipe pipe;
  CountingWatch watch(loop.get(), pipe.read_end.get());
  pipe.MakeReadable();
  int turns = 0;
  while (watch.times == 0 && turns < 1000) {
    loop->Turn(/*wait=*/true);
    ++turns;
  }
  EXPECT_GT(turns, 1) << "they are not asked each time";
  EXPECT_LE(turns, 64);
  EXPECT_EQ(sleeper.slept, turns);
  loop->SetSleeper(nullptr);
}

TEST(LoopTest, TheSleeperSaysWhetherToAskTheFiles) {
  auto loop = EpollLoop::Create();
  FakeSleeper sleeper, other;
  EXPECT_GE(loop->SetSleeper(&sleeper), 0);
  EXPECT_EQ(loop->SetSleeper(&other), -1) << "there is one already";
  Pipe pipe;
  CountingWatch watch(loop.get(), pipe.read_end.get());
  pipe.MakeReadable();
  sleeper.came = Sleeper::Came::kFiles;
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(watch.times, 1);
  // It would not sleep: the loop does, if anything else is to be waited for.
  sleeper.came = Sleeper::Came::kNothing;
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(watch.times, 2);
  EXPECT_EQ(sleeper.slept, 2);
  // No sleep while there is something to do.
  std::string log;
  Named task(&log, 't');
  loop->Post(&task.task);
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(sleeper.slept, 2);
  EXPECT_EQ(log, "t");
  loop->SetSleeper(nullptr);
  const int times = sleeper.times;
  loop->Turn(/*wait=*/false);
  EXPECT_EQ(sleeper.times, times);
}

TEST(LoopTest, RoundsAreToldBeforeTheSleepThatEndsThem) {
  struct Observer : RoundObserver {
    void OnRound(const Loop&, uint32_t requests) override {
      rounds.push_back(requests);
    }
    std::vector<uint32_t> rounds;
  } observer;
  auto loop = EpollLoop::Create();
  loop->SetRoundObserver(&observer);
  FakeSleeper sleeper;
  loop->SetSleeper(&sleeper);
  std::string log;
  Named task(&log, 't');
  loop->CountRequest();
  loop->CountRequest();
  loop->Post(&task.task);
  loop->Turn(/*wait=*/true);  // has something to do
  EXPECT_TRUE(observer.rounds.empty());
  loop->CountRequest();
  loop->Turn(/*wait=*/true);
  EXPECT_EQ(observer.rounds, std::vector<uint32_t>{3});
  loop->Turn(/*wait=*/true);  // none since
  EXPECT_EQ(observer.rounds.size(), 1U);
  loop->SetSleeper(nullptr);
}

TEST(SimLoopTest, TimeJumpsToTheNextTimerWhenThereIsNothingElse) {
  sim::SimLoop loop(/*seed=*/1);
  std::string log;
  NamedTimer a(&log, 'a'), b(&log, 'b'), c(&log, 'c');
  Named idle(&log, 'i');
  const uint64_t begin_us = loop.NowUs();
  loop.Arm(&c.timer, kFarUs);
  loop.Arm(&a.timer, 10);
  loop.Arm(&b.timer, 10);
  loop.PostIdle(&idle.task);
  EXPECT_TRUE(loop.Turn());
  EXPECT_EQ(log, "i");
  EXPECT_EQ(loop.NowUs(), begin_us);
  EXPECT_TRUE(loop.Turn());
  EXPECT_EQ(log, "iab");
  EXPECT_EQ(loop.NowUs(), begin_us + 10);
  loop.Advance(2 * kFarUs);
  EXPECT_TRUE(loop.Turn());
  EXPECT_EQ(log, "iabc");
  EXPECT_EQ(loop.NowUs(), begin_us + 10 + 2 * kFarUs);
  EXPECT_FALSE(loop.Turn());
}

}  // namespace
}  // namespace dmu
