// SPDX-License-Identifier: Apache-2.0
//
// Goal: a remapped bio that is on its way is waited for by a revoke, a suspend
// and a reload, outlives the daemon that sent it, ends once and with what its
// device says; and the daemon's call never waits for a device.
// Method: a linear device below that is suspended, so that what is sent there
// stays; and a device with few tags, all of them held until the test lets go.
// Everything is awaited by event.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "test/vm/remap.h"

namespace dmu {
namespace {

class RemapFlight : public RemapFixture {
 protected:
  // Device 0 is below_, over the first RAM disk; device 1 the second.
  void OpenOverBelow(const std::string& target = "linear",
                     const std::string& more = "") {
    const std::string delay = target == "delay" ? " 0" : "";
    ASSERT_EQ(0, below_.Create(
                     {{0, kDeviceSectors, target, ram_[0] + " 0" + delay}}));
    Open(RedirectWords(16, {below_.block_path(), ram_[1]}, more));
  }
  // A read that is held below; it is over for the daemon.
  Pending* HoldRead(uint64_t sector = 0) {
    EXPECT_EQ(0, below_.Suspend(/*noflush=*/true));
    Pending* read = Read(sector, 8);
    const Headers got = Take(1);
    Give({RemapTo(got[0].seq, 0, 100)});
    ExpectIdle();
    return read;
  }
  void ExpectHeldRead(Pending* read) { ExpectRead(read, Content(0, 100, 8)); }
};

TEST_F(RemapFlight, RevokeWaits) {
  for (const std::string target : {"linear", "delay"}) {
    SCOPED_TRACE(target);
    OpenOverBelow(target);
    for (const bool write : {false, true}) {
      ASSERT_EQ(0, below_.Suspend(/*noflush=*/true));
      Pending* p = write ? Write(0, 8, 3) : Read(0, 8);
      Headers got = Take(1);
      EXPECT_EQ(0, RevokeAll(channel_.get(), 0)) << "not sent yet";
      Give({RemapTo(got[0].seq, 0, 100)});
      EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 0));
      EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 20));
      // What comes later, and ends, changes nothing.
      Pending* other = Read(8, 8);
      got = Take(1);
      Give({RemapTo(got[0].seq, 1, 9)});
      ExpectRead(other, Content(1, 9, 8));
      EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 0));
      EXPECT_FALSE(p->ready());
      std::future<int> revoke = std::async(
          std::launch::async, [&] { return RevokeAll(channel_.get()); });
      EXPECT_EQ(0, below_.Resume());
      EXPECT_EQ(0, revoke.get());
      EXPECT_EQ(0, RevokeAll(channel_.get(), 0));
      ExpectDone(p);
      if (write) {
        EXPECT_EQ(p->buffer.Copy(), ReadDevice(ram_[0], 100, 4096));
      } else {
        ExpectHeldRead(p);
      }
    }
    ASSERT_TRUE(WriteDevice(ram_[0], 100, Content(0, 100, 8)));
    channel_.reset();
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(0, below_.Remove());
  }
}

TEST_F(RemapFlight, SuspendWaits) {
  for (const bool noflush : {false, true}) {
    OpenOverBelow();
    Pending* read = HoldRead();
    std::future<int> suspend = std::async(
        std::launch::async, [&] { return device_.Suspend(noflush); });
    EXPECT_EQ(std::future_status::timeout,
              suspend.wait_for(std::chrono::milliseconds(100)));
    ASSERT_EQ(0, below_.Resume());
    EXPECT_EQ(0, suspend.get());
    ExpectHeldRead(read);
    EXPECT_EQ("0", device_.StatusField(kPushedBack)) << "it was answered";
    ASSERT_EQ(0, device_.Resume());
    channel_.reset();
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(0, below_.Remove()) << "the device is let go";
  }
}

// Another table, with other devices; the old one's go when it does.
TEST_F(RemapFlight, Reload) {
  OpenOverBelow();
  Pending* held = HoldRead();
  ASSERT_EQ(0, device_.Load({UserLine("remap", RedirectWords(1, {ram_[1]}))}));
  std::future<int> suspend =
      std::async(std::launch::async, [&] { return device_.Suspend(true); });
  ASSERT_EQ(0, below_.Resume());
  ASSERT_EQ(0, suspend.get());
  ASSERT_EQ(0, device_.Resume());
  ExpectHeldRead(held);
  EXPECT_EQ(0, below_.Remove()) << "the device is let go";
  Pending* read = Read(0, 8);
  const Headers got = Take(1);
  Give({RemapTo(got[0].seq, 0, 11)});
  ExpectRead(read, Content(1, 11, 8));
  EXPECT_EQ("2", device_.StatusField(kRemapped)) << "of the name";
}

TEST_F(RemapFlight, Removal) {
  OpenOverBelow();
  Pending* held = HoldRead();
  std::future<int> removal =
      std::async(std::launch::async, [&] { return device_.RemoveForced(); });
  std::future<int> revoke =
      std::async(std::launch::async, [&] { return RevokeAll(channel_.get()); });
  EXPECT_EQ(std::future_status::timeout,
            removal.wait_for(std::chrono::milliseconds(100)));
  ASSERT_EQ(0, below_.Resume());
  EXPECT_EQ(0, removal.get());
  const int revoked = revoke.get();
  EXPECT_TRUE(revoked == 0 || revoked == ENOTBLK) << revoked;
  ExpectHeldRead(held);
  EXPECT_EQ(0, below_.Remove()) << "the device is let go";
}

// The daemon that sent it is gone; the next one does not hear of it.
TEST_F(RemapFlight, TheDaemonDies) {
  OpenOverBelow("linear", "orphan_ms forever unfenced fail");
  ASSERT_EQ(0, below_.Suspend(/*noflush=*/true));
  Pending* write = Write(0, 8, 3);
  Pending* read = Read(64, 8);
  Pending* kept = Read(128, 8);
  Headers got = Take(3);
  Give({RemapTo(got[0].seq, 0, 200), RemapTo(got[1].seq, 0, 300)});
  channel_.reset();
  EXPECT_EQ("orphaned", device_.StatusField(kState));
  channel_ = std::make_unique<Channel>("remap");
  ASSERT_EQ(0, channel_->SetFlags(kRemapFlags));
  got = Take(1);
  EXPECT_EQ(128u, got[0].sector);
  EXPECT_EQ("1", device_.StatusField(kGivenBack));
  EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 0));
  Give({RemapTo(got[0].seq, 1, 5)});
  ExpectRead(kept, Content(1, 5, 8));
  EXPECT_FALSE(write->ready());
  EXPECT_FALSE(read->ready());
  ASSERT_EQ(0, below_.Resume());
  ExpectDone(write);
  ExpectRead(read, Content(0, 300, 8));
  EXPECT_EQ(write->buffer.Copy(), ReadDevice(ram_[0], 200, 4096));
  EXPECT_EQ("0", device_.StatusField(kErrors));
  EXPECT_EQ(0, RevokeAll(channel_.get(), kForeverMs));
}

// No deadline looks at what was answered.
TEST_F(RemapFlight, ItIsOverForTheDeadlines) {
  OpenOverBelow("linear", "stuck_ms forever");
  Pending* held = HoldRead();
  // Another one's passes meanwhile.
  Pending* late = Read(8, 8);
  Take(1);
  ASSERT_EQ(0, device_.Message("stuck_ms 1"));
  ExpectError(late, ETIMEDOUT);
  EXPECT_EQ("1", device_.StatusField(kExpired));
  EXPECT_FALSE(held->ready());
  ASSERT_EQ(0, below_.Resume());
  ExpectHeldRead(held);
}

TEST_F(RemapFlight, AnErrorOfTheDeviceIsForTheIssuer) {
  ASSERT_EQ(0, below_.Create({{0, 8, "linear", ram_[0] + " 0"},
                              {8, 8, "error", ""},
                              {16, 8, "linear", ram_[0] + " 16"}}));
  Open(RedirectWords(1, {below_.block_path()}));
  Pending* first = Read(0, 8);
  Pending* bad_read = Read(8, 8);
  Pending* bad_write = Write(16, 8, 3);
  Pending* last = Read(24, 8);
  const Headers got = Take(4);
  Give({RemapTo(got[0].seq, 0, 0), RemapTo(got[1].seq, 0, 8),
        RemapTo(got[2].seq, 0, 8), RemapTo(got[3].seq, 0, 16)});
  ExpectRead(first, Content(0, 0, 8));
  ExpectError(bad_read, EIO);
  ExpectError(bad_write, EIO);
  ExpectRead(last, Content(0, 16, 8));
  EXPECT_EQ("0", device_.StatusField(kErrors)) << "the daemon made none";
  EXPECT_EQ("4", device_.StatusField(kRemapped));
  EXPECT_EQ(0, RevokeAll(channel_.get(), 5000)) << "the failed ones count";
}

// What is held by one device holds up no other, in the same call or later.
TEST_F(RemapFlight, OtherDevicesGoOn) {
  for (const std::string target : {"linear", "delay"}) {
    OpenOverBelow(target);
    ASSERT_EQ(0, below_.Suspend(/*noflush=*/true));
    std::vector<Pending*> held;
    for (uint64_t i = 0; i < 20; ++i) held.push_back(Read(8 * i, 8));
    Pending* same_call = Read(8000, 8);
    Headers got = Take(21), replies;
    for (uint64_t i = 0; i < 20; ++i) {
      replies.push_back(RemapTo(got[i].seq, 0, 9 * i));
    }
    replies.push_back(RemapTo(got[20].seq, 1, 123));
    Give(replies);
    ExpectRead(same_call, Content(1, 123, 8));
    Pending* later = Read(8000, 8);
    got = Take(1);
    Give({RemapTo(got[0].seq, 1, 124)});
    ExpectRead(later, Content(1, 124, 8));
    for (Pending* p : held) EXPECT_FALSE(p->ready());
    ASSERT_EQ(0, below_.Resume());
    for (uint64_t i = 0; i < 20; ++i) {
      ExpectRead(held[i], Content(0, 9 * i, 8));
    }
    channel_.reset();
    EXPECT_EQ(0, device_.Remove());
    EXPECT_EQ(0, below_.Remove());
  }
}

// Who does not want to wait did not, when it was queued; the device is none of
// theirs. Told no after that, io_uring would pass it on: it tries again only
// what is refused at once.
TEST_F(RemapFlight, NowaitEndsAtTheQueue) {
  OpenOverBelow();
  const int fd =
      open(device_.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  Buffer buffer(4096);
  const auto nowait = [&] {
    iovec part = {buffer.data(), buffer.size()};
    const ssize_t n = preadv2(fd, &part, 1, 0, RWF_NOWAIT);
    return n < 0 ? -errno : static_cast<int>(n);
  };
  const auto by_ring = [&] {
    // Of this thread alone: the first ring of a thread bounds its workers.
    io_uring ring;
    int result = io_uring_queue_init(1, &ring, 0);
    if (result < 0) return result;
    io_uring_prep_read(io_uring_get_sqe(&ring), fd, buffer.data(),
                       static_cast<unsigned>(buffer.size()), 0);
    io_uring_cqe* end = nullptr;
    result = io_uring_submit_and_wait(&ring, 1);
    if (result == 1) result = io_uring_wait_cqe(&ring, &end);
    if (end != nullptr) result = end->res;
    io_uring_queue_exit(&ring);
    return result;
  };
  const std::function<int()> ways[] = {nowait, by_ring};
  for (const auto& way : ways) {
    ASSERT_EQ(0, below_.Suspend(/*noflush=*/true));
    buffer.FillPattern(1);
    std::future<int> read = std::async(std::launch::async, way);
    const Headers got = Take(1);
    EXPECT_TRUE(got[0].flags & DM_USER_REQ_MAP_FLAG_NOWAIT);
    Give({RemapTo(got[0].seq, 0, 100)});
    ExpectIdle();
    EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 20));
    ASSERT_EQ(0, below_.Resume());
    EXPECT_EQ(4096, read.get());
    EXPECT_EQ(Content(0, 100, 8), buffer.Copy());
    EXPECT_EQ(0, RevokeAll(channel_.get(), 5000)) << "it counts";
  }
  close(fd);
}

// The call returns though the device has no room for what it sends; all of it
// ends, at its place, when there is.
TEST_F(RemapFlight, TheCallDoesNotWaitForRoom) {
  constexpr uint64_t kIos = 3 * FewTags::kTags;
  ASSERT_EQ(0, lowest_.CreateUser("4 new_ms forever orphan_ms forever"));
  const Bytes below = Pattern(kDeviceSectors * 512, 77);
  const auto serve = [&] {
    return std::make_unique<RamServer>("lowest", below.size(), below.data());
  };
  // The scan for partitions reads.
  std::unique_ptr<RamServer> server = serve();
  FewTags few(lowest_.block_path());
  ASSERT_NE("", few.partition());
  Open(RedirectWords(1, {few.partition(), ram_[1]}));
  for (const bool write : {false, true}) {
    server.reset();
    const uint64_t served = lowest_.StatusNumber(kServed);
    std::vector<Pending*> all;
    for (uint64_t i = 0; i < kIos; ++i) {
      all.push_back(write ? Write(8 * i, 8, uint32_t(i)) : Read(8 * i, 8));
    }
    Pending* other = Read(8000, 8);
    Headers got = Take(kIos + 1), replies;
    for (uint64_t i = 0; i < kIos; ++i) {
      replies.push_back(RemapTo(got[i].seq, 0, 9 * i + 1));
    }
    replies.push_back(RemapTo(got[kIos].seq, 1, 123));
    std::future<void> call =
        std::async(std::launch::async, [&] { Give(replies); });
    EXPECT_EQ(std::future_status::ready,
              call.wait_for(std::chrono::seconds(10)))
        << "the call waits for the device";
    EXPECT_EQ(served, lowest_.StatusNumber(kServed));
    ExpectRead(other, Content(1, 123, 8));
    Pending* later = Read(8000, 8);
    got = Take(1);
    Give({RemapTo(got[0].seq, 1, 124)});
    ExpectRead(later, Content(1, 124, 8));
    EXPECT_TRUE(lowest_.AwaitStatus(kQueued, std::to_string(FewTags::kTags)));
    EXPECT_EQ(ETIMEDOUT, RevokeAll(channel_.get(), 0));
    for (Pending* p : all) EXPECT_FALSE(p->ready());
    server = serve();
    call.wait();
    for (uint64_t i = 0; i < kIos; ++i) {
      const uint8_t* at = server->data() + (FewTags::kStart + 9 * i + 1) * 512;
      ExpectDone(all[i]);
      EXPECT_EQ(0, memcmp(all[i]->buffer.data(), at, 4096)) << i;
    }
    EXPECT_EQ(0, RevokeAll(channel_.get(), 5000));
    ExpectIdle();
  }
  EXPECT_EQ("0", device_.StatusField(kErrors));
  channel_.reset();
  EXPECT_EQ(0, device_.Remove());
}

}  // namespace
}  // namespace dmu
