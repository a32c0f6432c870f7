// SPDX-License-Identifier: Apache-2.0
//
// Goal: the ring brings every completion, once, from a turn of the loop; waits
// when it is full; takes one call for what a turn submits; and leaves a loop
// alone that has nothing under way.
// Method: the real ring on the real loop, a turn at a time, with a file and
// pipes. Calls to the kernel are counted by what they leave behind.
#include "daemon/io/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "daemon/io/loop_epoll.h"
#include "daemon/io/unique_fd.h"
#include "gtest/gtest.h"

namespace dmu {
namespace {

struct ReadOp : RingOp {
  ReadOp() {
    prepare = [](RingOp* op, io_uring_sqe* entry) {
      auto* self = static_cast<ReadOp*>(op);
      if (self->fd < 0) {
        io_uring_prep_nop(entry);
        return;
      }
      io_uring_prep_read(entry, self->fd, self->bytes, sizeof(self->bytes), 0);
    };
    done = [](RingOp* op, int32_t result) {
      auto* self = static_cast<ReadOp*>(op);
      self->result = result;
      ++self->times_done;
      if (--self->again > 0) self->ring->Submit(self);
    };
  }
  Ring* ring = nullptr;
  int fd = -1;  // none: does nothing, at once
  int again = 0;
  char bytes[8] = {};
  int32_t result = 0;
  int times_done = 0;
};

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    read_end.reset(fds[0]);
    write_end.reset(fds[1]);
  }
  void Fill() { EXPECT_EQ(write(write_end.get(), "12345678", 8), 8); }
  UniqueFd read_end;
  UniqueFd write_end;
};

class RingTest : public ::testing::Test {
 protected:
  void Make(const Ring::Options& options) {
    loop_ = EpollLoop::Create();
    ASSERT_NE(loop_, nullptr);
    ring_ = Ring::Create(options, loop_.get());
    ASSERT_NE(ring_, nullptr) << strerror(errno);
  }
  void TurnUntil(const ReadOp& op, int times_done) {
    while (op.times_done < times_done) loop_->Turn(/*wait=*/true);
  }

  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Ring> ring_;
};

TEST_F(RingTest, ACompletionEndsTheSleepOfTheLoop) {
  Make({});
  Pipe pipe;
  ReadOp op;
  op.fd = pipe.read_end.get();
  ring_->Submit(&op);
  EXPECT_EQ(op.times_done, 0);
  loop_->Turn(/*wait=*/false);  // it is with the kernel now
  loop_->Turn(/*wait=*/false);
  EXPECT_EQ(op.times_done, 0);
  pipe.Fill();
  TurnUntil(op, 1);
  EXPECT_EQ(op.result, 8);
  EXPECT_EQ(std::string(op.bytes, 8), "12345678");
  EXPECT_EQ(ring_->under_way(), 0u);
}

TEST_F(RingTest, WhatIsDoneAtOnceIsReapedInTheSameTurn) {
  Make({});
  ReadOp op;
  ring_->Submit(&op);
  EXPECT_EQ(op.times_done, 0) << "not from inside Submit";
  loop_->Turn(/*wait=*/true);
  EXPECT_EQ(op.times_done, 1);
}

TEST_F(RingTest, AnErrorIsTheOperationsAlone) {
  Make({});
  Pipe pipe;
  pipe.Fill();
  ReadOp bad, good;
  bad.fd = pipe.write_end.get();
  good.fd = pipe.read_end.get();
  ring_->Submit(&bad);
  ring_->Submit(&good);
  TurnUntil(good, 1);
  TurnUntil(bad, 1);
  EXPECT_EQ(bad.result, -EBADF);
  EXPECT_EQ(good.result, 8);
}

TEST_F(RingTest, MoreThanItHoldsWaitsInOrder) {
  Make({.entries = 4, .under_way_max = 8});
  constexpr int kOps = 50;
  std::vector<Pipe> pipes(kOps);
  std::vector<ReadOp> ops(kOps);
  for (int i = 0; i < kOps; ++i) {
    ops[i].fd = pipes[i].read_end.get();
    ring_->Submit(&ops[i]);
  }
  EXPECT_EQ(ring_->under_way(), uint32_t{kOps});
  // From the last on: only what is with the kernel can end.
  for (int i = kOps - 1; i >= 0; --i) pipes[i].Fill();
  for (const ReadOp& op : ops) {
    TurnUntil(op, 1);
    EXPECT_EQ(op.result, 8);
  }
  EXPECT_EQ(ring_->under_way(), 0u);
  for (const ReadOp& op : ops) EXPECT_EQ(op.times_done, 1);
}

TEST_F(RingTest, OneThatSubmitsItselfAgainLeavesTheLoopItsTurns) {
  Make({});
  ReadOp op;
  op.ring = ring_.get();
  op.again = 5;
  ring_->Submit(&op);
  int turns = 0;
  while (op.times_done < 5) {
    loop_->Turn(/*wait=*/true);
    ++turns;
  }
  EXPECT_GE(turns, 5);
  EXPECT_EQ(ring_->under_way(), 0u);
}

TEST_F(RingTest, EntriesMayBeBig) {
  Make({.entries = 2, .under_way_max = 4, .big_entries = true});
  Pipe pipe;
  pipe.Fill();
  ReadOp first, second;
  first.fd = second.fd = pipe.read_end.get();
  ring_->Submit(&first);
  TurnUntil(first, 1);
  ring_->Submit(&second);
  pipe.Fill();
  TurnUntil(second, 1);
  EXPECT_EQ(first.result, 8);
  EXPECT_EQ(second.result, 8);
}

// Prepared when all else of the turn is done, and issued before it is done.
TEST_F(RingTest, TheLastOfATurnArePreparedThen) {
  Make({});
  static std::string log;
  log.clear();
  RingOp op;
  op.prepare = [](RingOp*, io_uring_sqe* entry) {
    log += 'p';
    io_uring_prep_nop(entry);
  };
  op.issued = [](RingOp*) { log += 'i'; };
  op.done = [](RingOp*, int32_t) { log += 'd'; };
  Task task([](void*) { log += 't'; }, nullptr);
  ring_->SubmitLast(&op);
  EXPECT_EQ(ring_->under_way(), 1u);
  loop_->Post(&task);
  EXPECT_EQ(log, "");
  loop_->Turn(/*wait=*/true);
  EXPECT_EQ(log, "tpid");
  EXPECT_EQ(ring_->under_way(), 0u);
}

// Of many, each is told in its turn, those that waited for room too.
TEST_F(RingTest, EachIsIssuedOnceBeforeItIsDone) {
  Make({.entries = 4, .under_way_max = 8});
  struct Op : RingOp {
    bool was_issued = false;
    bool was_done = false;
  };
  std::vector<Op> ops(50);
  for (Op& op : ops) {
    op.prepare = [](RingOp*, io_uring_sqe* entry) { io_uring_prep_nop(entry); };
    op.issued = [](RingOp* at) {
      auto* self = static_cast<Op*>(at);
      EXPECT_FALSE(self->was_issued);
      self->was_issued = true;
    };
    op.done = [](RingOp* at, int32_t) {
      auto* self = static_cast<Op*>(at);
      EXPECT_TRUE(self->was_issued);
      self->was_done = true;
    };
  }
  for (size_t i = 0; i < ops.size(); ++i) {
    i % 3 == 0 ? ring_->SubmitLast(&ops[i]) : ring_->Submit(&ops[i]);
  }
  while (ring_->under_way() > 0) loop_->Turn(/*wait=*/true);
  for (const Op& op : ops) EXPECT_TRUE(op.was_done);
}

// What the kernel interrupts a sleep for is seen in the turn that it ends.
TEST_F(RingTest, ACompletionTakesOneTurnFromASleep) {
  Make({});
  const std::string path =
      "/proc/self/task/" + std::to_string(gettid()) + "/syscall";
  constexpr uint64_t kRounds = 20;
  uint64_t turns = 0;
  for (uint64_t round = 0; round < kRounds; ++round) {
    Pipe pipe;
    ReadOp op;
    op.fd = pipe.read_end.get();
    ring_->Submit(&op);
    loop_->Turn(/*wait=*/false);
    ASSERT_EQ(op.times_done, 0);
    // Asleep in the loop: in the making of the thread would not do.
    std::thread filler([&] {
      long call = -1;  // stays while the thread runs
      while (call != SYS_epoll_wait && call != SYS_epoll_pwait) {
        std::ifstream(path) >> call;
      }
      pipe.Fill();
    });
    const uint64_t before = loop_->turns();
    while (op.times_done == 0) loop_->Turn(/*wait=*/true);
    turns += loop_->turns() - before;
    filler.join();
  }
  // A sleep may end for no reason now and then; each takes two otherwise.
  EXPECT_LT(turns, kRounds + kRounds / 2);
}

TEST_F(RingTest, HalfOfThePlacesAreForThoseThatStay) {
  Make({.entries = 2, .under_way_max = 4});
  EXPECT_TRUE(ring_->ReservePlace());
  EXPECT_TRUE(ring_->ReservePlace());
  EXPECT_FALSE(ring_->ReservePlace());
  ring_->FreePlace();
  EXPECT_TRUE(ring_->ReservePlace());
}

TEST_F(RingTest, TwoOfThemShareALoop) {
  Make({});
  std::unique_ptr<Ring> other = Ring::Create({.entries = 4}, loop_.get());
  ASSERT_NE(other, nullptr);
  Pipe a, b;
  ReadOp first, second;
  first.fd = a.read_end.get();
  second.fd = b.read_end.get();
  ring_->Submit(&first);
  other->Submit(&second);
  b.Fill();
  TurnUntil(second, 1);
  a.Fill();
  TurnUntil(first, 1);
}

}  // namespace
}  // namespace dmu
