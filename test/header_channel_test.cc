// SPDX-License-Identifier: Apache-2.0
//
// Goal: in each way of exchanging headers, every request gets one answer, the
// right one, in the order in which they were given; no answer is lost or
// doubled whatever the kernel takes of them; a stop, a removal and a header
// that cannot be leave nothing half done; and a loop that sleeps in the channel
// misses nothing else.
// Method: the real channel on the real loop, against a target over a socket
// pair.
#include "daemon/channel/header_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/backend/remap.h"
#include "daemon/io/disk_open.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "test/fake_call.h"
#include "test/fake_target.h"

namespace dmu {
namespace {

// By a call that waits; by the poll; by an ioctl that the loop may sleep in.
enum class Way { kCall, kPoll, kSleep };

constexpr uint32_t kDevice = 3;
constexpr uint64_t kShift = 1000;  // where places are
constexpr uint64_t kBadSector = 666;

class HeaderChannelTest : public ::testing::TestWithParam<Way>,
                          protected RequestSink {
 protected:
  void SetUp() override {
    loop_ = EpollLoop::Create();
    ASSERT_NE(loop_, nullptr);
    stopped_task_.run = [](void* context) {
      static_cast<HeaderChannelTest*>(context)->stopped_ = true;
    };
    stopped_task_.context = this;
  }

  void TearDown() override {
    hold_ = false;
    AnswerHeld();
    if (channel_ != nullptr && !stopping_) Stop();
    channel_.reset();
    for (size_t i = 0; i < target_.answers().size(); ++i) {
      EXPECT_EQ(target_.answers()[i].len, 0u);
      for (size_t j = 0; j < i; ++j) {
        EXPECT_NE(target_.answers()[i].seq, target_.answers()[j].seq)
            << "answered twice";
      }
    }
  }

  void Serve(uint32_t slots = 16) {
    if (GetParam() == Way::kCall) {
      call_ = std::make_unique<FakeCall>(loop_.get());
    }
    channel_ = std::make_unique<HeaderChannel>(
        target_.Open(),
        HeaderChannel::Options{.slots = slots,
                               .device = kDevice,
                               .call = call_.get(),
                               .sleeps = GetParam() == Way::kSleep},
        loop_.get());
    channel_->Start(this);
    EXPECT_TRUE(started_);
  }

  void RunUntil(const std::function<bool()>& done) {
    for (int i = 0; !done(); ++i) {
      ASSERT_LT(i, 1000) << "nothing moves any more";
      loop_->Turn(/*wait=*/false);
    }
  }
  void RunUntilIdle() {
    for (int i = 0; i < 20; ++i) loop_->Turn(/*wait=*/false);
  }
  void RunUntilAnswered(size_t count) {
    RunUntil([&] { return target_.answers().size() >= count; });
    EXPECT_EQ(target_.answers().size(), count);
  }

  void Stop() {
    stopping_ = true;
    channel_->Stop(&stopped_task_);
    RunUntil([&] { return stopped_; });
  }

  // Turns of a busy loop, until it sleeps in the channel.
  void RunUntilItSleepsHere() {
    const int before = target_.sleeps;
    for (int i = 0; i < 20 && target_.sleeps == before; ++i) {
      target_.Read(0);
      loop_->Turn(/*wait=*/true);
    }
    ASSERT_GT(target_.sleeps, before);
  }

  void Answer(Request* request) {
    if (request->sector == kBadSector) {
      // It had a place, and then none.
      request->remapped = true;
      request->Complete(IoStatus::kIoError);
      return;
    }
    if (request->op == Request::Op::kUnknown) {
      request->Complete(IoStatus::kUnsupported);
      return;
    }
    if (request->op != Request::Op::kFlush) {
      request->remapped = true;
      request->base_sector = request->sector + kShift;
    }
    request->Complete(IoStatus::kOk);
  }
  void AnswerHeld() {
    while (!held_.empty()) {
      Request* request = held_.front();
      held_.pop_front();
      Answer(request);
    }
  }

  // RequestSink
  void OnStarted(const absl::Status& status) override {
    started_ = status.ok();
  }
  void OnRequest(Request* request) override {
    EXPECT_FALSE(request->remapped);
    EXPECT_TRUE(request->payload.empty());
    came_.push_back(request->sector);
    if (hold_) {
      held_.push_back(request);
    } else {
      Answer(request);
    }
  }
  void OnClosed(CloseReason reason) override {
    EXPECT_FALSE(closed_.has_value());
    closed_ = reason;
  }

  FakeTarget target_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<FakeCall> call_;
  std::unique_ptr<HeaderChannel> channel_;
  bool started_ = false;
  bool hold_ = false;
  std::vector<uint64_t> came_;  // sectors
  std::deque<Request*> held_;
  std::optional<CloseReason> closed_;
  Task stopped_task_;
  bool stopping_ = false;
  bool stopped_ = false;
};

TEST_P(HeaderChannelTest, APlaceOrWhatBecameOfIt) {
  const struct {
    uint64_t type, sector, len, flags, answer;
  } kCases[] = {
      {DM_USER_REQ_MAP_READ, 8, 4096, 0, DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_WRITE, 16, 1 << 20, 0, DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_WRITE, 24, 512, DM_USER_REQ_MAP_FLAG_FUA,
       DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_DISCARD, 32, uint64_t{1} << 31, 0, DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_SECURE_ERASE, 40, 4096, 0, DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_WRITE_ZEROES, 48, 4096, 0, DM_USER_RESP_REMAP},
      {DM_USER_REQ_MAP_WRITE, 0, 0, DM_USER_REQ_MAP_FLAG_PREFLUSH,
       DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_FLUSH, 0, 0, 0, DM_USER_RESP_SUCCESS},
      {4711, 56, 4096, 0, DM_USER_RESP_UNSUPPORTED},
      {DM_USER_REQ_MAP_READ, kBadSector, 4096, 0, DM_USER_RESP_ERROR},
      // A slot that had a place has none by itself.
      {DM_USER_REQ_MAP_FLUSH, 0, 0, 0, DM_USER_RESP_SUCCESS},
  };
  Serve(/*slots=*/1);
  size_t count = 0;
  for (const auto& c : kCases) {
    const uint64_t seq = target_.Send(c.type, c.sector, c.len, c.flags);
    RunUntilAnswered(++count);
    const dm_user_message& answer = target_.answers().back();
    const bool place = c.answer == DM_USER_RESP_REMAP;
    EXPECT_EQ(answer.seq, seq);
    EXPECT_EQ(answer.type, c.answer) << "type " << c.type;
    EXPECT_EQ(answer.flags, place ? kDevice : 0) << "type " << c.type;
    EXPECT_EQ(answer.sector, place ? c.sector + kShift : 0) << c.type;
  }
  EXPECT_FALSE(closed_.has_value());
}

// More than a batch, more than slots: in order, and together.
TEST_P(HeaderChannelTest, AnswersLeaveTogetherInTheirOrder) {
  constexpr size_t kCount = 200;
  Serve();
  for (uint64_t i = 0; i < kCount; ++i) target_.Read(8 * i);
  RunUntilAnswered(kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(target_.answers()[i].seq, i);
    EXPECT_EQ(came_[i], 8 * i);
  }
  const int exchanges =
      GetParam() == Way::kCall ? call_->begun() : target_.calls;
  EXPECT_LE(exchanges, 2 * static_cast<int>(kCount) / 64 + 25);
  RunUntilIdle();
  if (GetParam() == Way::kCall) {
    EXPECT_EQ(target_.calls, 0) << "some left by themselves";
  }
}

TEST_P(HeaderChannelTest, MoreRequestsThanSlots) {
  constexpr size_t kSlots = 4, kCount = 100;
  Serve(kSlots);
  hold_ = true;
  for (uint64_t i = 0; i < kCount; ++i) target_.Read(8 * i);
  for (size_t answered = 0; answered < kCount; ++answered) {
    RunUntilIdle();
    ASSERT_EQ(held_.size(), std::min(kSlots, kCount - answered));
    ASSERT_EQ(target_.answers().size(), answered);
    // Any of them.
    const auto one =
        held_.begin() + static_cast<ptrdiff_t>(answered * 7 % held_.size());
    Request* request = *one;
    held_.erase(one);
    Answer(request);
  }
  RunUntilAnswered(kCount);
  for (uint64_t i = 0; i < kCount; ++i) EXPECT_EQ(came_[i], 8 * i);
}

// What is left over is offered again: none is lost, none comes twice.
TEST_P(HeaderChannelTest, AKernelThatTakesSomeOfTheAnswers) {
  Serve();
  hold_ = true;
  size_t count = 0;
  for (size_t take : {0, 1, 2, 5}) {
    target_.take_bytes = take * wire::kHeaderBytes;
    for (uint64_t i = 0; i < 8; ++i) target_.Read(8 * i);
    RunUntil([&] { return held_.size() == 8; });
    AnswerHeld();
    for (int i = 0; i < 3; ++i) loop_->Turn(/*wait=*/false);
    target_.take_bytes = take == 0 ? wire::kHeaderBytes : target_.take_bytes;
    RunUntilAnswered(count += 8);
  }
  for (size_t i = 0; i < count; ++i) EXPECT_EQ(target_.answers()[i].seq, i);
}

// What is not taken piles up, as far as there is room; the rest waits.
TEST_P(HeaderChannelTest, RequestsWaitForRoomForTheirAnswers) {
  constexpr size_t kCount = 220;
  Serve(HeaderChannel::kSlotsMax);
  target_.take_bytes = wire::kHeaderBytes;
  for (uint64_t i = 0; i < kCount; ++i) target_.Read(8 * i);
  RunUntilAnswered(kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(target_.answers()[i].seq, i);
    EXPECT_EQ(target_.answers()[i].sector, 8 * i + kShift);
  }
}

TEST_P(HeaderChannelTest, WhatIsAnsweredLateDoesNotWait) {
  Serve();
  hold_ = true;
  target_.Read(0);
  target_.Read(8);
  RunUntil([&] { return held_.size() == 2; });
  RunUntilIdle();
  AnswerHeld();
  // The end of the turn, or the begin of the next one.
  loop_->Turn(/*wait=*/false);
  loop_->Turn(/*wait=*/false);
  ASSERT_EQ(target_.answers().size(), 2u);
  if (GetParam() == Way::kCall) {
    EXPECT_EQ(call_->state(), BatchCall::State::kWaiting) << "it goes on";
    EXPECT_EQ(target_.calls, 1) << "both in one";
  }
}

TEST_P(HeaderChannelTest, StopAwaitsWhatIsUnderWayAndAnswersIt) {
  Serve(/*slots=*/3);
  hold_ = true;
  for (uint64_t i = 0; i < 5; ++i) target_.Read(8 * i);
  RunUntil([&] { return held_.size() == 3; });
  // Answered in the turn of the stop: it leaves.
  Answer(held_[1]);
  held_.erase(held_.begin() + 1);
  stopping_ = true;
  channel_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  EXPECT_FALSE(target_.closed()) << "closed under a request";
  EXPECT_EQ(target_.answers().size(), 1u);
  Answer(held_.back());
  held_.pop_back();
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  AnswerHeld();
  RunUntil([&] { return stopped_; });
  EXPECT_TRUE(target_.closed());
  // Those that were not taken up are the kernel's again.
  std::vector<uint64_t> answered;
  for (const auto& answer : target_.answers()) answered.push_back(answer.seq);
  EXPECT_EQ(answered, (std::vector<uint64_t>{1, 2, 0}));
  EXPECT_EQ(came_.size(), 3u);
  EXPECT_FALSE(closed_.has_value()) << "closed after the stop";
}

TEST_P(HeaderChannelTest, StopOfAnIdleChannel) {
  Serve();
  RunUntilIdle();
  Stop();
  EXPECT_TRUE(target_.closed());
}

TEST_P(HeaderChannelTest, TheTargetIsRemoved) {
  Serve();
  target_.Read(0);
  RunUntilAnswered(1);
  target_.Remove();
  RunUntil([&] { return closed_.has_value(); });
  EXPECT_EQ(*closed_, CloseReason::kRemoved);
  RunUntilIdle();
  Stop();
}

TEST_P(HeaderChannelTest, TheTargetIsRemovedWithRequestsUnderWay) {
  Serve();
  hold_ = true;
  target_.Read(0);
  RunUntil([&] { return held_.size() == 1; });
  target_.Remove();
  RunUntil([&] { return closed_.has_value(); });
  EXPECT_EQ(*closed_, CloseReason::kRemoved);
  stopping_ = true;
  channel_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  AnswerHeld();
  RunUntil([&] { return stopped_; });
}

TEST_P(HeaderChannelTest, AHeaderThatCannotBeEndsTheChannel) {
  const struct {
    uint64_t type, sector, len;
  } kCases[] = {
      {DM_USER_REQ_MAP_READ, 0, 100},
      {DM_USER_REQ_MAP_READ, 0, 0},
      {DM_USER_REQ_MAP_DISCARD, 0, 0},
      {DM_USER_REQ_MAP_READ, UINT64_MAX / 512 + 1, 512},
      {DM_USER_REQ_MAP_READ, UINT64_MAX / 512, 1024},
  };
  for (const auto& c : kCases) {
    closed_.reset();
    stopped_ = stopping_ = false;
    channel_.reset();
    Serve();
    const size_t before = target_.answers().size();
    target_.Read(0);
    target_.Send(c.type, c.sector, c.len);
    target_.Read(8);
    RunUntil([&] { return closed_.has_value(); });
    EXPECT_EQ(*closed_, CloseReason::kProtocolError) << c.len;
    Stop();
    EXPECT_TRUE(target_.closed());
    // The one before it was good; what comes behind it is another daemon's.
    EXPECT_EQ(target_.answers().size(), before + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, HeaderChannelTest,
                         testing::Values(Way::kCall, Way::kPoll, Way::kSleep),
                         [](const auto& info) {
                           switch (info.param) {
                             case Way::kCall:
                               return "Call";
                             case Way::kPoll:
                               return "Poll";
                             default:
                               return "Sleep";
                           }
                         });

class CallTest : public HeaderChannelTest {};

// A call that cannot be made yet holds up no answer.
TEST_P(CallTest, AnswersDoNotWaitForAFullRing) {
  Serve();
  RunUntilIdle();
  call_->Hold(true);
  target_.Read(0);
  target_.Read(8);
  RunUntilAnswered(2);
  EXPECT_EQ(call_->state(), BatchCall::State::kBegun);
  EXPECT_EQ(target_.calls, 1) << "both in one";
  target_.Read(0);
  call_->Hold(false);
  RunUntilAnswered(3);
}

// A late one neither; and a call that is about to be made takes it along.
TEST_P(CallTest, LateAnswersDoNotWaitForAFullRing) {
  Serve();
  hold_ = true;
  for (int round = 0; round < 2; ++round) {
    target_.Read(0);
    RunUntil([&] { return held_.size() == 1; });
    RunUntilIdle();
    call_->Hold(true);
    call_->End(0);
    RunUntil([&] { return call_->state() == BatchCall::State::kBegun; });
    RunUntilIdle();
    if (round == 0) call_->Hold(false);
    const int calls = target_.calls;
    AnswerHeld();
    RunUntilAnswered(static_cast<size_t>(round) + 1);
    EXPECT_EQ(target_.calls - calls, round);
    call_->Hold(false);
    RunUntilIdle();
  }
}

// Ended without a request for reasons that pass, it is begun again.
TEST_P(CallTest, IsBegunAgain) {
  Serve();
  int begun = 1;
  for (const int result : {0, -EINTR, -EAGAIN, -ENOMEM, -ECANCELED}) {
    RunUntilIdle();
    EXPECT_EQ(call_->begun(), begun) << result;
    call_->End(result);
    ++begun;
  }
  target_.Read(0);
  RunUntilAnswered(1);
}

TEST_P(CallTest, AnErrorEndsTheChannel) {
  Serve();
  RunUntilIdle();
  call_->End(-EINVAL);
  RunUntil([&] { return closed_.has_value(); });
  EXPECT_EQ(*closed_, CloseReason::kProtocolError);
}

TEST_P(CallTest, StopAwaitsTheCall) {
  Serve();
  call_->Hold(true);
  stopping_ = true;
  channel_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  EXPECT_FALSE(target_.closed());
  call_->Hold(false);
  RunUntil([&] { return stopped_; });
  EXPECT_TRUE(target_.closed());
}

INSTANTIATE_TEST_SUITE_P(Ways, CallTest, testing::Values(Way::kCall),
                         [](const auto&) { return "Call"; });

class SleepTest : public HeaderChannelTest {
 protected:
  // Whether nobody sleeps for the loop.
  bool SleepIsFree() {
    struct Nobody : Sleeper {
      Came Enter(bool) override { return Came::kNothing; }
    } nobody;
    if (loop_->SetSleeper(&nobody) < 0) return false;
    loop_->SetSleeper(nullptr);
    return true;
  }
};

TEST_P(SleepTest, OneCallForEachTurnOfABusyChannel) {
  Serve();
  RunUntilItSleepsHere();
  const int calls = target_.calls;
  for (int i = 0; i < 50; ++i) {
    target_.Read(0);
    target_.Read(8);
    loop_->Turn(/*wait=*/true);
  }
  EXPECT_EQ(target_.calls, calls + 50);
  RunUntilIdle();
  EXPECT_EQ(target_.answers().size(), came_.size());
}

TEST_P(SleepTest, AFewRequestsAreNotWorthIt) {
  Serve();
  for (int i = 0; i < 3; ++i) {
    target_.Read(0);
    loop_->Turn(/*wait=*/true);
  }
  EXPECT_TRUE(SleepIsFree());
  // Nor are those of a loop that has others to serve meanwhile.
  for (int i = 0; i < 20; ++i) {
    loop_->Turn(/*wait=*/false);
    target_.Read(0);
    loop_->Turn(/*wait=*/true);
    ASSERT_TRUE(SleepIsFree()) << i;
  }
}

TEST_P(SleepTest, AnotherFileEndsTheSleepAndHasItsTurn) {
  Serve();
  RunUntilItSleepsHere();
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd read_end(fds[0]), write_end(fds[1]);
  int ready = 0;
  Watch watch;
  watch.fd = read_end.get();
  watch.events = EPOLLIN;
  watch.context = &ready;
  watch.ready = [](void* context, uint32_t) { ++*static_cast<int*>(context); };
  ASSERT_EQ(loop_->AddWatch(&watch), 0);
  ASSERT_EQ(write(write_end.get(), "x", 1), 1);
  loop_->Turn(/*wait=*/true);
  EXPECT_EQ(ready, 1);
  loop_->Unwatch(&watch);
  EXPECT_TRUE(SleepIsFree());
  // It is polled again.
  const size_t before = target_.answers().size();
  target_.Read(0);
  RunUntilAnswered(before + 1);
}

// A timer's, too: no command or request is there to wake the loop.
TEST_P(SleepTest, ATimerEndsTheSleep) {
  Serve();
  RunUntilItSleepsHere();
  bool due = false;
  Timer timer([](void* context) { *static_cast<bool*>(context) = true; }, &due);
  loop_->Arm(&timer, 1000);
  for (int i = 0; i < 10 && !due; ++i) loop_->Turn(/*wait=*/true);
  EXPECT_TRUE(due);
}

TEST_P(SleepTest, IdleWorkComesToItsEndBesideABusyChannel) {
  Serve();
  RunUntilItSleepsHere();
  int ran = 0;
  Task idle([](void* context) { ++*static_cast<int*>(context); }, &ran);
  for (int i = 0; i < 100 && ran < 5; ++i) {
    loop_->PostIdle(&idle);
    target_.Read(0);
    loop_->Turn(/*wait=*/true);
  }
  EXPECT_EQ(ran, 5);
}

TEST_P(SleepTest, AnInterruptedSleepLosesNothing) {
  Serve();
  RunUntilItSleepsHere();
  target_.interrupts = 3;
  for (int i = 0; i < 10; ++i) {
    target_.Read(0);
    loop_->Turn(/*wait=*/true);
    ASSERT_FALSE(closed_.has_value());
  }
  RunUntilIdle();
  EXPECT_EQ(target_.interrupts, 0);
  EXPECT_FALSE(closed_.has_value());
  EXPECT_EQ(target_.answers().size(), came_.size());
}

TEST_P(SleepTest, TheTargetIsRemovedInItsSleep) {
  Serve();
  RunUntilItSleepsHere();
  ASSERT_FALSE(SleepIsFree());
  target_.Remove();
  loop_->Turn(/*wait=*/true);
  ASSERT_TRUE(closed_.has_value());
  EXPECT_EQ(*closed_, CloseReason::kRemoved);
  EXPECT_TRUE(SleepIsFree());
}

TEST_P(SleepTest, StopGivesTheSleepBack) {
  Serve();
  RunUntilItSleepsHere();
  EXPECT_FALSE(SleepIsFree());
  Stop();
  EXPECT_TRUE(SleepIsFree());
}

// The turn that would have taken them along does not come.
TEST_P(SleepTest, AnswersOfTheTurnLeaveWithAStop) {
  Serve();
  RunUntilItSleepsHere();
  const size_t before = came_.size();
  hold_ = true;
  target_.Read(0);
  target_.Read(8);
  loop_->Turn(/*wait=*/true);
  ASSERT_EQ(held_.size(), 2u);
  Answer(held_.back());
  held_.pop_back();
  ASSERT_FALSE(SleepIsFree());
  stopping_ = true;
  channel_->Stop(&stopped_task_);
  EXPECT_EQ(target_.answers().size(), before + 1);
  AnswerHeld();
  RunUntil([&] { return stopped_; });
  EXPECT_EQ(target_.answers().size(), before + 2);
}

// More than there are slots for, in a channel that the loop sleeps in.
TEST_P(SleepTest, WhatWaitsForASlotIsServedWhenOneIsFree) {
  Serve(/*slots=*/2);
  RunUntilItSleepsHere();
  const size_t before = came_.size();
  hold_ = true;
  for (uint64_t i = 0; i < 5; ++i) target_.Read(8 * i);
  loop_->Turn(/*wait=*/true);
  EXPECT_EQ(held_.size(), 2u);
  hold_ = false;
  AnswerHeld();
  RunUntilAnswered(before + 5);
}

INSTANTIATE_TEST_SUITE_P(Ways, SleepTest, testing::Values(Way::kSleep),
                         [](const auto&) { return "Sleep"; });

class TemporaryFile {
 public:
  explicit TemporaryFile(uint64_t bytes) {
    const UniqueFd fd(mkstemp(path_));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  }
  ~TemporaryFile() { unlink(path_); }
  const char* path() const { return path_; }

 private:
  char path_[64] = "/tmp/dmu-header-channel-test-XXXXXX";
};

// One to one, whatever it is; what is no request for a place gets none.
TEST(RemapBackendTest, EveryRequestIsWhereItIs) {
  auto loop = EpollLoop::Create();
  const TemporaryFile file(8 * 512 + 100);
  auto opened = OpenDiskFile(file.path(), {});
  ASSERT_TRUE(opened.ok()) << opened.status();
  RemapBackend backend(std::move(*opened), /*read_only=*/true, loop.get());
  EXPECT_EQ(backend.geometry().size_bytes, 8u * 512);
  EXPECT_TRUE(backend.geometry().read_only);
  EXPECT_TRUE(backend.geometry().remap);
  EXPECT_TRUE(backend.geometry().direct_io);
  using Op = Request::Op;
  for (const Op op : {Op::kRead, Op::kWrite, Op::kDiscard, Op::kSecureErase,
                      Op::kWriteZeroes, Op::kFlush, Op::kUnknown}) {
    int over = 0;
    Request request;
    request.op = op;
    request.sector = 5;
    request.length_bytes = 512;
    request.channel_data = &over;
    request.on_complete = [](Request* r) {
      ++*static_cast<int*>(r->channel_data);
    };
    backend.Submit(&request);
    EXPECT_EQ(over, 1);
    EXPECT_EQ(request.status,
              op == Op::kUnknown ? IoStatus::kUnsupported : IoStatus::kOk);
    EXPECT_EQ(request.remapped, op != Op::kFlush && op != Op::kUnknown);
    if (request.remapped) {
      EXPECT_EQ(request.base_sector, 5u);
    }
  }
}

}  // namespace
}  // namespace dmu
