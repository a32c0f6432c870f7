// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever way a request takes to the data - through the daemon's hands,
// by its answer, past it by an extent - and whatever happens meanwhile, each
// read gives what was written last, and nothing is written where it should not.
// Method: clients that know what their sectors hold, on one copy of the data;
// extents that come and go, suspends, tables with the devices the other way
// round, daemons that die with requests in their hands.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/remap.h"

namespace dmu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kClients = 8, kClientSectors = 256;
constexpr uint64_t kSectors = kClients * kClientSectors;
// Extents are below it. What the daemon writes by its own hand is above: a
// suspend may take such a write from it half way, and then it must not pass it
// by.
constexpr uint64_t kExtentsEnd = kSectors / 2;
// Where the data is on the device: the device's sector less the request's.
constexpr uint64_t kShift = 1001;
constexpr char kTable[] = "orphan_ms forever";

class RemapRace : public RemapFixture {
 protected:
  void Begin(const std::string& device) {
    data_path_ = device;
    data_fd_ = open(device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    ASSERT_GE(data_fd_, 0);
    ASSERT_EQ(0, device_.CreateUser(Words(index_)));
    Serve();
  }
  // The table with the data on the device of that index.
  std::string Words(uint32_t index) const {
    return RedirectWords(64,
                         index == 0
                             ? std::vector<std::string>{data_path_, ram_[1]}
                             : std::vector<std::string>{ram_[1], data_path_},
                         kTable);
  }
  void Serve() {
    channel_ = std::make_unique<Channel>("remap");
    ASSERT_EQ(0, channel_->SetFlags(kRemapFlags | DM_USER_CHANNEL_FENCED |
                                        DM_USER_CHANNEL_COALESCE,
                                    64 << 10));
    server_ = std::make_unique<RemapServer>(
        channel_.get(), [this](const WireHeader& h) { return Decide(h); });
  }
  // With requests in its hands, if there are any.
  void Die() {
    server_.reset();
    Headers in(16);
    Exchange(channel_.get(), nullptr, 0, in.data(), in.size() * kHeaderBytes);
    channel_.reset();
  }
  // The daemon: by hand or by remap. In the server's thread.
  WireHeader Decide(const WireHeader& h) {
    if (h.len == 0) return Answer(h.seq);
    const bool write = h.type == DM_USER_REQ_MAP_WRITE;
    if (++decided_ % 4 != 0 || (write && h.sector < kExtentsEnd)) {
      return RemapTo(h.seq, index_, h.sector + kShift);
    }
    dm_user_copy copy = {};
    copy.seq = h.seq;
    copy.buffer = reinterpret_cast<uintptr_t>(hand_.data());
    copy.bytes = static_cast<uint32_t>(h.len);
    const auto at = static_cast<off_t>((h.sector + kShift) * 512);
    // It may be taken away at any time; then nobody hears the answer.
    if (write) {
      if (ioctl(channel_->fd(), DM_USER_IOC_COPY, &copy) == ssize_t(h.len)) {
        bad_ += pwrite(data_fd_, hand_.data(), h.len, at) != ssize_t(h.len);
      }
    } else {
      bad_ += pread(data_fd_, hand_.data(), h.len, at) != ssize_t(h.len);
      ioctl(channel_->fd(), DM_USER_IOC_COPY, &copy);
    }
    return Answer(h.seq);
  }
  // Reads and writes its own sectors, and knows what they hold.
  void Client(uint64_t number) {
    const int fd =
        open(device_.block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    Bytes& own = known_[number];
    Buffer buffer(32 * 512);
    auto x = static_cast<uint32_t>(number + 1);
    for (; !stop_ && bad_ == 0; ++done_) {
      x = x * 1664525u + 1013904223u;
      const uint64_t sectors = 1 + (x >> 24) % 32;
      const uint64_t first = (x >> 8) % (kClientSectors - sectors);
      const size_t bytes = sectors * 512;
      const auto at =
          static_cast<off_t>((number * kClientSectors + first) * 512);
      uint8_t* mine = own.data() + first * 512;
      if (x & 1) {
        buffer.FillPattern(x);
        memcpy(mine, buffer.data(), bytes);
        bad_ += pwrite(fd, buffer.data(), bytes, at) != ssize_t(bytes);
        bad_ += x % 64 == 1 && fsync(fd) != 0;
      } else {
        bad_ += pread(fd, buffer.data(), bytes, at) != ssize_t(bytes) ||
                memcmp(buffer.data(), mine, bytes) != 0;
      }
    }
    close(fd);
  }
  // One thing of each kind that a round has.
  void Round(uint64_t round) {
    const uint64_t first = round * 104 % (kExtentsEnd - 64);
    const uint32_t index = index_;
    const int added = Add(channel_.get(),
                          {Extent(first, 56, index, first + kShift, round % 2),
                           Extent(first + 56, 8, index, first + 56 + kShift)});
    ASSERT_TRUE(added == 0 || added == EEXIST || added == ENOSPC) << added;
    if (round % 3 == 0) {
      ASSERT_EQ(0, Revoke(channel_.get(), first + 16, 500, 10000));
    }
    const bool turns = round % 7 == 0;
    if (turns) {
      ASSERT_EQ(0, device_.Load({UserLine("remap", Words(1 - index))}));
    }
    if (turns || round % 5 == 0) {
      ASSERT_EQ(0, device_.Suspend(/*noflush=*/round % 2 == 0));
      // Nobody has a request of the old table.
      if (turns) index_ = 1 - index;
      ASSERT_EQ(0, device_.Resume());
    }
    if (round % 11 == 0) {
      Die();
      Serve();
    }
  }
  void Storm(const std::string& device) {
    index_ = 0;
    stop_ = false;
    done_ = 0;
    known_.assign(kClients, {});
    Begin(device);
    Buffer all(kSectors * 512);
    ASSERT_EQ(ssize_t(all.size()),
              pread(data_fd_, all.data(), all.size(), off_t(kShift * 512)));
    for (uint64_t i = 0; i < kClients; ++i) {
      const uint8_t* at = all.data() + i * kClientSectors * 512;
      known_[i].assign(at, at + kClientSectors * 512);
    }
    std::vector<std::thread> clients;
    for (uint64_t i = 0; i < kClients; ++i) {
      clients.emplace_back([this, i] { Client(i); });
    }
    const auto end = Clock::now() + std::chrono::seconds(g_storm_seconds) / 2;
    uint64_t rounds = 0;
    // As many as meet every kind of round, however slow the machine is.
    for (;
         (Clock::now() < end || rounds < 24) && bad_ == 0 && !HasFatalFailure();
         ++rounds) {
      Round(rounds);
      for (const uint64_t before = done_; done_ < before + 8 && bad_ == 0;) {
        std::this_thread::yield();
      }
    }
    stop_ = true;
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(0u, bad_) << "of " << done_ << ", " << rounds << " rounds";
    EXPECT_EQ("0", device_.StatusField(kErrors));
    EXPECT_LT(0u, device_.StatusNumber(kRemapped));
    EXPECT_EQ(0, RevokeAll(channel_.get(), 10000));
    ExpectIdle();
    server_.reset();
    channel_.reset();
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(ssize_t(all.size()),
              pread(data_fd_, all.data(), all.size(), off_t(kShift * 512)));
    close(data_fd_);
    for (uint64_t i = 0; i < kClients; ++i) {
      EXPECT_EQ(0, memcmp(all.data() + i * kClientSectors * 512,
                          known_[i].data(), known_[i].size()))
          << i;
    }
    EXPECT_TRUE(Whole(1) == ReadDevice(ram_[1], 0, Whole(1).size()))
        << "a write went to the other device";
  }

  std::string data_path_;
  int data_fd_ = -1;
  std::atomic<uint32_t> index_{0};  // of the device that has the data
  std::unique_ptr<RemapServer> server_;
  uint64_t decided_ = 0;
  Buffer hand_{128 << 10};
  std::vector<Bytes> known_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0}, bad_{0};
};

TEST_F(RemapRace, Storm) { Storm(ram_[0]); }

// Many bios come back for want of room, and go by the worker.
TEST_F(RemapRace, StormOverFewTags) {
  FewTags few(ram_[0]);
  ASSERT_NE("", few.partition());
  Storm(few.partition());
}

}  // namespace
}  // namespace dmu
