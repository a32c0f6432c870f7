// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the daemon's promise to be fenced stands on. A write that a killed
// server has under way in an io_uring lands before the disk can be claimed
// again, by whoever takes over; and before its request is given back, when the
// channel is in the ring's table of files. Without the latter it is given back
// at once, so these tests can tell.
// Method: a disk whose writes take a second, a server that dies with one under
// way, and the kernel's own count of what was given back.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

constexpr int kDelayMs = 1000;
constexpr size_t kBytes = 4096;

using Clock = std::chrono::steady_clock;

int64_t MsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() -
                                                               start)
      .count();
}

struct How {
  bool registered = false;  // the channel is in the ring's table
  bool zeroes = false;      // fallocate, which a worker of the kernel's does
};

class Fence : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, slow_.Create({{0, kDeviceSectors, "delay",
                                "/dev/ram0 0 0 /dev/ram0 0 " +
                                    std::to_string(kDelayMs)}}));
    ASSERT_EQ(0, device_.CreateUser("2 orphan_ms forever"));
    ram_ = open("/dev/ram0", O_RDWR | O_DIRECT | O_CLOEXEC);
    ASSERT_GE(ram_, 0);
    ASSERT_EQ(ssize_t{kBytes}, pwrite(ram_, before_.data(), kBytes, 0));
  }
  void TearDown() override { close(ram_); }

  // The server: sends one write on to the slow disk and dies, at once.
  void Serve(const How& how) {
    const int disk =
        open(slow_.block_path().c_str(), O_RDWR | O_DIRECT | O_EXCL);
    Channel channel(device_.name());
    io_uring ring;
    const int fd = channel.fd();
    WireRequest request;
    if (disk < 0 || channel.SetFlags(DM_USER_CHANNEL_FENCED) != 0 ||
        io_uring_queue_init(4, &ring, 0) != 0 ||
        (how.registered && io_uring_register_files(&ring, &fd, 1) != 0) ||
        !channel.Next(&request)) {
      _exit(1);
    }
    Buffer data(kBytes);
    memcpy(data.data(), request.payload.data(), kBytes);
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    io_uring_prep_write(entry, disk, data.data(), kBytes, 0);
    if (how.zeroes) {
      io_uring_prep_fallocate(
          entry, disk, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, kBytes);
    }
    if (io_uring_submit(&ring) != 1) _exit(1);
    // A worker that has not begun gives up at the kill, which is right too;
    // that it has cannot be seen from here.
    if (how.zeroes) usleep(kDelayMs * 1000 / 4);
    raise(SIGKILL);
  }

  bool Landed() {
    Buffer now(kBytes);
    EXPECT_EQ(ssize_t{kBytes}, pread(ram_, now.data(), kBytes, 0));
    return now.Copy() != before_.Copy();
  }

  // Kills a server with a write under way and sees what comes in which order.
  void Run(const How& how) {
    Buffer data(kBytes);
    data.FillPattern(7);
    Io write = StartWrite(device_, 0, &data);
    const Clock::time_point start = Clock::now();
    const pid_t server = fork();
    ASSERT_GE(server, 0);
    if (server == 0) Serve(how);
    int status = 0;
    ASSERT_EQ(server, waitpid(server, &status, 0));
    ASSERT_TRUE(WIFSIGNALED(status));
    const int64_t died_ms = MsSince(start);
    int64_t given_back_ms = -1, claimed_ms = -1;
    while (given_back_ms < 0 || claimed_ms < 0) {
      ASSERT_LT(MsSince(start), 10 * kDelayMs);
      if (given_back_ms < 0 && device_.StatusNumber(kGivenBack) > 0) {
        given_back_ms = MsSince(start);
        landed_when_given_back_ = Landed();
      }
      if (claimed_ms < 0) {
        const int fd = open(slow_.block_path().c_str(), O_RDWR | O_EXCL);
        if (fd >= 0) {
          claimed_ms = MsSince(start);
          landed_when_claimed_ = Landed();
          close(fd);
        }
      }
    }
    fprintf(
        stderr,
        "died after %lld ms, given back after %lld ms (%slanded), claimed "
        "after %lld ms (%slanded)\n",
        static_cast<long long>(died_ms), static_cast<long long>(given_back_ms),
        landed_when_given_back_ ? "" : "not ",
        static_cast<long long>(claimed_ms), landed_when_claimed_ ? "" : "not ");
    Channel next(device_.name());
    WireRequest request;
    ASSERT_TRUE(next.Next(&request));
    ASSERT_TRUE(next.Reply(request.header.seq));
    EXPECT_EQ(int64_t{kBytes}, Await(&write).result);
  }

  MappedDevice slow_{"slow"};
  MappedDevice device_{"fence"};
  int ram_ = -1;
  Buffer before_{kBytes, 0x55};  // what the write replaces
  bool landed_when_given_back_ = false;
  bool landed_when_claimed_ = false;
};

TEST_F(Fence, WithoutATableItIsGivenBackTooEarlyButTheDiskIsNotFree) {
  Run({});
  EXPECT_FALSE(landed_when_given_back_) << "then nothing here needs a test";
  EXPECT_TRUE(landed_when_claimed_);
}

TEST_F(Fence, AChannelInTheTableIsReleasedWhenAllHasLanded) {
  Run({.registered = true});
  EXPECT_TRUE(landed_when_given_back_);
  EXPECT_TRUE(landed_when_claimed_);
}

TEST_F(Fence, WhatAWorkerDoesIsWaitedForByTheDyingProcess) {
  Run({.zeroes = true});
  EXPECT_TRUE(landed_when_given_back_);
  EXPECT_TRUE(landed_when_claimed_);
}

// Up to a second on Linux 6.1: why the daemon, which opens channels anew when
// an answer went wrong and lets go of them when told to, does not use the
// table.
TEST_F(Fence, AChannelThatIsTakenOutOfTheTableIsReleased) {
  io_uring ring;
  ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
  Channel channel(device_.name());
  const int fd = channel.fd();
  ASSERT_EQ(0, io_uring_register_files(&ring, &fd, 1));
  const Clock::time_point start = Clock::now();
  int none = -1;
  ASSERT_EQ(1, io_uring_register_files_update(&ring, 0, &none, 1));
  channel.Close();
  EXPECT_TRUE(device_.AwaitStatus(kChannels, "0"));
  fprintf(stderr, "released after %lld ms\n",
          static_cast<long long>(MsSince(start)));
  io_uring_queue_exit(&ring);
}

}  // namespace
}  // namespace dmu
