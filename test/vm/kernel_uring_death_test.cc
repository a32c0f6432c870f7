// SPDX-License-Identifier: Apache-2.0
//
// Goal: whoever goes with an io_uring command under way - the process, its
// thread, the ring, the file - goes at once, and what it had is given to the
// next channel; and nobody else's command ends with it.
// Method: processes that end in every way with commands in every state. The
// module must unload at the end, so nothing is left behind.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/messages.h"
#include "test/vm/uring.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kFlags = DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_FENCED;

class UringDeath : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, device_.CreateUser("2 orphan_ms forever"));
  }
  void TearDown() override {
    if (child_ > 0) kill(child_, SIGKILL);
  }

  // Runs `body` in a process of its own, and returns when it has said Ready().
  template <typename Body>
  void Start(Body body) {
    int ready[2];
    ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      close(ready[0]);
      ready_ = ready[1];
      body();
      _exit(99);
    }
    close(ready[1]);
    char c = 0;
    EXPECT_EQ(1, read(ready[0], &c, 1)) << "the server failed";
    close(ready[0]);
  }
  void Ready() {
    if (write(ready_, "r", 1) != 1) _exit(98);
  }
  int Reap() {
    int status = 0;
    EXPECT_EQ(child_, waitpid(child_, &status, 0));
    child_ = 0;
    return status;
  }

  void QueueWrite() {
    buffer_.FillPattern(5);
    write_ = StartWrite(device_, 0, &buffer_);
    ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  }
  // The write is there, whole, for the next one.
  void ServeWrite() {
    Channel next("death");
    WireRequest request;
    ASSERT_TRUE(next.Next(&request));
    EXPECT_EQ(0u, request.header.seq);
    EXPECT_EQ(buffer_.Copy(), request.payload);
    ASSERT_TRUE(next.Reply(0));
    EXPECT_EQ(4096, Await(&write_).result);
  }

  // Closes the file under commands that wait. Where threads do (no parking),
  // one that is only about to would miss the close; the channel is stopped
  // first.
  static void CloseUnder(Channel* channel, Uring* ring, UringBatch* first,
                         UringBatch* second) {
    if (!UringParks()) {
      ASSERT_EQ(0, channel->SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
    } else {
      channel->Close();
    }
    const int expected = UringParks() ? -ECANCELED : -ESHUTDOWN;
    EXPECT_EQ(expected, ring->Await(first));
    EXPECT_EQ(expected, ring->Await(second));
    channel->Close();
  }

  MappedDevice device_{"death"};
  Buffer buffer_{4096};
  Io write_;
  pid_t child_ = 0;
  int ready_ = -1;
};

enum class End { kKill, kExit, kExec, kStopAndKill };

struct Case {
  const char* name;
  int first_bytes;  // size of the fetch that is answered; 0: there is none
  int waiting;      // commands that wait then
  unsigned ring_flags;
  uint8_t entry_flags;
  End end;
};

class UringEnd : public UringDeath, public testing::WithParamInterface<Case> {};

TEST_P(UringEnd, GivesBackWhatItHad) {
  const Case& how = GetParam();
  const bool has_request = how.first_bytes > 0;
  if (has_request) QueueWrite();
  Start([&] {
    Channel channel("death");
    Uring ring(how.ring_flags);
    UringBatch first(static_cast<uint32_t>(how.first_bytes));
    UringBatch waiting[2] = {UringBatch(65536), UringBatch(65536)};
    if (channel.SetFlags(kFlags) != 0 || !ring.ok()) _exit(1);
    if (has_request &&
        (!ring.Submit(channel.fd(), &first) || ring.Await(&first) <= 0)) {
      _exit(2);
    }
    for (int i = 0; i < how.waiting; ++i) {
      waiting[i].entry_flags = how.entry_flags;
      if (!ring.Submit(channel.fd(), &waiting[i])) _exit(3);
    }
    Ready();
    if (how.end == End::kExit) _exit(7);
    if (how.end == End::kExec) execl("/bin/sh", "sh", "-c", "exit 7", nullptr);
    if (how.end == End::kStopAndKill) raise(SIGSTOP);
    for (;;) pause();
  });
  if (how.end == End::kStopAndKill) {
    int status = 0;
    ASSERT_EQ(child_, waitpid(child_, &status, WUNTRACED));
    ASSERT_TRUE(WIFSTOPPED(status));
  }
  if (how.end == End::kKill || how.end == End::kStopAndKill) {
    EXPECT_EQ("1", device_.StatusField(kServers));
    ASSERT_EQ(0, kill(child_, SIGKILL));
    EXPECT_TRUE(WIFSIGNALED(Reap()));
  } else {
    const int status = Reap();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  }
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
  EXPECT_EQ("orphaned", device_.StatusField(kState));
  if (has_request) {
    EXPECT_EQ("1", device_.StatusField(kQueued));
    ServeWrite();
  }
  EXPECT_EQ("0", device_.StatusField(kErrors));
}

constexpr unsigned kDefer =
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

INSTANTIATE_TEST_SUITE_P(
    Each, UringEnd,
    testing::Values(
        Case{"KillWaiting", 0, 2, 0, 0, End::kKill},
        Case{"KillWithARequest", 65536, 0, 0, 0, End::kKill},
        Case{"KillWithARequestWaiting", 65536, 1, 0, 0, End::kKill},
        Case{"KillDefer", 65536, 2, kDefer, 0, End::kKill},
        Case{"KillSqpoll", 65536, 2, IORING_SETUP_SQPOLL, 0, End::kKill},
        Case{"KillThread", 65536, 2, 0, IOSQE_ASYNC, End::kKill},
        Case{"ExitWaiting", 65536, 2, 0, 0, End::kExit},
        Case{"ExitDefer", 65536, 2, kDefer, 0, End::kExit},
        Case{"ExitSqpoll", 0, 2, IORING_SETUP_SQPOLL, 0, End::kExit},
        Case{"ExecWaiting", 65536, 2, 0, 0, End::kExec},
        Case{"ExecDefer", 65536, 2, kDefer, 0, End::kExec},
        Case{"ExecSqpoll", 0, 2, IORING_SETUP_SQPOLL, 0, End::kExec},
        Case{"StoppedAndKilled", 65536, 2, 0, 0, End::kStopAndKill}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

// Half a message has been given: the next channel gets all of it.
TEST_F(UringDeath, AHalfReadMessageLeavesNoTrace) {
  QueueWrite();
  Start([&] {
    Channel channel("death");
    Uring ring;
    UringBatch half(2000);
    if (channel.SetFlags(kFlags) != 0 || !ring.Submit(channel.fd(), &half) ||
        ring.Await(&half) != 2000) {
      _exit(1);
    }
    Ready();
    for (;;) pause();
  });
  ASSERT_EQ(0, kill(child_, SIGKILL));
  Reap();
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
  ServeWrite();
}

// The wake-up went to one who was stopped; when it is killed it goes on to who
// waits behind it.
TEST_F(UringDeath, AWakeUpIsNotLostWithTheStopped) {
  Start([&] {
    Channel channel("death");
    Uring ring;
    UringBatch fetch(65536);
    if (channel.SetFlags(kFlags) != 0 || !ring.Submit(channel.fd(), &fetch)) {
      _exit(1);
    }
    Ready();
    raise(SIGSTOP);
    _exit(2);
  });
  int status = 0;
  ASSERT_EQ(child_, waitpid(child_, &status, WUNTRACED));
  Channel mine("death");
  ASSERT_EQ(0, mine.SetFlags(kFlags));
  Uring ring;
  UringBatch fetch(65536);
  ASSERT_TRUE(ring.Submit(mine.fd(), &fetch));
  buffer_.FillPattern(5);
  write_ = StartWrite(device_, 0, &buffer_);
  // Queued, or delivered already where a thread waits for the stopped one.
  while (device_.StatusNumber(kQueued) + device_.StatusNumber(kDelivered) ==
         0) {
  }
  ASSERT_EQ(0, kill(child_, SIGKILL));
  Reap();
  const int result = ring.Await(&fetch);
  ASSERT_GT(result, 0) << strerror(-result);
  const auto requests = ParseMessages(
      Bytes(fetch.requests.begin(), fetch.requests.begin() + result));
  ASSERT_EQ(1u, requests.size());
  EXPECT_EQ(buffer_.Copy(), requests[0].payload);
  ASSERT_EQ(0, fetch.batch.stale);
  UringBatch commit;
  commit.replies = GoodReplies(requests);
  ASSERT_TRUE(ring.Submit(mine.fd(), &commit));
  EXPECT_EQ(0, ring.Await(&commit));
  EXPECT_EQ(4096, Await(&write_).result);
}

// The thread that submitted has ended, ring and file are still there.
TEST_F(UringDeath, AThreadThatEndedHoldsNothingUp) {
  Channel dead("death"), mine("death");
  ASSERT_EQ(0, dead.SetFlags(kFlags));
  ASSERT_EQ(0, mine.SetFlags(kFlags));
  Uring dead_ring, ring;
  UringBatch dead_fetch(65536), fetch(65536);
  std::thread([&] {
    EXPECT_TRUE(dead_ring.Submit(dead.fd(), &dead_fetch));
  }).join();
  ASSERT_TRUE(ring.Submit(mine.fd(), &fetch));
  buffer_.FillPattern(5);
  write_ = StartWrite(device_, 0, &buffer_);
  const int result = ring.Await(&fetch);
  ASSERT_GT(result, 0) << strerror(-result);
  UringBatch commit;
  commit.replies = GoodReplies(ParseMessages(
      Bytes(fetch.requests.begin(), fetch.requests.begin() + result)));
  ASSERT_TRUE(ring.Submit(mine.fd(), &commit));
  EXPECT_EQ(0, ring.Await(&commit));
  EXPECT_EQ(4096, Await(&write_).result);
  const int dead_result = dead_ring.Await(&dead_fetch);
  EXPECT_TRUE(dead_result == -ECANCELED || dead_result == -EINTR)
      << dead_result;
}

// Somebody else has the ring; the process that served dies.
TEST_F(UringDeath, ARingThatLivesOnKeepsNothing) {
  QueueWrite();
  int hold[2];
  ASSERT_EQ(0, pipe2(hold, O_CLOEXEC));
  Start([&] {
    Channel channel("death");
    Uring ring;
    UringBatch fetch(65536), waiting(65536);
    if (channel.SetFlags(kFlags) != 0 || !ring.Submit(channel.fd(), &fetch) ||
        ring.Await(&fetch) <= 0 || !ring.Submit(channel.fd(), &waiting)) {
      _exit(1);
    }
    if (fork() == 0) {
      // Has the ring, and no channel; until the test is over.
      channel.Close();
      Ready();
      char c = 0;
      close(hold[1]);
      _exit(read(hold[0], &c, 1) == 0 ? 0 : 1);
    }
    for (;;) pause();
  });
  close(hold[0]);
  EXPECT_EQ("1", device_.StatusField(kChannels))
      << "the other's end ended ours";
  ASSERT_EQ(0, kill(child_, SIGKILL));
  Reap();
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
  ServeWrite();
  close(hold[1]);
}

// A child closes its copies of the file and ends; the parent's commands wait
// on.
TEST_F(UringDeath, SomebodyElsesCloseEndsNothing) {
  Channel channel("death");
  ASSERT_EQ(0, channel.SetFlags(kFlags));
  Uring ring;
  UringBatch first(65536), second(65536);
  ASSERT_TRUE(ring.Submit(channel.fd(), &first));
  ASSERT_TRUE(ring.Submit(channel.fd(), &second));
  Start([&] {
    channel.Close();
    Ready();
    _exit(0);
  });
  Reap();
  EXPECT_FALSE(ring.IsDone(&first));
  EXPECT_FALSE(ring.IsDone(&second));
  // Our own does.
  CloseUnder(&channel, &ring, &first, &second);
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
}

// The file is closed with a request delivered and commands waiting.
TEST_F(UringDeath, CloseGivesBack) {
  QueueWrite();
  Channel channel("death");
  ASSERT_EQ(0, channel.SetFlags(kFlags));
  Uring ring;
  UringBatch fetch(65536), first(65536), second(65536);
  ASSERT_TRUE(ring.Submit(channel.fd(), &fetch));
  ASSERT_GT(ring.Await(&fetch), 0);
  ASSERT_TRUE(ring.Submit(channel.fd(), &first));
  ASSERT_TRUE(ring.Submit(channel.fd(), &second));
  CloseUnder(&channel, &ring, &first, &second);
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
  ServeWrite();
}

// The ring is closed, the file stays: its commands end, and there is room for
// those of the next ring.
TEST_F(UringDeath, TheFileOutlivesTheRing) {
  Channel channel("death");
  ASSERT_EQ(0, channel.SetFlags(kFlags));
  auto old = std::make_unique<Uring>();
  UringBatch first(65536), second(65536);
  ASSERT_TRUE(old->Submit(channel.fd(), &first));
  ASSERT_TRUE(old->Submit(channel.fd(), &second));
  old.reset();
  if (!UringParks()) {
    // Nobody can tell when a thread of the ring's has begun to wait.
    channel.Close();
    EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
    return;
  }
  // When both have room, both of the old ring are gone.
  Uring ring;
  UringBatch next[2] = {UringBatch(65536), UringBatch(65536)};
  for (UringBatch& fetch : next) {
    do {
      ASSERT_TRUE(ring.Submit(channel.fd(), &fetch));
    } while (ring.IsDone(&fetch) && ring.Await(&fetch) == -EBUSY);
  }
  buffer_.FillPattern(5);
  write_ = StartWrite(device_, 0, &buffer_);
  while (!ring.IsDone(&next[0]) && !ring.IsDone(&next[1])) {
  }
  UringBatch& got = ring.IsDone(&next[0]) ? next[0] : next[1];
  const int result = ring.Await(&got);
  ASSERT_GT(result, 0) << strerror(-result);
  got.replies = GoodReplies(ParseMessages(
      Bytes(got.requests.begin(), got.requests.begin() + result)));
  ASSERT_TRUE(ring.Submit(channel.fd(), &got));
  EXPECT_EQ(4096, Await(&write_).result);
}

}  // namespace
}  // namespace dmu
