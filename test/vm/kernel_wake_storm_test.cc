// SPDX-License-Identifier: Apache-2.0
//
// Goal: no wake-up is lost, whoever waits in whatever way and leaves for
// whatever reason while a request comes.
// Method: rounds. In each, some submitters send one write and read it back, at
// the same time as waiters are made to leave by signals and by their other
// file; some of those stay away until the round is over. Then nothing more is
// done to anybody: a request whose wake-up went with one who left is never
// answered, and the round never ends.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
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

constexpr size_t kIoBytes = 4096;
constexpr size_t kSubmitters = 4;
constexpr uint64_t kModes = DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_FENCED;
constexpr auto kBound = std::chrono::seconds(20);

enum class Kind { kRead, kPoll, kBatch, kWake, kUring };

struct Place {
  Kind kind;
  size_t channel;  // by whose file it waits
  // What it takes it answers when all else of the round has been answered.
  bool last = false;
};

// Who is where: submitters and waiters meet here.
class Rounds {
 public:
  // A new round for `active` submitters.
  void Begin(size_t active) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++round_;
    active_ = active;
    done_ = 0;
    changed_.notify_all();
  }
  // False if some I/O is not answered in time.
  bool AwaitEnd() {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool ended =
        changed_.wait_for(lock, kBound, [&] { return done_ == active_; });
    over_ = round_;
    changed_.notify_all();
    return ended;
  }
  // A submitter's: 0 when all is over.
  uint32_t AwaitRound(size_t submitter, uint32_t last) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(
        lock, [&] { return stop_ || (round_ != last && submitter < active_); });
    return stop_ ? 0 : round_;
  }
  void Done() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++done_;
    changed_.notify_all();
  }
  // All I/O of the round but `count` has been answered. False: not in time.
  bool AwaitAllBut(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, kBound / 2,
                             [&] { return stop_ || done_ + count >= active_; });
  }
  // A waiter leaves until the round is over; never the last one.
  void StayAway(size_t waiters) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (stop_ || over_ == round_ || away_ + 1 >= waiters) return;
    ++away_;
    const uint32_t mine = round_;
    changed_.wait(lock, [&] { return stop_ || over_ >= mine; });
    --away_;
  }
  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint32_t round_ = 0, over_ = 0;
  size_t active_ = 0, done_ = 0, away_ = 0;
  bool stop_ = false;
};

class WaitStorm : public testing::Test {
 protected:
  void SetUp() override {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    ASSERT_EQ(0, sigaction(SIGUSR1, &action, &before_));
    ASSERT_EQ(0, device_.CreateUser());
  }
  void TearDown() override {
    rounds_.Stop();
    // What hangs, if anything does, ends with the table; so do those who wait.
    EXPECT_EQ(0, device_.RemoveForced());
    for (std::thread& thread : threads_) thread.join();
    for (const auto& waiter : waiters_) close(waiter->event);
    sigaction(SIGUSR1, &before_, nullptr);
    EXPECT_EQ(0, wrong_);
  }

  struct Waiter {
    Place place;
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_t thread = {};
    std::minstd_rand random;
  };

  void Start(const std::vector<Place>& places, uint64_t modes = kModes) {
    for (const Place& place : places) {
      while (channels_.size() <= place.channel) {
        channels_.push_back(std::make_unique<Channel>("storm"));
        ASSERT_EQ(0, channels_.back()->SetFlags(modes));
      }
      auto waiter = std::make_unique<Waiter>();
      waiter->place = place;
      waiter->random.seed(static_cast<unsigned>(waiters_.size() + 1));
      waiters_.push_back(std::move(waiter));
    }
    for (const auto& waiter : waiters_) {
      threads_.emplace_back([this, w = waiter.get()] { Serve(w); });
      waiter->thread = threads_.back().native_handle();
    }
    for (size_t i = 0; i < kSubmitters; ++i) {
      threads_.emplace_back([this, i] { Submit(i); });
    }
  }

  // `only_files`: nobody gets a signal.
  void Run(int rounds, bool only_files) {
    std::minstd_rand random(7);
    for (int i = 0; i < rounds; ++i) {
      // One at a time is what shows a loss best: no other brings a wake-up.
      rounds_.Begin(i % 3 == 0 ? 1 + random() % kSubmitters : 1);
      for (auto n = random() % 6; n > 0; --n) {
        Waiter* waiter = waiters_[random() % waiters_.size()].get();
        if (only_files || (waiter->place.kind == Kind::kWake && n % 2)) {
          eventfd_write(waiter->event, 1);
        } else {
          pthread_kill(waiter->thread, SIGUSR1);
        }
        if (random() % 2) std::this_thread::yield();
      }
      ASSERT_TRUE(rounds_.AwaitEnd())
          << "round " << i << " hangs: " << device_.Status();
    }
    printf("%d times a waiter left, %d served\n", left_.load(), served_.load());
  }
  // Nobody leaves; two requests come at the same time.
  void RunPairs(int rounds) {
    for (int i = 0; i < rounds; ++i) {
      rounds_.Begin(2);
      ASSERT_TRUE(rounds_.AwaitEnd())
          << "round " << i << " hangs: " << device_.Status();
      ASSERT_EQ(0, wrong_) << "round " << i;
    }
  }

 private:
  void Submit(size_t index) {
    const int fd =
        open(device_.block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    Buffer out(kIoBytes), in(kIoBytes);
    const auto at = static_cast<off_t>(index * kIoBytes);
    uint32_t round = 0;
    while ((round = rounds_.AwaitRound(index, round)) != 0) {
      out.FillPattern(round * 5 + static_cast<uint32_t>(index));
      wrong_ += pwrite(fd, out.data(), kIoBytes, at) != kIoBytes ||
                pread(fd, in.data(), kIoBytes, at) != kIoBytes ||
                memcmp(out.data(), in.data(), kIoBytes) != 0;
      rounds_.Done();
    }
    close(fd);
  }

  // One wait. Bytes in `to`; or -EINTR: to leave.
  ssize_t Wait(Waiter* waiter, Uring* ring, Bytes* to) {
    Channel* channel = channels_[waiter->place.channel].get();
    switch (waiter->place.kind) {
      case Kind::kRead: {
        const ssize_t got = read(channel->fd(), to->data(), to->size());
        return got < 0 ? -errno : got;
      }
      case Kind::kPoll: {
        pollfd input = {channel->fd(), POLLIN, 0};
        if (poll(&input, 1, -1) < 0) return -errno;
        return Batch(channel, to, 0, -1);
      }
      case Kind::kBatch:
        return Batch(channel, to, UINT32_MAX, -1);
      case Kind::kWake: {
        const ssize_t got = Batch(channel, to, UINT32_MAX, waiter->event);
        eventfd_t count = 0;
        if (got == 0) {
          wrong_ += eventfd_read(waiter->event, &count) != 0;
          return -EINTR;
        }
        return got;
      }
      case Kind::kUring:
        return WaitInRing(channel, ring, to);
    }
    return -EINVAL;
  }
  static ssize_t Batch(Channel* channel, Bytes* to, uint32_t timeout_ms,
                       int wake_fd) {
    dm_user_batch batch = {};
    batch.requests = reinterpret_cast<uintptr_t>(to->data());
    batch.requests_bytes = static_cast<uint32_t>(to->size());
    batch.timeout_ms = timeout_ms;
    if (wake_fd >= 0) {
      batch.flags = DM_USER_BATCH_WAKE;
      batch.wake_fd = wake_fd;
    }
    if (ioctl(channel->fd(), DM_USER_IOC_BATCH, &batch) != 0) return -errno;
    return batch.given_bytes;
  }
  // A signal makes it stop the channel, which brings the command back, empty or
  // with a request that came first.
  static ssize_t WaitInRing(Channel* channel, Uring* ring, Bytes* to) {
    channel->SetFlags(kModes);
    UringBatch fetch(static_cast<uint32_t>(to->size()));
    if (!ring->Submit(channel->fd(), &fetch)) return -EIO;
    while (!ring->IsDone(&fetch)) {
      io_uring_cqe* completion = nullptr;
      if (io_uring_wait_cqe(ring->ring(), &completion) == -EINTR) {
        channel->SetFlags(kModes | DM_USER_CHANNEL_STOPPED);
      }
    }
    const int result = ring->Await(&fetch);
    if (result > 0) {
      std::copy(fetch.requests.begin(), fetch.requests.begin() + result,
                to->begin());
    }
    return result == -ESHUTDOWN || result == -ECANCELED ? -EINTR : result;
  }

  void Serve(Waiter* waiter) {
    Channel* channel = channels_[waiter->place.channel].get();
    std::unique_ptr<Uring> ring;
    if (waiter->place.kind == Kind::kUring) ring = std::make_unique<Uring>();
    // Room for one write, and not for a second behind it.
    Bytes in(sizeof(WireHeader) + kIoBytes + 1000);
    for (;;) {
      const ssize_t got = Wait(waiter, ring.get(), &in);
      if (got == -ENOTBLK) return;
      if (got == -EINTR) {
        ++left_;
        if (waiter->random() % 2) rounds_.StayAway(waiters_.size());
        continue;
      }
      if (got == -EAGAIN || got == 0) continue;
      if (got < 0) {
        printf("kind %d: error %zd\n", static_cast<int>(waiter->place.kind),
               got);
        ++wrong_;
        return;
      }
      const Bytes messages(in.begin(), in.begin() + got);
      if (waiter->place.last &&
          !rounds_.AwaitAllBut(ParseMessages(messages).size())) {
        printf("a request waits although somebody waits for it: %s\n",
               device_.Status().c_str());
        ++wrong_;
      }
      const Bytes out = Answers(messages);
      size_t written = 0;
      while (written < out.size()) {
        const ssize_t n =
            write(channel->fd(), out.data() + written, out.size() - written);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == ENOTBLK) return;
        if (n <= 0) {
          ++wrong_;
          return;
        }
        written += static_cast<size_t>(n);
      }
    }
  }
  Bytes Answers(const Bytes& messages) {
    Bytes out;
    for (const WireRequest& request : ParseMessages(messages)) {
      const WireHeader& h = request.header;
      const size_t at = h.sector * 512;
      ++served_;
      if (at + h.len > disk_.size()) {
        // Who looks at the device, for a table of partitions.
        AppendReply(&out, h.seq, DM_USER_RESP_SUCCESS,
                    h.type == DM_USER_REQ_MAP_READ ? Bytes(h.len) : Bytes());
      } else if (h.type == DM_USER_REQ_MAP_READ) {
        const auto data = disk_.begin() + static_cast<ptrdiff_t>(at);
        AppendReply(&out, h.seq, DM_USER_RESP_SUCCESS,
                    Bytes(data, data + static_cast<ptrdiff_t>(h.len)));
      } else {
        std::copy(request.payload.begin(), request.payload.end(),
                  disk_.begin() + static_cast<ptrdiff_t>(at));
        AppendReply(&out, h.seq, DM_USER_RESP_SUCCESS);
      }
    }
    return out;
  }

  MappedDevice device_{"storm"};
  struct sigaction before_ = {};
  Rounds rounds_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::unique_ptr<Waiter>> waiters_;
  std::vector<std::thread> threads_;
  // Each submitter has a part of its own.
  Bytes disk_ = Bytes(kSubmitters * kIoBytes);
  std::atomic<int> wrong_{0}, left_{0}, served_{0};
};

// Two channels, two threads on each, each with a file of its own.
TEST_F(WaitStorm, FilesTakeNoRequestsWakeUp) {
  Start(
      {{Kind::kWake, 0}, {Kind::kWake, 0}, {Kind::kWake, 1}, {Kind::kWake, 1}});
  Run(500, /*only_files=*/true);
}

TEST_F(WaitStorm, FilesAndSignals) {
  Start({{Kind::kWake, 0}, {Kind::kWake, 0}, {Kind::kWake, 1}});
  Run(500, /*only_files=*/false);
}

TEST_F(WaitStorm, EveryWayToWait) {
  Start({{Kind::kRead, 0},
         {Kind::kPoll, 1},
         {Kind::kBatch, 2},
         {Kind::kWake, 3},
         {Kind::kUring, 4},
         {Kind::kUring, 5},
         {Kind::kRead, 2},
         {Kind::kWake, 0}});
  Run(500, /*only_files=*/false);
}

// What does not fit behind another message is for who waits, although its
// wake-up came while the first held it in its hands.
TEST_F(WaitStorm, WhatDoesNotFitIsNotKept) {
  Start({{Kind::kPoll, 0, /*last=*/true}, {Kind::kBatch, 1}});
  RunPairs(500);
}

}  // namespace
}  // namespace dmu
