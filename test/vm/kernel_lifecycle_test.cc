// SPDX-License-Identifier: Apache-2.0
//
// Goal: create, suspend, resume, reload and remove have a decided outcome with
// requests waiting anywhere and channels open, and none hangs; the table line
// and the messages accept what they should and nothing else.
// Method: the device-mapper's ioctls, the daemon's side by hand.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

std::string NodePath(const std::string& name) { return "/dev/dm-user/" + name; }

bool Exists(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0;
}

class Lifecycle : public testing::Test {
 protected:
  // One read delivered to `channel`, one queued behind it.
  void MakeWaiting(Channel* channel) {
    delivered_ = StartRead(device_, 0, &a_);
    WireRequest request;
    ASSERT_TRUE(channel->Next(&request));
    queued_ = StartRead(device_, 4096, &b_);
    ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  }

  // Serves both, in whatever order they come.
  void ServeWaiting(Channel* channel) {
    for (int i = 0; i < 2; ++i) {
      WireRequest request;
      ASSERT_TRUE(channel->Next(&request));
      ASSERT_TRUE(channel->Reply(
          request.header.seq,
          Pattern(4096, static_cast<uint32_t>(request.header.sector))));
    }
    EXPECT_EQ(4096, Await(&delivered_).result);
    EXPECT_EQ(4096, Await(&queued_).result);
    EXPECT_EQ(Pattern(4096, 0), a_.Copy());
    EXPECT_EQ(Pattern(4096, 8), b_.Copy());
  }

  MappedDevice device_{"life"};
  Buffer a_{4096}, b_{4096};
  Io delivered_, queued_;
};

TEST_F(Lifecycle, NodeIsPrivateAndGoesWithTheTable) {
  ASSERT_EQ(0, device_.CreateUser());
  struct stat st;
  ASSERT_EQ(0, stat(NodePath("life").c_str(), &st));
  EXPECT_EQ(0600u, st.st_mode & 07777);
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(0, device_.Remove());
  EXPECT_FALSE(Exists(NodePath("life")));
}

TEST_F(Lifecycle, StatusLine) {
  ASSERT_EQ(0, device_.CreateUser());
  EXPECT_EQ("life new 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", device_.Status());
  Channel channel("life");
  EXPECT_EQ("life new 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0", device_.Status());
  MakeWaiting(&channel);
  EXPECT_EQ("live", device_.StatusField(kState));
  EXPECT_EQ("1", device_.StatusField(kServers));
  EXPECT_EQ("1", device_.StatusField(kDelivered));
  while (device_.StatusNumber(kOldestMs) < 20) {
  }
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 0)));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_TRUE(channel.Reply(1, Pattern(4096, 0)));
  Await(&delivered_);
  Await(&queued_);
  EXPECT_EQ("life live 1 1 0 0 0 0 2 0 0 0 0 0 0 0 0", device_.Status());
}

class TableLines : public testing::TestWithParam<const char*> {};

TEST_P(TableLines, RoundTrip) {
  const std::string features = GetParam();
  MappedDevice device("table");
  ASSERT_EQ(0, device.CreateUser(features));
  const std::string line = UserLine("table", features).params;
  EXPECT_EQ(line, device.Table());
  EXPECT_EQ(0, device.Load({{0, kDeviceSectors, "user", device.Table()}}));
  EXPECT_EQ(0, device.Resume());
  EXPECT_EQ(line, device.Table());
}

INSTANTIATE_TEST_SUITE_P(
    Good, TableLines,
    testing::Values(
        "", "2 new_ms 0", "2 orphan_ms forever", "2 stuck_ms 2147483647",
        "6 new_ms 1 orphan_ms 2 stuck_ms 3", "2 unfenced hold",
        "2 unfenced requeue", "1 read_only", "1 no_flush",
        "3 discard write_zeroes secure_erase", "2 max_io 128",
        "2 logical_block 4096", "2 physical_block 1048576",
        "3 discard discard_granularity 1048576", "2 max_discard 4194304",
        "17 new_ms 1 orphan_ms forever stuck_ms 3 unfenced fail read_only "
        "no_flush discard write_zeroes secure_erase max_io 8 logical_block "
        "4096"));

// Each line is refused and leaves nothing behind.
TEST(BadTables, AreRefused) {
  const std::string long_name(128, 'x');
  const std::vector<std::string> params = {
      "", "0", "0 16384", "x 16384 bad", "0 x bad", "-1 16384 bad",
      // Names.
      "0 16384 /bad", "0 16384 bad/", "0 16384 a//b", "0 16384 ..",
      "0 16384 ../bad", "0 16384 a/../bad", "0 16384 .", "0 16384 a/./b",
      "0 16384 a/..", "0 16384 a!b", "0 16384 a\\\\b", "0 16384 a\tb\x01",
      "0 16384 b\xc3\xa4"
      "d",
      "0 16384 " + long_name,
      // Features.
      "0 16384 bad x", "0 16384 bad -1", "0 16384 bad 1", "0 16384 bad 0 x",
      "0 16384 bad 1 nonsense", "0 16384 bad 1 read_only no_flush",
      "0 16384 bad 3 read_only no_flush", "0 16384 bad 1 new_ms",
      "0 16384 bad 2 new_ms x", "0 16384 bad 2 new_ms -1",
      "0 16384 bad 2 new_ms 2147483648", "0 16384 bad 2 unfenced never",
      "0 16384 bad 2 read_only read_only", "0 16384 bad 4 new_ms 1 new_ms 2",
      "0 16384 bad 2 max_io 0", "0 16384 bad 2 max_io 4194305",
      "0 16384 bad 2 max_io x", "0 16384 bad 2 logical_block 256",
      "0 16384 bad 2 logical_block 8192", "0 16384 bad 2 logical_block 1000",
      "0 16384 bad 4 logical_block 4096 max_io 9",
      "0 16384 bad 4 logical_block 4096 max_discard 9",
      "0 16384 bad 4 logical_block 4096 physical_block 512",
      "0 16384 bad 4 logical_block 4096 discard_granularity 512",
      "0 16384 bad 4 max_discard 24 discard_granularity 8192",
      "0 16384 bad 2 physical_block 3000",
      "0 16384 bad 2 physical_block 2097152",
      "0 16384 bad 2 discard_granularity 0",
      "0 16384 bad 2 discard_granularity 2147483648",
      "0 16384 bad 2 max_discard 0", "0 16384 bad 1 READ_ONLY",
      "0 16384 bad 99 read_only"};
  MappedDevice device("bad");
  ASSERT_EQ(0, device.CreateEmpty());
  for (const std::string& line : params) {
    EXPECT_EQ(EINVAL, device.Load({{0, kDeviceSectors, "user", line}})) << line;
    EXPECT_FALSE(Exists(NodePath("bad"))) << line;
  }
  EXPECT_EQ(
      EINVAL,
      device.Load({{0, 1001, "user", "0 1001 bad 2 logical_block 1024"}}));
  EXPECT_FALSE(Exists(NodePath("bad")));
}

TEST(GoodNames, Work) {
  for (const std::string& name :
       {std::string("a"), std::string("a.b"), std::string("...x"),
        std::string("dir/file"), std::string("system_a-init:1@2,3"),
        std::string(127, 'x')}) {
    MappedDevice device("good");
    ASSERT_EQ(0, device.Create({UserLine(name)})) << name;
    Channel channel(name);
    EXPECT_TRUE(channel.ok()) << name;
    EXPECT_EQ(name, device.StatusField(kName));
  }
}

TEST_F(Lifecycle, NameInUse) {
  ASSERT_EQ(0, device_.CreateUser());
  MappedDevice other("other");
  ASSERT_EQ(0, other.CreateEmpty());
  EXPECT_EQ(EBUSY, other.Load({UserLine("life")}));
  EXPECT_EQ(EEXIST, other.Load({UserLine("life/below")}));
  EXPECT_EQ(0, other.Load({UserLine("lif")}));
  EXPECT_EQ(0, other.Load({UserLine("life2")}));
  // The first is untouched, and free once it is gone.
  EXPECT_TRUE(Exists(NodePath("life")));
  EXPECT_EQ(0, device_.Remove());
  EXPECT_EQ(0, other.Load({UserLine("life/below")}));
  EXPECT_EQ(0, other.Resume());
  EXPECT_TRUE(Exists(NodePath("life/below")));
}

TEST_F(Lifecycle, NameTwiceInATable) {
  ASSERT_EQ(0, device_.CreateEmpty());
  EXPECT_EQ(EEXIST, device_.Load({{0, 8, "user", "0 8 life"},
                                  {8, 8, "user", "8 8 life"}}));
  EXPECT_FALSE(Exists(NodePath("life")));
  EXPECT_EQ(0, device_.Load(
                   {{0, 8, "user", "0 8 life"}, {8, 8, "user", "8 8 life2"}}));
}

TEST_F(Lifecycle, Messages) {
  ASSERT_EQ(0, device_.CreateUser("2 new_ms 77"));
  EXPECT_EQ(0, device_.Message("orphan_ms forever"));
  EXPECT_EQ(0, device_.Message("new_ms 5"));
  EXPECT_EQ(0, device_.Message("stuck_ms 123"));
  EXPECT_EQ(0, device_.Message("unfenced requeue"));
  EXPECT_EQ(0, device_.Message("requeue"));
  EXPECT_EQ(0, device_.Message("fail_queued"));
  const std::string line = UserLine("life",
                                    "8 new_ms 5 orphan_ms forever stuck_ms "
                                    "123 unfenced requeue")
                               .params;
  EXPECT_EQ(line, device_.Table());
  for (const char* message :
       {"nonsense", "new_ms", "new_ms x", "new_ms 1 2", "unfenced never",
        "read_only", "max_io 8", "requeue now", "fail_queued 1", "NEW_MS 1"}) {
    EXPECT_EQ(EINVAL, device_.Message(message)) << message;
  }
  EXPECT_EQ(line, device_.Table());
}

TEST_F(Lifecycle, ReloadKeepsTheDaemonAndTheRequests) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("life");
  MakeWaiting(&channel);
  ASSERT_EQ(0, device_.Load({UserLine("life", "2 stuck_ms 60000")}));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  // While suspended the requests are the core's; a late answer is refused.
  EXPECT_EQ("0", device_.StatusField(kQueued));
  EXPECT_EQ("0", device_.StatusField(kDelivered));
  EXPECT_EQ("2", device_.StatusField(kPushedBack));
  EXPECT_EQ(-EINVAL, channel.ReplyType(0, DM_USER_RESP_SUCCESS));
  EXPECT_FALSE(IsReady(&delivered_));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(UserLine("life", "2 stuck_ms 60000").params, device_.Table());
  ServeWaiting(&channel);
  EXPECT_EQ("0", device_.StatusField(kErrors));
}

TEST_F(Lifecycle, ReloadWithTheDaemonDead) {
  ASSERT_EQ(0, device_.CreateUser("2 orphan_ms forever"));
  {
    Channel channel("life");
    MakeWaiting(&channel);
  }
  ASSERT_EQ(0, device_.Load({{0, kDeviceSectors, "zero", ""}}));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(4096, Await(&delivered_).result);
  EXPECT_EQ(4096, Await(&queued_).result);
  EXPECT_EQ(std::vector<uint8_t>(4096), a_.Copy());
  EXPECT_FALSE(Exists(NodePath("life")));
}

TEST_F(Lifecycle, NoflushSuspendAlsoTakesHalfTransfers) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("life");
  a_.FillPattern(1);
  Io write = StartWrite(device_, 0, &a_);
  WireHeader header;
  ASSERT_TRUE(channel.NextHeader(&header));
  char bytes[100];
  ASSERT_EQ(100, channel.Read(bytes, 100));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  // Said even with the next request, here the same write, already there.
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  EXPECT_EQ(-ECANCELED, channel.Read(bytes, 100));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(a_.Copy(), request.payload);
  ASSERT_TRUE(channel.Reply(request.header.seq));
  EXPECT_EQ(4096, Await(&write).result);
}

TEST_F(Lifecycle, FlushSuspendWaitsForTheDaemon) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("life");
  MakeWaiting(&channel);
  std::future<int> suspend = std::async(
      std::launch::async, [&] { return device_.Suspend(/*noflush=*/false); });
  EXPECT_EQ(std::future_status::timeout,
            suspend.wait_for(std::chrono::milliseconds(100)));
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 0)));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_TRUE(channel.Reply(1, Pattern(4096, 8)));
  EXPECT_EQ(0, suspend.get());
  EXPECT_EQ(4096, Await(&queued_).result);
  // What comes now waits in the core.
  delivered_ = StartRead(device_, 0, &a_);
  EXPECT_EQ(0, channel.Poll(50));
  ASSERT_EQ(0, device_.Resume());
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(4096, 0)));
  EXPECT_EQ(4096, Await(&delivered_).result);
}

TEST_F(Lifecycle, FlushSuspendEndsWithTheDeadline) {
  ASSERT_EQ(0, device_.CreateUser("2 new_ms 200"));
  delivered_ = StartRead(device_, 0, &a_);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  EXPECT_EQ(0, device_.Suspend(/*noflush=*/false));
  EXPECT_EQ(EIO, Await(&delivered_).error);
}

TEST_F(Lifecycle, ReloadToAnotherNameMovesTheRequests) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel old_channel("life");
  MakeWaiting(&old_channel);
  ASSERT_EQ(0, device_.Load({UserLine("life_new")}));
  Channel new_channel("life_new");
  ASSERT_TRUE(new_channel.ok());
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(POLLIN | POLLHUP | POLLERR, old_channel.Poll(0));
  ServeWaiting(&new_channel);
}

TEST_F(Lifecycle, ClearingAnInactiveTableLeavesTheLiveOneAlone) {
  ASSERT_EQ(0, device_.CreateUser("2 stuck_ms 1000"));
  ASSERT_EQ(0, device_.Load({UserLine("life", "1 no_flush")}));
  ASSERT_EQ(0, device_.Load({UserLine("life")}));
  ASSERT_EQ(0, device_.Clear());
  RamServer server("life", kDeviceSectors * 512);
  delivered_ = StartRead(device_, 0, &a_);
  EXPECT_EQ(4096, Await(&delivered_).result);
  EXPECT_EQ(UserLine("life", "2 stuck_ms 1000").params, device_.Table());
}

TEST_F(Lifecycle, RemoveWhileOpenIsRefusedAndDeferredIsNot) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("life");
  MakeWaiting(&channel);
  EXPECT_EQ(EBUSY, device_.Remove());
  EXPECT_EQ(0, device_.Remove(/*deferred=*/true));
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 0)));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_TRUE(channel.Reply(1, Pattern(4096, 8)));
  EXPECT_EQ(4096, Await(&delivered_).result);
  EXPECT_EQ(4096, Await(&queued_).result);
  char c;
  EXPECT_EQ(-ENOTBLK, channel.Read(&c, 1));  // waits for the removal
}

TEST_F(Lifecycle, ForcedRemoveFailsWhatWaits) {
  ASSERT_EQ(0, device_.CreateUser("2 new_ms forever"));
  Channel channel("life"), blocked("life");
  MakeWaiting(&channel);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  std::thread reader([&] {
    char c;
    EXPECT_EQ(-ENOTBLK, blocked.Read(&c, 1));
    EXPECT_EQ(-ENOTBLK, blocked.Read(&c, 1));
  });
  ASSERT_TRUE(device_.AwaitStatus(kServers, "2"));
  EXPECT_EQ(0, device_.RemoveForced());
  EXPECT_EQ(EIO, Await(&delivered_).error);
  EXPECT_EQ(EIO, Await(&queued_).error);
  reader.join();
  EXPECT_EQ(POLLIN | POLLHUP | POLLERR, channel.Poll(0));
  EXPECT_EQ(-ENOTBLK, channel.ReplyType(0, DM_USER_RESP_SUCCESS));
  dm_user_info info;
  EXPECT_EQ(0, channel.Info(&info));
  EXPECT_EQ(unsigned{DM_USER_STATE_REMOVED}, info.state);
  EXPECT_EQ(ENOTBLK, channel.SetFlags(0));
}

TEST_F(Lifecycle, PollerLearnsOfTheRemoval) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("life");
  std::thread poller(
      [&] { EXPECT_EQ(POLLIN | POLLHUP | POLLERR, channel.Poll(10000)); });
  ASSERT_TRUE(device_.AwaitStatus(kServers, "1"));
  EXPECT_EQ(0, device_.Remove());
  poller.join();
}

TEST_F(Lifecycle, NameIsFreeWhileAnOldChannelIsStillOpen) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel old_channel("life");
  EXPECT_EQ(0, device_.Remove());
  ASSERT_EQ(0, device_.CreateUser());
  RamServer server("life", kDeviceSectors * 512);
  delivered_ = StartRead(device_, 0, &a_);
  EXPECT_EQ(4096, Await(&delivered_).result);
  char c;
  EXPECT_EQ(-ENOTBLK, old_channel.Read(&c, 1));
}

TEST_F(Lifecycle, RenamingTheDeviceLeavesTheControlNameAlone) {
  ASSERT_EQ(0, device_.CreateUser());
  ASSERT_EQ(0, device_.Rename("life_renamed"));
  RamServer server("life", kDeviceSectors * 512);
  delivered_ = StartRead(device_, 0, &a_);
  EXPECT_EQ(4096, Await(&delivered_).result);
  EXPECT_EQ("life", device_.StatusField(kName));
}

TEST_F(Lifecycle, CreateAndRemoveManyTimes) {
  for (int i = 0; i < 60; ++i) {
    ASSERT_EQ(0, device_.CreateUser());
    Channel channel("life", O_NONBLOCK);
    ASSERT_TRUE(channel.ok());
    char c;
    EXPECT_EQ(-EAGAIN, channel.Read(&c, 1));
    ASSERT_EQ(0, device_.Remove());
  }
}

TEST_F(Lifecycle, ManyDevicesAtOnce) {
  std::vector<std::unique_ptr<MappedDevice>> devices;
  for (int i = 0; i < 60; ++i) {
    devices.push_back(
        std::make_unique<MappedDevice>("many" + std::to_string(i)));
    ASSERT_EQ(0, devices.back()->CreateUser());
  }
}

// Listens to the kernel's uevents.
class UeventListener {
 public:
  UeventListener()
      : fd_(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC,
                   NETLINK_KOBJECT_UEVENT)) {
    sockaddr_nl address = {};
    address.nl_family = AF_NETLINK;
    address.nl_groups = 1;
    bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  ~UeventListener() { close(fd_); }

  // Waits for an event that has both variables; false if none comes.
  bool Await(const std::string& state, const std::string& name) {
    for (;;) {
      pollfd p = {fd_, POLLIN, 0};
      if (poll(&p, 1, 5000) != 1) {
        return false;
      }
      char bytes[4096];
      const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
      // Variables end with a zero byte each.
      const std::string event(bytes,
                              static_cast<size_t>(std::max<ssize_t>(n, 0)));
      const auto has = [&](const std::string& variable) {
        return event.find('\0' + variable + '\0') != std::string::npos;
      };
      if (has("DM_USER_STATE=" + state) && has("DM_USER_NAME=" + name)) {
        return true;
      }
    }
  }

 private:
  int fd_;
};

TEST_F(Lifecycle, EventsWhenTheServerComesAndGoes) {
  ASSERT_EQ(0, device_.CreateUser("2 orphan_ms 100"));
  UeventListener uevents;
  const uint32_t before = device_.EventNumber();
  Channel channel("life");
  EXPECT_EQ(0, channel.Poll(0));
  EXPECT_TRUE(uevents.Await("live", "life"));
  channel.Close();
  EXPECT_TRUE(uevents.Await("orphaned", "life"));
  delivered_ = StartRead(device_, 0, &a_);
  EXPECT_EQ(EIO, Await(&delivered_).error);
  EXPECT_TRUE(uevents.Await("failed", "life"));
  EXPECT_GE(device_.EventNumber(), before + 2);
}

// Suspend, resume and reload under load, with and without flush.
TEST_F(Lifecycle, SuspendAndReloadUnderLoad) {
  ASSERT_EQ(0, device_.CreateUser());
  RamServer server("life", kDeviceSectors * 512);
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 3; ++c) {
    clients.emplace_back([&, c] {
      const int fd = open(device_.block_path().c_str(), O_RDWR | O_DIRECT);
      Buffer out(8192), in(8192);
      for (uint32_t i = 0; !stop; ++i) {
        const off_t offset = c * (1 << 20) + (i % 16) * 8192;
        out.FillPattern(i);
        if (pwrite(fd, out.data(), 8192, offset) != 8192 ||
            pread(fd, in.data(), 8192, offset) != 8192 ||
            memcmp(in.data(), out.data(), 8192) != 0) {
          ++bad;
        }
      }
      close(fd);
    });
  }
  for (int i = 0; i < 60; ++i) {
    if (i % 3 == 0) {
      ASSERT_EQ(0, device_.Load({UserLine("life", i % 2 ? "1 no_flush" : "")}));
    }
    ASSERT_EQ(0, device_.Suspend(/*noflush=*/i % 2 == 0));
    ASSERT_EQ(0, device_.Resume());
  }
  stop = true;
  for (std::thread& client : clients) {
    client.join();
  }
  EXPECT_EQ(0, bad);
  EXPECT_EQ("0", device_.StatusField(kErrors));
}

}  // namespace
}  // namespace dmu
