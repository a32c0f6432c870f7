// SPDX-License-Identifier: Apache-2.0
//
// Goal: what happens to requests when the daemon dies, hangs or never comes is
// what the table says, and nothing is lost, doubled, reordered or left waiting.
// Method: channels opened and closed by hand, deadlines of a few hundred
// milliseconds, and a real daemon process under SIGKILL.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

using Clock = std::chrono::steady_clock;

int64_t MsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() -
                                                               start)
      .count();
}

class Recovery : public testing::Test {
 protected:
  // Starts one read of 4 KiB and returns once it is queued behind `before`
  // others, so that sequence numbers follow the order of the calls.
  void QueueRead(size_t before) {
    buffers_.push_back(std::make_unique<Buffer>(4096));
    ios_.push_back(
        StartRead(device_, ios_.size() * 4096, buffers_.back().get()));
    ASSERT_TRUE(device_.AwaitStatus(kQueued, std::to_string(before + 1)));
  }

  // Answers all that is queued and checks that it came in this order.
  void ServeInOrder(Channel* channel, const std::vector<uint64_t>& seqs) {
    for (const uint64_t seq : seqs) {
      WireRequest request;
      ASSERT_TRUE(channel->Next(&request));
      EXPECT_EQ(seq, request.header.seq);
      ASSERT_TRUE(channel->Reply(
          seq, Pattern(request.header.len, static_cast<uint32_t>(seq))));
    }
    for (size_t i = 0; i < ios_.size(); ++i) {
      EXPECT_EQ(4096, Await(&ios_[i]).result);
      EXPECT_EQ(Pattern(4096, static_cast<uint32_t>(i)), buffers_[i]->Copy());
    }
  }

  MappedDevice device_{"recovery"};
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Io> ios_;
};

TEST_F(Recovery, CloseGivesBackInOrderWithTheSameNumbers) {
  ASSERT_EQ(0, device_.CreateUser());
  for (size_t i = 0; i < 5; ++i) {
    QueueRead(i);
  }
  Channel first("recovery");
  for (uint64_t i = 0; i < 4; ++i) {
    WireRequest request;
    ASSERT_TRUE(first.Next(&request));
    EXPECT_EQ(i, request.header.seq);
  }
  EXPECT_EQ("4", device_.StatusField(kDelivered));
  first.Close();
  EXPECT_EQ("5", device_.StatusField(kQueued));
  EXPECT_EQ("4", device_.StatusField(kGivenBack));
  Channel second("recovery");
  ServeInOrder(&second, {0, 1, 2, 3, 4});
}

TEST_F(Recovery, TwoChannelsGiveBackInterleaved) {
  ASSERT_EQ(0, device_.CreateUser());
  for (size_t i = 0; i < 6; ++i) {
    QueueRead(i);
  }
  Channel a("recovery"), b("recovery");
  for (int i = 0; i < 3; ++i) {
    WireRequest request;
    ASSERT_TRUE(a.Next(&request));
    ASSERT_TRUE(b.Next(&request));
  }
  b.Close();
  EXPECT_EQ("live", device_.StatusField(kState));
  a.Close();
  EXPECT_EQ("orphaned", device_.StatusField(kState));
  Channel c("recovery");
  ServeInOrder(&c, {0, 1, 2, 3, 4, 5});
}

TEST_F(Recovery, BlockedReaderGetsWhatAnotherChannelGivesBack) {
  ASSERT_EQ(0, device_.CreateUser());
  QueueRead(0);
  Channel a("recovery");
  WireRequest request;
  ASSERT_TRUE(a.Next(&request));
  Channel b("recovery");
  std::thread reader([&] {
    WireHeader header;
    ASSERT_EQ(ssize_t{sizeof(header)}, b.Read(&header, sizeof(header)));
    EXPECT_EQ(0u, header.seq);
    ASSERT_TRUE(b.Reply(0, Pattern(4096, 0)));
  });
  ASSERT_TRUE(device_.AwaitStatus(kServers, "2"));
  a.Close();
  reader.join();
  EXPECT_EQ(4096, Await(&ios_[0]).result);
}

// Header cut, then payload cut: the next channel starts at the first byte.
TEST_F(Recovery, HalfReadRequestLeavesNoTrace) {
  ASSERT_EQ(0, device_.CreateUser());
  Buffer buffer(4096);
  buffer.FillPattern(1);
  Io io = StartWrite(device_, 0, &buffer);
  char bytes[1000];
  for (const size_t cut : {1, 39, 40}) {
    Channel channel("recovery");
    ASSERT_EQ(POLLIN, channel.Poll(10000));
    ASSERT_EQ(static_cast<ssize_t>(cut), channel.Read(bytes, cut));
  }
  EXPECT_EQ("3", device_.StatusField(kGivenBack));
  {
    Channel channel("recovery");
    ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_FENCED));
    WireHeader header;
    ASSERT_TRUE(channel.NextHeader(&header));
    ASSERT_EQ(1000, channel.Read(bytes, sizeof(bytes)));
  }
  Channel channel("recovery");
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(0u, request.header.seq);
  EXPECT_EQ(buffer.Copy(), request.payload);
  ASSERT_TRUE(channel.Reply(0));
  EXPECT_EQ(4096, Await(&io).result);
}

TEST_F(Recovery, HalfWrittenReplyLeavesNoTrace) {
  ASSERT_EQ(0, device_.CreateUser());
  QueueRead(0);
  const WireHeader header = {0, 0, 0, 0, 0};
  const std::vector<uint8_t> wrong(4095, 0xee);
  for (const size_t cut : {0, 1, 4095}) {
    Channel channel("recovery");
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    ASSERT_EQ(20, channel.Write(&header, 20));
    ASSERT_EQ(20,
              channel.Write(reinterpret_cast<const char*>(&header) + 20, 20));
    ASSERT_EQ(static_cast<ssize_t>(cut), channel.Write(wrong.data(), cut));
  }
  Channel channel("recovery");
  ServeInOrder(&channel, {0});
}

struct FenceCase {
  const char* name;
  const char* features;
  bool fenced;
  const char* outcome;  // "again", "fail" or "hold"
};

class Fence : public testing::TestWithParam<FenceCase> {
 protected:
  MappedDevice device_{"fence"};
};

TEST_P(Fence, OfADeliveredWrite) {
  const std::string outcome = GetParam().outcome;
  ASSERT_EQ(0, device_.CreateUser(GetParam().features));
  Buffer buffer(4096);
  buffer.FillPattern(1);
  Io io = StartWrite(device_, 0, &buffer);
  Channel dead("fence");
  if (GetParam().fenced) {
    ASSERT_EQ(0, dead.SetFlags(DM_USER_CHANNEL_FENCED));
  }
  WireRequest request;
  ASSERT_TRUE(dead.Next(&request));
  dead.Close();
  if (outcome == "fail") {
    EXPECT_EQ(EIO, Await(&io).error);
    return;
  }
  Channel next("fence");
  if (outcome == "hold") {
    EXPECT_EQ("1", device_.StatusField(kHeld));
    EXPECT_EQ(0, next.Poll(50));
    EXPECT_EQ(0, device_.Message("requeue"));
  }
  EXPECT_EQ("0", device_.StatusField(kHeld));
  ASSERT_TRUE(next.Next(&request));
  EXPECT_EQ(0u, request.header.seq);
  EXPECT_EQ(buffer.Copy(), request.payload);
  ASSERT_TRUE(next.Reply(0));
  EXPECT_EQ(4096, Await(&io).result);
}

INSTANTIATE_TEST_SUITE_P(
    Each, Fence,
    testing::Values(FenceCase{"Default", "", false, "fail"},
                    FenceCase{"DefaultFenced", "", true, "again"},
                    FenceCase{"Fail", "2 unfenced fail", false, "fail"},
                    FenceCase{"FailFenced", "2 unfenced fail", true, "again"},
                    FenceCase{"Requeue", "2 unfenced requeue", false, "again"},
                    FenceCase{"Hold", "4 orphan_ms forever unfenced hold",
                              false, "hold"},
                    FenceCase{"HoldFenced", "2 unfenced hold", true, "again"}),
    [](const testing::TestParamInfo<FenceCase>& info) {
      return info.param.name;
    });

TEST_F(Recovery, WhatChangesNothingIsGivenAgainUnfenced) {
  ASSERT_EQ(0, device_.CreateUser());
  Io io = StartFsync(device_);
  WireRequest request;
  {
    Channel channel("recovery");
    ASSERT_TRUE(channel.Next(&request));
  }
  Channel channel("recovery");
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(0u, request.header.seq);
  ASSERT_TRUE(channel.Reply(0));
  EXPECT_EQ(0, Await(&io).result);
}

TEST_F(Recovery, DiscardCountsAsAWrite) {
  ASSERT_EQ(0, device_.CreateUser("1 discard"));
  Io io = StartRangeIoctl(device_, BLKDISCARD, 0, 4096);
  {
    Channel channel("recovery");
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
  }
  EXPECT_TRUE(device_.AwaitStatus(kErrors, "1"));
  EXPECT_EQ(EIO, Await(&io).error);
}

TEST_F(Recovery, HeldWriteHasADeadlineWhoeverServes) {
  ASSERT_EQ(0, device_.CreateUser("4 orphan_ms 200 unfenced hold"));
  Buffer buffer(4096);
  Io io = StartWrite(device_, 0, &buffer);
  Channel next("recovery");
  {
    Channel dead("recovery");
    WireRequest request;
    ASSERT_TRUE(dead.Next(&request));
  }
  ASSERT_EQ(0, next.Poll(0));
  const auto start = Clock::now();
  EXPECT_EQ("1", device_.StatusField(kHeld));
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_GE(MsSince(start), 100);
  EXPECT_EQ("live", device_.StatusField(kState));
}

TEST_F(Recovery, NeverServed) {
  ASSERT_EQ(0, device_.CreateUser("2 new_ms 300"));
  Buffer buffer(4096);
  // Merely to be open is not to serve.
  Channel stray("recovery");
  auto start = Clock::now();
  Io io = StartRead(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_GE(MsSince(start), 290);
  EXPECT_EQ("failed", device_.StatusField(kState));
  EXPECT_EQ("1", device_.StatusField(kExpired));
  start = Clock::now();
  io = StartRead(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_LT(MsSince(start), 250);
  // A server makes it whole again.
  EXPECT_EQ(0, stray.Poll(0));
  EXPECT_EQ("live", device_.StatusField(kState));
  io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(stray.Next(&request));
  ASSERT_TRUE(stray.Reply(request.header.seq, Pattern(4096, 1)));
  EXPECT_EQ(4096, Await(&io).result);
}

TEST_F(Recovery, OrphanWaitsThenFails) {
  ASSERT_EQ(0, device_.CreateUser("4 new_ms forever orphan_ms 300"));
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  {
    Channel channel("recovery");
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
  }
  auto start = Clock::now();
  EXPECT_EQ("orphaned", device_.StatusField(kState));
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_GE(MsSince(start), 250);
  EXPECT_EQ("failed", device_.StatusField(kState));
}

// The time without requests does not count: the next one gets its wait.
TEST_F(Recovery, IdleOrphanStillWaits) {
  ASSERT_EQ(0, device_.CreateUser("2 orphan_ms 150"));
  { Channel(device_.name()).Poll(0); }
  EXPECT_EQ("orphaned", device_.StatusField(kState));
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  Buffer buffer(4096);
  const auto start = Clock::now();
  Io io = StartRead(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_GE(MsSince(start), 140);
}

TEST_F(Recovery, OrphanZeroFailsAtOnce) {
  ASSERT_EQ(0, device_.CreateUser("2 orphan_ms 0"));
  Buffer buffer(4096), other(4096);
  Io io = StartRead(device_, 0, &buffer);
  Channel channel("recovery");
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  Io queued = StartRead(device_, 4096, &other);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  channel.Close();
  EXPECT_EQ("failed", device_.StatusField(kState));
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_EQ(EIO, Await(&queued).error);
}

// Android's driver lost the deadline of a request that was queued before a
// channel that never read it: such a request hung for ever.
TEST_F(Recovery, ServerThatNeverReadDoesNotDisarmTheDeadline) {
  ASSERT_EQ(0, device_.CreateUser("4 new_ms 200 orphan_ms 200"));
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  Channel channel("recovery");
  EXPECT_EQ(POLLIN, channel.Poll(0));
  EXPECT_EQ(std::future_status::timeout,
            io.wait_for(std::chrono::milliseconds(400)));
  channel.Close();
  EXPECT_EQ(EIO, Await(&io).error);
}

TEST_F(Recovery, ForeverIsForeverUntilAMessage) {
  ASSERT_EQ(0, device_.CreateUser("4 new_ms forever orphan_ms forever"));
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  EXPECT_EQ(std::future_status::timeout,
            io.wait_for(std::chrono::milliseconds(300)));
  const auto start = Clock::now();
  EXPECT_EQ(0, device_.Message("new_ms 1"));
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_LT(MsSince(start), 2000);
}

TEST_F(Recovery, DefaultIsTheModuleParameter) {
  const std::string parameter =
      "/sys/module/dm_user/parameters/dm_user_daemon_timeout_msec";
  std::string was;
  std::ifstream(parameter) >> was;
  EXPECT_EQ("4000", was);
  std::ofstream(parameter) << "150" << std::flush;
  ASSERT_EQ(0, device_.CreateUser());
  Buffer buffer(4096);
  const auto start = Clock::now();
  Io io = StartRead(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_GE(MsSince(start), 140);
  EXPECT_LT(MsSince(start), 3000);
  std::ofstream(parameter) << was << std::flush;
}

TEST_F(Recovery, StuckServer) {
  ASSERT_EQ(0, device_.CreateUser("2 stuck_ms 200"));
  Channel channel("recovery");
  Buffer buffer(4096), in_read(4096), in_write(4096), unread(4096);
  // One that has it all, one in the middle of its payload, one in the middle
  // of its reply, one that nobody reads.
  Io plain = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  Io reply = StartRead(device_, 4096, &in_write);
  ASSERT_TRUE(channel.Next(&request));
  const WireHeader header = {1, 0, 0, 0, 0};
  ASSERT_EQ(40, channel.Write(&header, 40));
  ASSERT_EQ(100, channel.Write(buffer.data(), 100));
  Io half = StartWrite(device_, 8192, &in_read);
  WireHeader write_header;
  ASSERT_TRUE(channel.NextHeader(&write_header));
  ASSERT_EQ(100, channel.Read(buffer.data(), 100));
  Io queued = StartRead(device_, 12288, &unread);

  EXPECT_EQ(ETIMEDOUT, Await(&plain).error);
  EXPECT_EQ(ETIMEDOUT, Await(&reply).error);
  EXPECT_EQ(ETIMEDOUT, Await(&half).error);
  EXPECT_EQ(ETIMEDOUT, Await(&queued).error);
  EXPECT_EQ("4", device_.StatusField(kExpired));
  EXPECT_EQ("live", device_.StatusField(kState));
  // The stream says so, once each, and goes on.
  EXPECT_EQ(-EINVAL, channel.Write(buffer.data(), 3996));
  EXPECT_EQ(POLLIN, channel.Poll(0));
  EXPECT_EQ(-ECANCELED, channel.Read(buffer.data(), 3996));
  EXPECT_EQ(0, channel.Poll(0));
  EXPECT_EQ(-EINVAL, channel.ReplyType(0, DM_USER_RESP_SUCCESS));
  Io last = StartRead(device_, 0, &buffer);
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(4096, 2)));
  EXPECT_EQ(4096, Await(&last).result);
  EXPECT_EQ(Pattern(4096, 2), buffer.Copy());
}

// Requests that wait behind others are not stuck while the server works. A
// pause of 600 ms is never one of 3 s, on a busy host either.
TEST_F(Recovery, SlowServerIsNotStuck) {
  ASSERT_EQ(0, device_.CreateUser("2 stuck_ms 3000"));
  Channel channel("recovery");
  for (size_t i = 0; i < 6; ++i) {
    QueueRead(i);
  }
  for (uint64_t seq = 0; seq < 6; ++seq) {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    ASSERT_TRUE(channel.Reply(seq, Pattern(4096, static_cast<uint32_t>(seq))));
  }
  ServeInOrder(&channel, {});
  EXPECT_EQ("0", device_.StatusField(kExpired));
}

TEST_F(Recovery, FailQueuedFailsWhatNobodyHas) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("recovery");
  Buffer a(4096), b(4096);
  Io delivered = StartRead(device_, 0, &a);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  Io queued = StartRead(device_, 4096, &b);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  EXPECT_EQ(0, device_.Message("fail_queued"));
  EXPECT_EQ(EIO, Await(&queued).error);
  EXPECT_FALSE(IsReady(&delivered));
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 1)));
  EXPECT_EQ(4096, Await(&delivered).result);
}

TEST_F(Recovery, ForkedChildKeepsTheChannel) {
  ASSERT_EQ(0, device_.CreateUser());
  QueueRead(0);
  Channel channel("recovery");
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  int gate[2];
  ASSERT_EQ(0, pipe(gate));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(gate[1]);
    char c;
    _exit(read(gate[0], &c, 1) == 0 ? 0 : 1);
  }
  channel.Close();
  EXPECT_EQ("1", device_.StatusField(kDelivered));
  close(gate[0]);
  close(gate[1]);
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_EQ("1", device_.StatusField(kQueued));
  Channel next("recovery");
  ServeInOrder(&next, {0});
}

// A daemon as Android's, in a process of its own, is killed again and again
// in the middle of its work, while writes are verified by reads.
TEST_F(Recovery, KilledDaemonsCostNothing) {
  constexpr size_t kBytes = kDeviceSectors * 512;
  constexpr int kKills = 25, kBlocks = 64;
  ASSERT_EQ(0, device_.CreateUser("2 orphan_ms forever"));
  auto* disk =
      static_cast<uint8_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(MAP_FAILED, disk);
  auto start_daemon = [&] {
    const pid_t pid = fork();
    if (pid == 0) {
      Channel channel("recovery");
      const bool good = channel.SetFlags(DM_USER_CHANNEL_FENCED) == 0 &&
                        ServeRam(&channel, disk, kBytes);
      _exit(good ? 0 : 1);
    }
    return pid;
  };

  std::atomic<bool> stop{false};
  std::atomic<int> done{0}, bad{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 3; ++c) {
    clients.emplace_back([&, c] {
      const int fd = open(device_.block_path().c_str(), O_RDWR | O_DIRECT);
      Buffer out(16384), in(16384);
      std::mt19937 random(static_cast<unsigned>(c));
      for (uint32_t i = 0; !stop; ++i) {
        const off_t offset =
            (c * kBlocks + static_cast<off_t>(random() % kBlocks)) * 16384;
        out.FillPattern(i * 3 + static_cast<uint32_t>(c));
        if (pwrite(fd, out.data(), out.size(), offset) != 16384 ||
            pread(fd, in.data(), in.size(), offset) != 16384 ||
            memcmp(out.data(), in.data(), in.size()) != 0) {
          ++bad;
        }
        ++done;
      }
      close(fd);
    });
  }
  std::mt19937 random(7);
  pid_t daemon = start_daemon();
  for (int kill_count = 0; kill_count < kKills; ++kill_count) {
    // Some work between two kills, however slow the machine is.
    const uint64_t goal = device_.StatusNumber(kServed) + 1 + random() % 20;
    while (device_.StatusNumber(kServed) < goal) sched_yield();
    ASSERT_EQ(0, kill(daemon, SIGKILL));
    int status = 0;
    ASSERT_EQ(daemon, waitpid(daemon, &status, 0));
    EXPECT_TRUE(WIFSIGNALED(status)) << "the daemon had ended by itself";
    daemon = start_daemon();
  }
  stop = true;
  for (std::thread& client : clients) {
    client.join();
  }
  EXPECT_EQ(0, bad);
  EXPECT_GT(done, 0);
  EXPECT_EQ("0", device_.StatusField(kErrors));
  EXPECT_GT(device_.StatusNumber(kGivenBack), 0u);
  EXPECT_EQ(0, device_.RemoveForced());
  int status = 0;
  ASSERT_EQ(daemon, waitpid(daemon, &status, 0));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  munmap(disk, kBytes);
}

}  // namespace
}  // namespace dmu
