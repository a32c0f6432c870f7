// SPDX-License-Identifier: Apache-2.0
//
// Goal: a batch as an io_uring command does what the ioctl does, waits without
// holding anything up, and never loses a request or a wake-up on its way.
// Method: the daemon's side by hand, one command at a time. Who dies with a
// command under way is in kernel_uring_death_test.cc; the other kernel tests
// run over this channel too (--channel=uring).
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
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

constexpr uint32_t kHeader = sizeof(WireHeader);

using Bytes = std::vector<uint8_t>;

class UringTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, device_.CreateUser("2 orphan_ms forever"));
    channel_ = std::make_unique<Channel>("uring");
    ASSERT_TRUE(channel_->ok());
    ASSERT_EQ(0, channel_->SetFlags(kFlags));
    ASSERT_TRUE(uring_.ok());
  }
  void StartIo(bool write) {
    const size_t i = ios_.size();
    buffers_.push_back(std::make_unique<Buffer>(4096));
    if (write) buffers_.back()->FillPattern(static_cast<uint32_t>(i));
    ios_.push_back(write ? StartWrite(device_, 4096 * i, buffers_.back().get())
                         : StartRead(device_, 4096 * i, buffers_.back().get()));
  }
  void Queue(size_t writes, size_t reads) {
    for (size_t i = 0; i < writes + reads; ++i) StartIo(i < writes);
    ASSERT_TRUE(device_.AwaitStatus(kQueued, std::to_string(writes + reads)));
  }
  // A command whose result is at hand, or comes with the next request.
  int Run(UringBatch* command) {
    if (!uring_.Submit(channel_->fd(), command)) return -EIO;
    return uring_.Await(command);
  }
  std::vector<WireRequest> Given(const UringBatch& command, int result) {
    EXPECT_GT(result, 0) << strerror(-result);
    return ParseMessages(Bytes(command.requests.begin(),
                               command.requests.begin() + std::max(result, 0)));
  }
  void ExpectGood() {
    for (size_t i = 0; i < ios_.size(); ++i) {
      EXPECT_EQ(4096, Await(&ios_[i]).result) << i;
    }
    ios_.clear();
    buffers_.clear();
  }
  // Answers by the ioctl-free way.
  void Answer(const std::vector<WireRequest>& requests) {
    UringBatch command;
    command.replies = GoodReplies(requests);
    EXPECT_EQ(0, Run(&command));
    EXPECT_EQ(command.replies.size(), command.batch.taken_bytes);
    EXPECT_EQ(0u, command.batch.stale);
  }

  static constexpr uint64_t kFlags =
      DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_FENCED;
  MappedDevice device_{"uring"};
  std::unique_ptr<Channel> channel_;
  Uring uring_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Io> ios_;
};

TEST_F(UringTest, InfoSaysWhatThereIs) {
  dm_user_info info = {};
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_TRUE(info.features & DM_USER_FEATURE_URING);
  EXPECT_EQ(UringParks(), (info.features & DM_USER_FEATURE_URING_PARKS) != 0);
}

TEST_F(UringTest, OneCommandGivesAllAndOneTakesAll) {
  Queue(3, 2);
  UringBatch fetch(65536);
  const auto requests = Given(fetch, Run(&fetch));
  ASSERT_EQ(5u, requests.size());
  uint64_t seq = requests[0].header.seq;
  for (const WireRequest& request : requests) {
    EXPECT_EQ(seq++, request.header.seq) << "not in order";
    if (request.header.type != DM_USER_REQ_MAP_WRITE) continue;
    const size_t i = request.header.sector / 8;
    EXPECT_EQ(0, memcmp(request.payload.data(), buffers_[i]->data(), 4096));
  }
  Answer(requests);
  for (size_t i = 3; i < 5; ++i) {
    EXPECT_EQ(4096, Await(&ios_[i]).result);
    const Bytes expected = Pattern(4096, static_cast<uint32_t>(8 * i));
    EXPECT_EQ(0, memcmp(buffers_[i]->data(), expected.data(), 4096));
  }
  ios_.resize(3);
  ExpectGood();
}

// The answers go in and the next requests come out, in one command; it waits if
// there are none.
TEST_F(UringTest, CommitAndFetch) {
  UringBatch fetch(65536);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &fetch));
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(uring_.IsDone(&fetch));
    StartIo(i % 2 == 0);
    const auto requests = Given(fetch, uring_.Await(&fetch));
    ASSERT_EQ(1u, requests.size());
    fetch.replies = GoodReplies(requests);
    ASSERT_TRUE(uring_.Submit(channel_->fd(), &fetch));
    EXPECT_EQ(4096, Await(&ios_.back()).result);
    if (UringParks()) {
      // Written before it waits.
      EXPECT_EQ(fetch.replies.size(), fetch.batch.taken_bytes);
    }
  }
  EXPECT_EQ("10", device_.StatusField(kServed));
}

TEST_F(UringTest, WithoutTimeItDoesNotWait) {
  UringBatch fetch(65536, 0);
  EXPECT_EQ(0, Run(&fetch));
  Queue(0, 1);
  Answer(Given(fetch, Run(&fetch)));
  ExpectGood();
}

TEST_F(UringTest, TwoMayWaitAndNoMore) {
  UringBatch first(65536), second(65536), third(65536);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &first));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &second));
  if (UringParks()) {
    EXPECT_EQ(-EBUSY, Run(&third));
  }
  // Each gets one, whichever comes first.
  for (int i = 0; i < 2; ++i) {
    StartIo(false);
    UringBatch* got = nullptr;
    while (got == nullptr) {
      got = uring_.IsDone(&first)    ? &first
            : uring_.IsDone(&second) ? &second
                                     : nullptr;
    }
    const auto requests = Given(*got, uring_.Await(got));
    ASSERT_EQ(1u, requests.size());
    Answer(requests);
  }
  ExpectGood();
}

TEST_F(UringTest, OnlyWhatFitsWholeIsBegunAndARestComesNext) {
  Queue(3, 0);
  UringBatch small(kHeader + 4096 + kHeader + 4095);
  auto requests = Given(small, Run(&small));
  EXPECT_EQ(1u, requests.size());
  EXPECT_EQ("2", device_.StatusField(kQueued));
  // The first message of a buffer may be cut.
  UringBatch head(2000), rest(65536);
  ASSERT_EQ(2000, Run(&head));
  const int result = Run(&rest);
  ASSERT_EQ(static_cast<int>(2 * (kHeader + 4096) - 2000), result);
  Bytes all = head.requests;
  all.insert(all.end(), rest.requests.begin(), rest.requests.begin() + result);
  for (const WireRequest& request : ParseMessages(all)) {
    requests.push_back(request);
  }
  ASSERT_EQ(3u, requests.size());
  for (const WireRequest& request : requests) {
    const size_t i = request.header.sector / 8;
    EXPECT_EQ(0, memcmp(request.payload.data(), buffers_[i]->data(), 4096));
  }
  Answer(requests);
  ExpectGood();
}

// A message that is cut while another command waits: it gets the rest.
TEST_F(UringTest, TheRestOfAMessageWakesWhoWaits) {
  UringBatch first(2000), second(2000), third(65536);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &first));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &second));
  StartIo(true);
  // They are filled in turn; which of the two is the first is not said.
  ASSERT_EQ(2000, uring_.Await(&first));
  ASSERT_EQ(2000, uring_.Await(&second));
  ASSERT_EQ(static_cast<int>(kHeader + 96), Run(&third));
  WireHeader a, b;
  memcpy(&a, first.requests.data(), kHeader);
  memcpy(&b, second.requests.data(), kHeader);
  WireRequest request;
  request.header = a.len == 4096 && a.type == DM_USER_REQ_MAP_WRITE ? a : b;
  Answer({request});
  ExpectGood();
}

TEST_F(UringTest, RefusedRepliesAreCounted) {
  Queue(0, 1);
  UringBatch fetch(65536);
  const auto requests = Given(fetch, Run(&fetch));
  fetch.replies.clear();
  AppendReply(&fetch.replies, 1u << 30, DM_USER_RESP_SUCCESS, Bytes(100));
  const Bytes good = GoodReplies(requests);
  fetch.replies.insert(fetch.replies.end(), good.begin(), good.end());
  AppendReply(&fetch.replies, requests[0].header.seq, DM_USER_RESP_SUCCESS);
  fetch.batch.timeout_ms = 0;
  EXPECT_EQ(0, Run(&fetch));
  EXPECT_EQ(2u, fetch.batch.stale);
  EXPECT_EQ(fetch.replies.size(), fetch.batch.taken_bytes);
  ExpectGood();
}

// Bad commands take nothing and give nothing.
TEST_F(UringTest, BadCommands) {
  Queue(0, 1);
  struct {
    const char* what;
    int result;
    void (*spoil)(UringBatch* command);
  } const kCases[] = {
      {"wake", -EINVAL,
       [](UringBatch* c) { c->batch.flags = DM_USER_BATCH_WAKE; }},
      {"wake_fd", -EINVAL, [](UringBatch* c) { c->batch.wake_fd = 1; }},
      {"flags", -EINVAL, [](UringBatch* c) { c->batch.flags = 2; }},
      {"reserved", -EINVAL, [](UringBatch* c) { c->batch.reserved[2] = 1; }},
      {"payload", -EINVAL, [](UringBatch* c) { c->reserved = 1; }},
      {"time", -EINVAL, [](UringBatch* c) { c->batch.timeout_ms = 1; }},
      {"size", -EINVAL,
       [](UringBatch* c) { c->batch.requests_bytes = 0x80000000u; }},
      {"command", -EOPNOTSUPP,
       [](UringBatch* c) { c->cmd_op = DM_USER_IOC_INFO; }},
      {"address", -EFAULT, [](UringBatch* c) { c->batch_address = 8; }},
      {"kernel address", -EFAULT,
       [](UringBatch* c) { c->batch_address = UINT64_MAX - 4095; }},
      {"buffer", -EFAULT, [](UringBatch* c) { c->batch.requests = 8; }},
      {"kernel buffer", -EFAULT,
       [](UringBatch* c) { c->batch.requests = UINT64_MAX - 10; }},
      {"replies", -EFAULT,
       [](UringBatch* c) {
         c->batch.replies = 8;
         c->batch.replies_bytes = 40;
       }},
  };
  for (const auto& bad : kCases) {
    UringBatch command(4096);
    bad.spoil(&command);
    EXPECT_EQ(bad.result, Run(&command)) << bad.what;
    EXPECT_EQ("1", device_.StatusField(kQueued)) << bad.what;
  }
  {
    Channel stream("uring");
    UringBatch command(4096);
    ASSERT_TRUE(uring_.Submit(stream.fd(), &command));
    if (Channel::kind == Channel::Kind::kCalls) {
      EXPECT_EQ(-EINVAL, uring_.Await(&command)) << "not in batch mode";
    }
  }
  UringBatch command(4096);
  Answer(Given(command, Run(&command)));
  ExpectGood();
}

// The buffer is gone when the request comes: another channel gets it.
TEST_F(UringTest, ABufferThatWentAwayLosesNothing) {
  void* pages = mmap(nullptr, 65536, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  UringBatch bad;
  bad.batch.requests = reinterpret_cast<uintptr_t>(pages);
  bad.batch.requests_bytes = 65536;
  bad.batch.timeout_ms = UINT32_MAX;
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &bad));
  Channel other("uring");
  ASSERT_EQ(0, other.SetFlags(kFlags));
  UringBatch good(65536);
  Uring ring;
  ASSERT_TRUE(ring.Submit(other.fd(), &good));
  mprotect(pages, 65536, PROT_NONE);
  StartIo(false);
  const auto requests = Given(good, ring.Await(&good));
  ASSERT_EQ(1u, requests.size());
  good.replies = GoodReplies(requests);
  good.batch.requests_bytes = 0;
  ASSERT_TRUE(ring.Submit(other.fd(), &good));
  EXPECT_EQ(0, ring.Await(&good));
  ExpectGood();
  if (!uring_.IsDone(&bad)) {
    // It was not asked: the other one was faster.
    ASSERT_EQ(0, channel_->SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
    EXPECT_EQ(-ESHUTDOWN, uring_.Await(&bad));
  } else {
    EXPECT_EQ(-EFAULT, uring_.Await(&bad));
  }
  munmap(pages, 65536);
}

TEST_F(UringTest, RemovalEndsAllWhoWait) {
  UringBatch first(4096), second(4096);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &first));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &second));
  EXPECT_EQ(0, device_.Remove());
  EXPECT_EQ(-ENOTBLK, uring_.Await(&first));
  EXPECT_EQ(-ENOTBLK, uring_.Await(&second));
  EXPECT_EQ(-ENOTBLK, Run(&first)) << "and who comes later";
}

// A suspend with noflush takes what was delivered, not the command; the table
// that comes then gives it again.
TEST_F(UringTest, SuspendAndReloadLeaveTheCommandWaiting) {
  StartIo(true);
  UringBatch fetch(65536);
  const auto taken = Given(fetch, Run(&fetch));
  ASSERT_EQ(1u, taken.size());
  UringBatch waiting(65536);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &waiting));
  ASSERT_EQ(0, device_.Load({UserLine("uring", "2 orphan_ms 60000")}));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  EXPECT_FALSE(uring_.IsDone(&waiting));
  ASSERT_EQ(0, device_.Resume());
  const auto again = Given(waiting, uring_.Await(&waiting));
  ASSERT_EQ(1u, again.size());
  EXPECT_EQ(0, memcmp(again[0].payload.data(), buffers_[0]->data(), 4096));
  UringBatch late;
  late.replies = GoodReplies(taken);
  EXPECT_EQ(0, Run(&late));
  EXPECT_EQ(1u, late.batch.stale) << "the answer to the old one";
  Answer(again);
  ExpectGood();
}

// A suspend takes the request away between two parts of its message.
TEST_F(UringTest, AMessageThatIsTakenAwayIsSaid) {
  Queue(1, 0);
  UringBatch head(2000), next(65536);
  ASSERT_EQ(2000, Run(&head));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(-ECANCELED, Run(&next));
  Answer(Given(next, Run(&next)));
  ExpectGood();
}

// Two channels with a command each: one wake-up wakes one of them, and both are
// used.
TEST_F(UringTest, ChannelsTakeTurns) {
  Channel other("uring");
  ASSERT_EQ(0, other.SetFlags(kFlags));
  UringBatch mine(65536), theirs(65536);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &mine));
  ASSERT_TRUE(uring_.Submit(other.fd(), &theirs));
  int served[2] = {};
  for (int i = 0; i < 20; ++i) {
    StartIo(false);
    while (!uring_.IsDone(&mine) && !uring_.IsDone(&theirs)) {
    }
    const bool is_mine = uring_.IsDone(&mine);
    UringBatch* got = is_mine ? &mine : &theirs;
    const auto requests = Given(*got, uring_.Await(got));
    ASSERT_EQ(1u, requests.size());
    got->replies = GoodReplies(requests);
    ++served[is_mine ? 0 : 1];
    ASSERT_TRUE(uring_.Submit((is_mine ? channel_->fd() : other.fd()), got));
    EXPECT_EQ(4096, Await(&ios_.back()).result);
  }
  if (UringParks()) {
    EXPECT_EQ(10, served[0]);
    EXPECT_EQ(10, served[1]);
  }
}

// An entry that io_uring is told to run in a thread of its own waits there.
TEST_F(UringTest, AThreadOfTheRingsMayWaitInstead) {
  UringBatch fetch(65536);
  fetch.entry_flags = IOSQE_ASYNC;
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &fetch));
  StartIo(true);
  const auto requests = Given(fetch, uring_.Await(&fetch));
  ASSERT_EQ(1u, requests.size());
  fetch.replies = GoodReplies(requests);
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &fetch));
  ExpectGood();
  // Waits already, or comes to it.
  ASSERT_EQ(0, channel_->SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
  EXPECT_EQ(-ESHUTDOWN, uring_.Await(&fetch));
}

// Who is stopped gets no more, keeps what it has, and can go on.
TEST_F(UringTest, StoppedChannelsGetNoMore) {
  StartIo(true);
  UringBatch fetch(65536), first(65536), second(65536);
  const auto requests = Given(fetch, Run(&fetch));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &first));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &second));
  ASSERT_EQ(0, channel_->SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
  EXPECT_EQ(-ESHUTDOWN, uring_.Await(&first));
  EXPECT_EQ(-ESHUTDOWN, uring_.Await(&second));
  StartIo(false);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  EXPECT_EQ(-ESHUTDOWN, Run(&fetch));
  Bytes in(4096);
  EXPECT_EQ(-ESHUTDOWN, channel_->Read(in.data(), in.size()));
  EXPECT_EQ("1", device_.StatusField(kDelivered));
  Answer(requests);
  EXPECT_EQ(4096, Await(&ios_[0]).result);
  ASSERT_EQ(0, channel_->SetFlags(kFlags));
  Answer(Given(fetch, Run(&fetch)));
  EXPECT_EQ(4096, Await(&ios_[1]).result);
}

// A planned hand-over: the old channel is stopped, answers what it has, and the
// new one gets the rest.
TEST_F(UringTest, HandOver) {
  StartIo(true);
  UringBatch fetch(65536), waiting(65536);
  const auto requests = Given(fetch, Run(&fetch));
  ASSERT_TRUE(uring_.Submit(channel_->fd(), &waiting));
  Channel next("uring");
  ASSERT_EQ(0, next.SetFlags(kFlags));
  Uring ring;
  UringBatch theirs(65536);
  ASSERT_TRUE(ring.Submit(next.fd(), &theirs));
  ASSERT_EQ(0, channel_->SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
  EXPECT_EQ(-ESHUTDOWN, uring_.Await(&waiting));
  StartIo(false);
  const int result = ring.Await(&theirs);
  const auto more = Given(theirs, result);
  ASSERT_EQ(1u, more.size());
  Answer(requests);
  EXPECT_EQ(4096, Await(&ios_[0]).result);
  channel_->Close();
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "1"));
  EXPECT_EQ("0", device_.StatusField(kGivenBack));
  theirs.replies = GoodReplies(more);
  theirs.batch.timeout_ms = 0;
  ASSERT_TRUE(ring.Submit(next.fd(), &theirs));
  EXPECT_EQ(0, ring.Await(&theirs));
  EXPECT_EQ(4096, Await(&ios_[1]).result);
}

// Every kind of ring there is serves.
TEST_F(UringTest, KindsOfRings) {
  for (const unsigned flags :
       {0u, unsigned{IORING_SETUP_SQPOLL}, unsigned{IORING_SETUP_SQE128},
        unsigned{IORING_SETUP_CQE32},
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN}) {
    SCOPED_TRACE(flags);
    Channel channel("uring");
    ASSERT_EQ(0, channel.SetFlags(kFlags));
    Uring ring(flags);
    ASSERT_TRUE(ring.ok());
    UringBatch fetch(65536);
    ASSERT_TRUE(ring.Submit(channel.fd(), &fetch));
    for (int i = 0; i < 3; ++i) {
      StartIo(i % 2 == 0);
      const auto requests = Given(fetch, ring.Await(&fetch));
      ASSERT_EQ(1u, requests.size());
      fetch.replies = GoodReplies(requests);
      ASSERT_TRUE(ring.Submit(channel.fd(), &fetch));
      EXPECT_EQ(4096, Await(&ios_.back()).result);
    }
    // The last one waits, or is about to where a thread of the kernel's
    // submits.
    ASSERT_EQ(0, channel.SetFlags(kFlags | DM_USER_CHANNEL_STOPPED));
    EXPECT_EQ(-ESHUTDOWN, ring.Await(&fetch));
  }
}

// Threads read and write, each its own blocks, while a server commits and
// fetches with two commands under way.
TEST(UringLoad, TwoCommandsServeManyThreads) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 40;
  MappedDevice device("load");
  ASSERT_EQ(0, device.CreateUser());
  Channel channel("load");
  ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_BATCH));
  uint64_t commands = 0, requests = 0;
  std::thread server([&] {
    Bytes disk(kDeviceSectors * 512);
    Uring ring;
    UringBatch fetches[2] = {UringBatch(65536), UringBatch(65536)};
    for (UringBatch& fetch : fetches) ring.Submit(channel.fd(), &fetch);
    for (size_t i = 0;; i ^= 1) {
      UringBatch& fetch = fetches[i];
      // The other one may be the one that is ready.
      const int result = ring.Await(&fetch, 1);
      if (result == -ETIME) continue;
      if (result < 0) {
        EXPECT_EQ(-ENOTBLK, result);
        EXPECT_EQ(-ENOTBLK, ring.Await(&fetches[i ^ 1]));
        return;
      }
      ++commands;
      fetch.replies.clear();
      for (const WireRequest& request : ParseMessages(Bytes(
               fetch.requests.begin(), fetch.requests.begin() + result))) {
        ++requests;
        const WireHeader& h = request.header;
        const auto at = disk.begin() + static_cast<ptrdiff_t>(h.sector * 512);
        Bytes data;
        if (h.type == DM_USER_REQ_MAP_WRITE) {
          std::copy(request.payload.begin(), request.payload.end(), at);
        } else {
          data.assign(at, at + static_cast<ptrdiff_t>(h.len));
        }
        AppendReply(&fetch.replies, h.seq, DM_USER_RESP_SUCCESS, data);
      }
      ring.Submit(channel.fd(), &fetch);
    }
  });
  std::atomic<int> bad{0};
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      const int fd = open(device.block_path().c_str(), O_RDWR | O_DIRECT);
      Buffer out(4096), in(4096);
      for (int i = 0; i < kRounds; ++i) {
        const off_t at = 4096 * (t * 16 + i % 16);
        out.FillPattern(static_cast<uint32_t>(t * kRounds + i));
        if (pwrite(fd, out.data(), 4096, at) != 4096 ||
            pread(fd, in.data(), 4096, at) != 4096 ||
            memcmp(out.data(), in.data(), 4096) != 0) {
          ++bad;
        }
      }
      close(fd);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(0, device.Remove());
  server.join();
  EXPECT_EQ(0, bad);
  EXPECT_GE(requests, static_cast<uint64_t>(2 * kThreads * kRounds));
  printf("%llu commands for %llu requests\n",
         static_cast<unsigned long long>(commands),
         static_cast<unsigned long long>(requests));
}

}  // namespace
}  // namespace dmu
