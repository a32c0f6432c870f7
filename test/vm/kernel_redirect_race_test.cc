// SPDX-License-Identifier: Apache-2.0
//
// Goal: when a revoke has returned, nothing redirected before can still read
// what the daemon writes next, whatever else goes on; and no revoke, suspend,
// reload or removal hangs or loses a redirected bio.
// Method: a backing device that answers when it is told to, another device of
// this target; then storms of reads whose every block is verified, while the
// content below alternates between the truth and poison that only a revoke
// keeps from being seen.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/redirect.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr uint8_t kPoison = 0xdb;

class RedirectRace : public testing::Test {
 protected:
  void SetUp() override {
    ram_ = RamDisk(0);
    ASSERT_NE("", ram_);
    ASSERT_TRUE(WriteDevice(ram_, 0, truth_));
    ASSERT_TRUE(WriteDevice(RamDisk(1), 0, truth_));
  }
  static const Bytes& MakeTruth() {
    static const Bytes truth = Pattern(kDeviceSectors * 512, 5);
    return truth;
  }
  void Open(const std::string& device, const std::string& more = "") {
    ASSERT_EQ(0, device_.CreateUser(RedirectWords(64, {device}, more)));
    channel_ = std::make_unique<Channel>("race");
    ASSERT_TRUE(channel_->ok());
  }
  // Over a device that answers when AnswerBelow is called.
  void OpenOverTheUnanswered() {
    ASSERT_EQ(0, below_.CreateUser());
    below_channel_ = std::make_unique<Channel>("below");
    ASSERT_EQ(0, below_channel_->SetFlags(0));
    Open(below_.block_path());
    ASSERT_EQ(0, Add(channel_.get(), {Extent(0, kDeviceSectors, 0, 0)}));
  }
  // Starts a read of the first block, and waits until it has come there.
  uint64_t StartRedirected(Buffer* buffer, Io* io) {
    *io = StartRead(device_, 0, buffer);
    WireRequest request;
    EXPECT_TRUE(below_channel_->Next(&request));
    return request.header.seq;
  }
  void AnswerBelow(uint64_t seq) {
    EXPECT_TRUE(below_channel_->Reply(seq, Truth(0, 8)));
  }
  void ExpectTruth(Buffer* buffer, Io* io) {
    EXPECT_EQ(4096, Await(io).result);
    EXPECT_EQ(Truth(0, 8), buffer->Copy());
  }
  Bytes Truth(uint64_t sector, uint64_t sectors) const {
    return Bytes(
        truth_.begin() + static_cast<ptrdiff_t>(sector * 512),
        truth_.begin() + static_cast<ptrdiff_t>((sector + sectors) * 512));
  }
  std::string ram_;
  const Bytes& truth_ = MakeTruth();
  // They outlive the device above them.
  MappedDevice slow_{"slow"}, below_{"below"};
  std::unique_ptr<Channel> below_channel_;
  MappedDevice device_{"race"};
  std::unique_ptr<Channel> channel_;
};

TEST_F(RedirectRace, RevokeWaitsForWhatIsInFlight) {
  OpenOverTheUnanswered();
  Buffer buffer(4096), other(4096);
  Io io;
  const uint64_t seq = StartRedirected(&buffer, &io);
  // Gone from the map at once, but not to be written to.
  EXPECT_EQ(ETIMEDOUT, Revoke(channel_.get(), 0, 8, 0));
  EXPECT_EQ(ETIMEDOUT, Revoke(channel_.get(), 0, 8, 20));
  EXPECT_EQ("8+16376 0@8", Extents(channel_.get()).at(0));
  Io later = StartRead(device_, 0, &other);
  WireRequest request;
  ASSERT_TRUE(channel_->Next(&request)) << "the daemon has it";
  // Any revoke waits, also one that finds nothing to take.
  std::future<int> revoke = std::async(
      std::launch::async, [&] { return Revoke(channel_.get(), 0, 8); });
  EXPECT_EQ(std::future_status::timeout,
            revoke.wait_for(std::chrono::milliseconds(100)));
  AnswerBelow(seq);
  EXPECT_EQ(0, revoke.get());
  ExpectTruth(&buffer, &io);
  ASSERT_TRUE(channel_->Reply(request.header.seq, Truth(0, 8)));
  ExpectTruth(&other, &later);
}

TEST_F(RedirectRace, WhatARevokeDidNotWaitForTheNextDoes) {
  for (const bool first_ends_first : {true, false}) {
    OpenOverTheUnanswered();
    Buffer first(4096), second(4096);
    Io first_io, second_io;
    const uint64_t first_seq = StartRedirected(&first, &first_io);
    EXPECT_EQ(ETIMEDOUT, Revoke(channel_.get(), 8000, 8, 0));
    // Counted in the other epoch: both have to become empty.
    const uint64_t second_seq = StartRedirected(&second, &second_io);
    EXPECT_EQ(ETIMEDOUT, Revoke(channel_.get(), 0, 8, 0));
    AnswerBelow(first_ends_first ? first_seq : second_seq);
    EXPECT_EQ(ETIMEDOUT, Revoke(channel_.get(), 0, 8, 50));
    AnswerBelow(first_ends_first ? second_seq : first_seq);
    EXPECT_EQ(0, Revoke(channel_.get(), 0, 8));
    ExpectTruth(&first, &first_io);
    ExpectTruth(&second, &second_io);
    // Nothing is left behind: this one has nothing to wait for.
    EXPECT_EQ(0, Revoke(channel_.get(), 0, 8, 0));
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(0, below_.Remove());
  }
}

TEST_F(RedirectRace, RevokeDoesNotWaitForOthersThatComeLater) {
  ASSERT_EQ(0, slow_.Create({{0, kDeviceSectors, "delay", ram_ + " 0 5"}}));
  Open(slow_.block_path());
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, kDeviceSectors, 0, 0)}));
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&, i] {
      const int fd =
          open(device_.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
      Buffer buffer(4096);
      while (!stop) {
        if (pread(fd, buffer.data(), 4096, 1 << (20 + i % 2)) != 4096) break;
      }
      close(fd);
    });
  }
  while (device_.StatusNumber(kRedirected) < 20) {
  }
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(0, Revoke(channel_.get(), i * 8, 8, 10000)) << i;
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

TEST_F(RedirectRace, RevokeCanBeKilled) {
  OpenOverTheUnanswered();
  Buffer buffer(4096);
  Io io;
  const uint64_t seq = StartRedirected(&buffer, &io);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    RevokeAll(channel_.get());
    _exit(0);
  }
  ASSERT_TRUE(device_.AwaitStatus(kExtents, "0"));
  kill(child, SIGKILL);
  int status = 0;
  EXPECT_EQ(child, waitpid(child, &status, 0));
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 0));
  AnswerBelow(seq);
  EXPECT_EQ(0, RevokeAll(channel_.get()));
  ExpectTruth(&buffer, &io);
}

// The merge's way, over and over: revoke, write what nobody may see, write the
// truth again, add. `add` and `revoke` are for [first, first + 64).
TEST_F(RedirectRace, StormOfReads) {
  for (const int delay_ms : {0, 10}) {
    if (delay_ms != 0) {
      ASSERT_EQ(0,
                slow_.Create({{0, kDeviceSectors, "delay", ram_ + " 0 10"}}));
    }
    Open(delay_ms != 0 ? slow_.block_path() : ram_);
    RamServer server("race", truth_.size(), truth_.data());
    ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 1024, 0, 0)}));
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> reads{0}, bad{0};
    std::vector<std::thread> readers;
    for (uint32_t seed = 1; seed <= 3; ++seed) {
      readers.emplace_back([&, seed] {
        const int fd =
            open(device_.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
        Buffer buffer(64 * 512);
        for (uint32_t x = seed; !stop; ++reads) {
          x = x * 1664525u + 1013904223u;
          const uint64_t sector = (x >> 8) % 1024;
          const size_t bytes = (1 + (x >> 24) % 64) * 512;
          if (pread(fd, buffer.data(), bytes, off_t(sector * 512)) !=
                  ssize_t(bytes) ||
              memcmp(buffer.data(), truth_.data() + sector * 512, bytes) != 0) {
            ++bad;
          }
        }
        close(fd);
      });
    }
    const auto end = Clock::now() + std::chrono::seconds(g_storm_seconds);
    uint64_t rounds = 0;
    for (; (Clock::now() < end || rounds < 8) && bad == 0; ++rounds) {
      const uint64_t first = rounds * 40 % 960;
      ASSERT_EQ(0, Revoke(channel_.get(), first, 64, 10000));
      ASSERT_TRUE(WriteDevice(ram_, first, Bytes(64 * 512, kPoison)));
      // Those that were under way have time to meet it.
      for (const uint64_t before = reads; reads < before + 6 && bad == 0;) {
        std::this_thread::yield();
      }
      ASSERT_TRUE(WriteDevice(ram_, first, Truth(first, 64)));
      ASSERT_EQ(0, Add(channel_.get(), {Extent(first, 64, 0, first)}));
    }
    stop = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(0u, bad) << "in " << reads << " reads, " << rounds << " rounds";
    EXPECT_LT(0u, device_.StatusNumber(kServed)) << "none met a revoked range";
    EXPECT_EQ("1", device_.StatusField(kExtents)) << "it is one again";
    EXPECT_EQ("0", device_.StatusField(kErrors));
    EXPECT_EQ(0, device_.RemoveForced());
  }
}

// Everything at once: reads and writes through extents and through the daemon,
// adds, revokes, suspends with and without flush, reloads to the other device,
// daemons that die.
TEST_F(RedirectRace, StormOfEverything) {
  const std::string rams[2] = {ram_, RamDisk(1)};
  // The server is synchronous: what it has begun ends before it does.
  const std::string more = "orphan_ms forever unfenced requeue";
  Open(ram_, more);
  const auto serve = [&] {
    return std::make_unique<RamServer>("race", truth_.size(), truth_.data());
  };
  std::unique_ptr<RamServer> server = serve();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> done{0}, bad{0};
  std::vector<std::thread> clients;
  // Only the truth is ever written, so both places have it.
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    clients.emplace_back([&, seed] {
      const int fd =
          open(device_.block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
      Buffer buffer(64 * 512);
      for (uint32_t x = seed; !stop; ++done) {
        x = x * 1664525u + 1013904223u;
        const off_t offset = off_t((x >> 8) % 2048) * 512;
        const size_t bytes = (1 + (x >> 24) % 64) * 512;
        if (seed == 3) {
          memcpy(buffer.data(), truth_.data() + offset, bytes);
          bad += pwrite(fd, buffer.data(), bytes, offset) != ssize_t(bytes);
          bad += x % 64 == 0 && fsync(fd) != 0;
        } else {
          bad += pread(fd, buffer.data(), bytes, offset) != ssize_t(bytes) ||
                 memcmp(buffer.data(), truth_.data() + offset, bytes) != 0;
        }
      }
      close(fd);
    });
  }
  const auto end = Clock::now() + std::chrono::seconds(g_storm_seconds);
  int rounds = 0;
  // As many rounds as meet every kind of them, however slow the machine is.
  for (; (Clock::now() < end || rounds < 24) && bad == 0; ++rounds) {
    const uint64_t first = static_cast<uint64_t>(rounds) * 104 % 1920;
    // Overlaps what is there now and then.
    const int added =
        Add(channel_.get(), {Extent(first, 56, 0, first, rounds % 2),
                             Extent(first + 56, 8, 0, first + 56, 0)});
    ASSERT_TRUE(added == 0 || added == EEXIST || added == ENOSPC) << added;
    if (rounds % 3 == 0) {
      ASSERT_EQ(0, Revoke(channel_.get(), first + 16, 900, 10000));
    }
    if (rounds % 7 == 0) {
      ASSERT_EQ(0,
                device_.Load({UserLine(
                    "race", RedirectWords(64, {rams[rounds / 7 % 2]}, more))}));
    }
    if (rounds % 5 == 0 || rounds % 7 == 0) {
      ASSERT_EQ(0, device_.Suspend(/*noflush=*/rounds % 2 == 0));
      ASSERT_EQ(0, device_.Resume());
    }
    if (rounds % 11 == 0) {
      server.reset();
      server = serve();
    }
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(0u, bad) << "of " << done << ", " << rounds << " rounds";
  EXPECT_EQ("0", device_.StatusField(kErrors));
  EXPECT_LT(0u, device_.StatusNumber(kRedirected));
  EXPECT_LT(0u, device_.StatusNumber(kServed));
}

TEST_F(RedirectRace, SuspendWaitsForRedirectedBios) {
  for (const bool noflush : {false, true}) {
    OpenOverTheUnanswered();
    Buffer buffer(4096), other(4096);
    Io io;
    const uint64_t seq = StartRedirected(&buffer, &io);
    std::future<int> suspend = std::async(
        std::launch::async, [&] { return device_.Suspend(noflush); });
    EXPECT_EQ(std::future_status::timeout,
              suspend.wait_for(std::chrono::milliseconds(100)));
    AnswerBelow(seq);
    EXPECT_EQ(0, suspend.get());
    ExpectTruth(&buffer, &io);
    Io held = StartRead(device_, 0, &other);
    EXPECT_EQ(0, below_channel_->Poll(50));
    ASSERT_EQ(0, device_.Resume());
    WireRequest request;
    ASSERT_TRUE(below_channel_->Next(&request))
        << "the extents are still there";
    AnswerBelow(request.header.seq);
    ExpectTruth(&other, &held);
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(0, below_.Remove());
  }
}

// One bio of which the daemon has a part: pushed back, it is cut anew.
TEST_F(RedirectRace, NoflushSuspendOfABioThatWasCut) {
  Open(ram_);
  ASSERT_EQ(0,
            Add(channel_.get(), {Extent(0, 16, 0, 0), Extent(24, 8, 0, 24)}));
  Buffer buffer(64 * 512);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel_->Next(&request));
  EXPECT_EQ(16u, request.header.sector);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, Revoke(channel_.get(), 8, 8));
  ASSERT_EQ(0, device_.Resume());
  for (int parts = 0; !IsReady(&io) && parts < 6; ++parts) {
    if (channel_->Poll(200) != POLLIN) continue;
    ASSERT_TRUE(channel_->Next(&request));
    ASSERT_TRUE(channel_->Reply(
        request.header.seq,
        Truth(request.header.sector, request.header.len / 512)));
  }
  EXPECT_EQ(64 * 512, Await(&io).result);
  EXPECT_EQ(Truth(0, 64), buffer.Copy());
}

// Handed back by the target, a bio belongs to the core until the device
// resumes, also if it is in an extent by now: the core looks at it once more.
TEST_F(RedirectRace, NoflushSuspendKeepsWhatItHandsBack) {
  Open(ram_);
  constexpr int kReads = 64;
  for (int round = 0; round < 60; ++round) {
    std::vector<std::unique_ptr<Buffer>> buffers;
    std::vector<Io> reads;
    for (int i = 0; i < kReads; ++i) {
      buffers.push_back(std::make_unique<Buffer>(4096));
      reads.push_back(StartRead(device_, i * 4096, buffers.back().get()));
    }
    ASSERT_TRUE(device_.AwaitStatus(kQueued, std::to_string(kReads)));
    ASSERT_EQ(0, Add(channel_.get(), {Extent(0, kReads * 8, 0, 0)}));
    const uint64_t before = device_.StatusNumber(kRedirected);
    ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
    EXPECT_EQ(before, device_.StatusNumber(kRedirected)) << round;
    ASSERT_EQ(0, device_.Resume());
    for (int i = 0; i < kReads; ++i) {
      EXPECT_EQ(4096, Await(&reads[i]).result);
      EXPECT_EQ(Truth(uint64_t(i) * 8, 8), buffers[i]->Copy());
    }
    ASSERT_EQ(0, Revoke(channel_.get(), 0, kReads * 8));
  }
}

TEST_F(RedirectRace, RemovalEndsWithBiosInFlight) {
  OpenOverTheUnanswered();
  Buffer buffer(4096);
  Io io;
  const uint64_t seq = StartRedirected(&buffer, &io);
  std::future<int> removal =
      std::async(std::launch::async, [&] { return device_.RemoveForced(); });
  // Its target goes while it waits.
  std::future<int> revoke =
      std::async(std::launch::async, [&] { return RevokeAll(channel_.get()); });
  EXPECT_EQ(std::future_status::timeout,
            removal.wait_for(std::chrono::milliseconds(100)));
  AnswerBelow(seq);
  EXPECT_EQ(0, removal.get());
  const int revoked = revoke.get();
  EXPECT_TRUE(revoked == 0 || revoked == ENOTBLK) << revoked;
  ExpectTruth(&buffer, &io);
  EXPECT_EQ(0, below_.Remove()) << "the device is let go";
}

}  // namespace
}  // namespace dmu
