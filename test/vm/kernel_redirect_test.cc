// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the daemon says of ranges holds: bios in extents reach the device
// and place they should, all others the daemon; wrong extents change nothing;
// and the table line bounds it all.
// Method: RAM disks with known content below, the daemon's side by hand. Races
// and waiting are in kernel_redirect_race_test.cc.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/redirect.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;
using Lines = std::vector<std::string>;

class RedirectTest : public testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kRamDisks; ++i) {
      ram_[i] = RamDisk(i);
      ASSERT_NE("", ram_[i]);
      ASSERT_TRUE(WriteDevice(ram_[i], 0, Whole(i)));
    }
  }
  void Open(const std::string& features) {
    ASSERT_EQ(0, device_.CreateUser(features));
    channel_ = std::make_unique<Channel>("redirect");
    ASSERT_TRUE(channel_->ok());
  }
  void OpenBoth(uint32_t max_extents = 16, const std::string& more = "") {
    Open(RedirectWords(max_extents, {ram_[0], ram_[1]}, more));
  }
  // What is on a RAM disk when a test begins.
  static const Bytes& Whole(int device) {
    static const Bytes contents[kRamDisks] = {
        Pattern(kRamDiskSectors * 512, 0), Pattern(kRamDiskSectors * 512, 1)};
    return contents[device];
  }
  Bytes Content(int device, uint64_t sector, uint64_t sectors) const {
    const uint8_t* at = Whole(device).data() + sector * 512;
    return Bytes(at, at + sectors * 512);
  }
  Bytes Read(uint64_t sector, uint64_t sectors) {
    Buffer buffer(sectors * 512);
    Io io = StartRead(device_, sector * 512, &buffer);
    const IoResult r = Await(&io);
    EXPECT_EQ(static_cast<int64_t>(sectors * 512), r.result) << r.error;
    return buffer.Copy();
  }
  int Write(uint64_t sector, const Bytes& data, bool dsync = false) {
    Buffer buffer(data.size());
    memcpy(buffer.data(), data.data(), data.size());
    Io io = StartWrite(device_, sector * 512, &buffer, dsync);
    return Await(&io).error;
  }

  std::string ram_[kRamDisks];
  // Devices to redirect to; they outlive the one above them.
  MappedDevice below_{"below"}, other_{"other"};
  MappedDevice device_{"redirect"};
  std::unique_ptr<Channel> channel_;
};

TEST_F(RedirectTest, ReadsNeedNoDaemon) {
  OpenBoth();
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, kDeviceSectors, 0, 4096)}));
  EXPECT_EQ("new", device_.StatusField(kState)) << "to add is not to serve";
  channel_.reset();
  EXPECT_EQ(Content(0, 4096, 2048), Read(0, 2048));
  EXPECT_EQ(Content(0, 4096 + 777, 1), Read(777, 1));
  EXPECT_EQ(Content(0, 4096 + 16376, 8), Read(16376, 8));
  EXPECT_EQ("0", device_.StatusField(kServed));
  EXPECT_EQ("0", device_.StatusField(kErrors));
  EXPECT_EQ("1", device_.StatusField(kExtents));
  EXPECT_LE(3u, device_.StatusNumber(kRedirected));
}

TEST_F(RedirectTest, ABioIsCutWhereExtentsEnd) {
  OpenBoth();
  // Both devices, holes between, before and behind; odd sectors.
  ASSERT_EQ(
      0, Add(channel_.get(), {Extent(5, 10, 0, 100), Extent(15, 9, 1, 7),
                              Extent(40, 1, 0, 900), Extent(42, 20, 1, 2000)}));
  RamServer server("redirect", kDeviceSectors * 512);
  const Bytes own = Pattern(kDeviceSectors * 512, 99);
  memcpy(server.data(), own.data(), own.size());
  Bytes expected(own.begin(), own.begin() + 64 * 512);
  const auto put = [&](uint64_t at, const Bytes& data) {
    memcpy(expected.data() + at * 512, data.data(), data.size());
  };
  put(5, Content(0, 100, 10));
  put(15, Content(1, 7, 9));
  put(40, Content(0, 900, 1));
  put(42, Content(1, 2000, 20));
  EXPECT_EQ(expected, Read(0, 64));
  // 0-5, 24-40, 41, 62-64 and four extents.
  EXPECT_EQ("4", device_.StatusField(kServed));
  EXPECT_EQ("4", device_.StatusField(kRedirected));
  const int fd =
      open(device_.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  Buffer buffer(3 * 512);
  for (size_t at = 0; at <= 61 * 512; at += 512) {
    EXPECT_EQ(ssize_t(buffer.size()),
              pread(fd, buffer.data(), buffer.size(), off_t(at)));
    EXPECT_EQ(0, memcmp(buffer.data(), expected.data() + at, buffer.size()))
        << at;
  }
  close(fd);
}

TEST_F(RedirectTest, AddListRevoke) {
  OpenBoth();
  Channel* c = channel_.get();
  EXPECT_EQ(Lines(), Extents(c));
  EXPECT_EQ(0, Add(c, {}));
  EXPECT_EQ(0, Add(c, {Extent(100, 10, 0, 0), Extent(200, 10, 1, 50)}));
  EXPECT_EQ(0, Add(c, {Extent(0, 8, 1, 0, DM_USER_EXTENT_WRITABLE),
                       Extent(150, 10, 0, 8), Extent(300, 1, 0, 1)}));
  const Lines all = {"0+8 1@0 w", "100+10 0@0", "150+10 0@8", "200+10 1@50",
                     "300+1 0@1"};
  EXPECT_EQ(all, Extents(c));
  EXPECT_EQ(Lines(all.begin() + 2, all.begin() + 4), Extents(c, 110, 2));
  EXPECT_EQ(Lines(all.begin() + 1, all.end()), Extents(c, 109));
  EXPECT_EQ(Lines(), Extents(c, 301));
  EXPECT_EQ("5", device_.StatusField(kExtents));
  // Parts: an end, a beginning, the middle, whole ones between.
  EXPECT_EQ(0, Revoke(c, 105, 50));
  EXPECT_EQ(0, Revoke(c, 204, 2));
  EXPECT_EQ((Lines{"0+8 1@0 w", "100+5 0@0", "155+5 0@13", "200+4 1@50",
                   "206+4 1@56", "300+1 0@1"}),
            Extents(c));
  EXPECT_EQ(0, Revoke(c, 4, 300));
  EXPECT_EQ((Lines{"0+4 1@0 w"}), Extents(c));
  EXPECT_EQ(0, Revoke(c, 4, 10000)) << "there is nothing";
  EXPECT_EQ(0, RevokeAll(c));
  EXPECT_EQ(0, RevokeAll(c));
  EXPECT_EQ(Lines(), Extents(c));
  EXPECT_EQ(EINVAL, Revoke(c, 8, 0));
  EXPECT_EQ(EINVAL, Revoke(c, 8, UINT64_MAX));
}

TEST_F(RedirectTest, NeighboursBecomeOne) {
  OpenBoth();
  Channel* c = channel_.get();
  ASSERT_EQ(0, Add(c, {Extent(0, 8, 0, 80), Extent(8, 8, 0, 88),
                       Extent(16, 8, 1, 96), Extent(24, 8, 1, 120),
                       Extent(32, 8, 1, 128, DM_USER_EXTENT_WRITABLE),
                       Extent(48, 8, 0, 8)}));
  EXPECT_EQ((Lines{"0+16 0@80", "16+8 1@96", "24+8 1@120", "32+8 1@128 w",
                   "48+8 0@8"}),
            Extents(c));
  ASSERT_EQ(0, Add(c, {Extent(40, 8, 0, 0), Extent(56, 8, 0, 16)}));
  EXPECT_EQ((Lines{"40+24 0@0"}), Extents(c, 40));
  EXPECT_EQ(0, Revoke(c, 48, 8));
  ASSERT_EQ(0, Add(c, {Extent(48, 8, 0, 8)}));
  EXPECT_EQ((Lines{"40+24 0@0"}), Extents(c, 40));
}

TEST_F(RedirectTest, WrongExtentsAreRefusedWhole) {
  // 1024 sectors of the device; the other one is smaller.
  ASSERT_EQ(0, below_.Create({{0, 2048, "linear", ram_[1] + " 0"}}));
  Open(RedirectWords(16, {ram_[0], below_.block_path()}));
  Channel* c = channel_.get();
  ASSERT_EQ(0, Add(c, {Extent(1000, 100, 0, 0)}));
  const dm_user_extent good = Extent(0, 8, 0, 0);
  const dm_user_extent last = Extent(16380, 4, 0, kRamDiskSectors - 4);
  const struct {
    std::vector<dm_user_extent> extents;
    uint32_t wrong;
    uint32_t reason;
    int error;
  } cases[] = {
      {{good, Extent(8, 0, 0, 0), last}, 1, DM_USER_EXTENT_RANGE, EINVAL},
      {{good, Extent(16380, 5, 0, 0)}, 1, DM_USER_EXTENT_RANGE, EINVAL},
      {{Extent(16384, 1, 0, 0)}, 0, DM_USER_EXTENT_RANGE, EINVAL},
      {{Extent(UINT64_MAX, 2, 0, 0)}, 0, DM_USER_EXTENT_RANGE, EINVAL},
      {{Extent(8, UINT64_MAX, 0, 0)}, 0, DM_USER_EXTENT_RANGE, EINVAL},
      {{good, last, Extent(8, 8, 0, 0)}, 2, DM_USER_EXTENT_ORDER, EINVAL},
      {{good, Extent(7, 8, 0, 0)}, 1, DM_USER_EXTENT_ORDER, EINVAL},
      {{good, good}, 1, DM_USER_EXTENT_ORDER, EINVAL},
      {{good, Extent(8, 8, 2, 0)}, 1, DM_USER_EXTENT_DEVICE, EINVAL},
      {{Extent(8, 8, UINT32_MAX, 0)}, 0, DM_USER_EXTENT_DEVICE, EINVAL},
      {{Extent(8, 8, 0, kRamDiskSectors - 7)},
       0,
       DM_USER_EXTENT_DEVICE_RANGE,
       EINVAL},
      {{good, Extent(8, 9, 1, 2040)}, 1, DM_USER_EXTENT_DEVICE_RANGE, EINVAL},
      {{Extent(8, 9, 1, UINT64_MAX - 3)},
       0,
       DM_USER_EXTENT_DEVICE_RANGE,
       EINVAL},
      {{good, Extent(8, 8, 0, 0, 2)}, 1, DM_USER_EXTENT_FLAGS, EINVAL},
      {{good, Extent(999, 2, 0, 0)}, 1, DM_USER_EXTENT_OVERLAP, EEXIST},
      {{good, Extent(1099, 2, 0, 0)}, 1, DM_USER_EXTENT_OVERLAP, EEXIST},
      {{good, Extent(900, 900, 0, 0)}, 1, DM_USER_EXTENT_OVERLAP, EEXIST},
      {{good, Extent(1000, 100, 0, 0)}, 1, DM_USER_EXTENT_OVERLAP, EEXIST},
      {{Extent(1050, 1, 0, 0), last}, 0, DM_USER_EXTENT_OVERLAP, EEXIST},
  };
  for (const auto& wrong : cases) {
    const AddResult r = TryAdd(c, wrong.extents);
    const dm_user_extent& e = wrong.extents[wrong.wrong];
    EXPECT_EQ(wrong.error, r.error) << e.first_sector << "+" << e.sectors;
    EXPECT_EQ(wrong.wrong, r.wrong) << e.first_sector << "+" << e.sectors;
    EXPECT_EQ(wrong.reason, r.reason) << e.first_sector << "+" << e.sectors;
    EXPECT_EQ((Lines{"1000+100 0@0"}), Extents(c));
  }
  EXPECT_EQ(0, Add(c, {good, Extent(8, 8, 1, 2040), last}));
}

TEST_F(RedirectTest, WrongCallsAreRefused) {
  OpenBoth();
  const int fd = channel_->fd();
  dm_user_extents add = {};
  add.count = 1;
  add.extents = 1;
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_EXTENTS_ADD, &add));
  EXPECT_EQ(EFAULT, errno);
  add.count = 0;
  add.flags = 1;
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_EXTENTS_ADD, &add));
  EXPECT_EQ(EINVAL, errno);
  add.flags = 0;
  add.reserved[3] = 1;
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_EXTENTS_GET, &add));
  EXPECT_EQ(EINVAL, errno);
  dm_user_revoke revoke = {};
  revoke.sectors = 8;
  revoke.flags = 2;
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_EXTENTS_REVOKE, &revoke));
  EXPECT_EQ(EINVAL, errno);
  dm_user_device device = {};
  device.device = 2;
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_DEVICE, &device));
  EXPECT_EQ(ENOENT, errno);
  device.device = 1;
  ASSERT_EQ(0, ioctl(fd, DM_USER_IOC_DEVICE, &device));
  EXPECT_EQ(1u, device.major);
  EXPECT_EQ(1u, device.minor);
  EXPECT_EQ(kRamDiskSectors, device.sectors);
  EXPECT_EQ(DM_USER_DEVICE_WRITABLE, device.flags);
  dm_user_info info;
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_TRUE(info.features & DM_USER_FEATURE_REDIRECT);
  EXPECT_EQ(2u, info.redirect_devices);
  EXPECT_EQ(16u, info.max_extents);
  EXPECT_EQ(512u, info.block_bytes);

  EXPECT_EQ(0, device_.Remove());
  EXPECT_EQ(ENOTBLK, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(ENOTBLK, RevokeAll(channel_.get()));
  EXPECT_EQ((Lines{"errno " + std::to_string(ENOTBLK)}),
            Extents(channel_.get()));
  EXPECT_EQ(-1, ioctl(fd, DM_USER_IOC_DEVICE, &device));
  EXPECT_EQ(ENOTBLK, errno);
}

TEST_F(RedirectTest, WithoutTheFeature) {
  Open("");
  EXPECT_EQ(EOPNOTSUPP, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(EOPNOTSUPP, RevokeAll(channel_.get()));
  EXPECT_EQ("0", device_.StatusField(kRedirected));
  EXPECT_EQ("0", device_.StatusField(kExtents));
}

TEST_F(RedirectTest, TheBound) {
  OpenBoth(4);
  Channel* c = channel_.get();
  ASSERT_EQ(0, Add(c, {Extent(0, 8, 0, 0), Extent(16, 8, 0, 0)}));
  const std::vector<dm_user_extent> three = {
      Extent(32, 8, 0, 0), Extent(48, 8, 0, 0), Extent(64, 8, 0, 0)};
  AddResult r = TryAdd(c, three);
  EXPECT_EQ(ENOSPC, r.error);
  EXPECT_EQ(2u, r.wrong);
  EXPECT_EQ(unsigned{DM_USER_EXTENT_BOUND}, r.reason);
  EXPECT_EQ(2u, Extents(c).size());
  ASSERT_EQ(0, Add(c, {three[0], three[1]}));
  EXPECT_EQ(ENOSPC, Add(c, {Extent(12, 2, 0, 0)}));
  // What is one with a neighbour needs no room, and may even make some.
  EXPECT_EQ(0, Add(c, {Extent(56, 100, 0, 8)}));
  EXPECT_EQ(4u, Extents(c).size());
  // One too many by a revoke: the end goes.
  EXPECT_EQ(0, Revoke(c, 60, 8));
  EXPECT_EQ((Lines{"0+8 0@0", "16+8 0@0", "32+8 0@0", "48+12 0@0"}),
            Extents(c));
  EXPECT_EQ(0, Revoke(c, 2, 2));
  EXPECT_EQ((Lines{"0+2 0@0", "16+8 0@0", "32+8 0@0", "48+12 0@0"}),
            Extents(c));
  EXPECT_EQ(0, Revoke(c, 16, 8));
  EXPECT_EQ(0, Revoke(c, 50, 2));
  EXPECT_EQ((Lines{"0+2 0@0", "32+8 0@0", "48+2 0@0", "52+8 0@4"}), Extents(c));
}

TEST_F(RedirectTest, ManyExtents) {
  // Each second sector, twice: once all at once, once from both ends.
  OpenBoth(kDeviceSectors / 2);
  Channel* c = channel_.get();
  std::vector<dm_user_extent> all;
  for (uint64_t s = 0; s < kDeviceSectors; s += 2) {
    all.push_back(Extent(s, 1, s / 2 % 2, kRamDiskSectors - 1 - s));
  }
  ASSERT_EQ(0, Add(c, all));
  EXPECT_EQ(kDeviceSectors / 2, device_.StatusNumber(kExtents));
  for (const uint64_t s : {0u, 2u, 4094u, 8190u, 8192u, 16382u}) {
    EXPECT_EQ(Content(s / 2 % 2, kRamDiskSectors - 1 - s, 1), Read(s, 1)) << s;
  }
  ASSERT_EQ(0, Revoke(c, 1, kDeviceSectors - 2));
  EXPECT_EQ("1", device_.StatusField(kExtents));
  ASSERT_EQ(0, Add(c, {all.begin() + 1, all.begin() + 100}));
  ASSERT_EQ(0, Add(c, {all.end() - 100, all.end()}));
  ASSERT_EQ(0, Add(c, {all.begin() + 100, all.end() - 100}));
  EXPECT_EQ(kDeviceSectors / 2, device_.StatusNumber(kExtents));
  EXPECT_EQ(Content(1, kRamDiskSectors - 1 - 8190, 1), Read(8190, 1));
}

TEST_F(RedirectTest, WritesGoWhereTheExtentSays) {
  OpenBoth();
  ASSERT_EQ(0, Add(channel_.get(),
                   {Extent(0, 16, 0, 160), Extent(16, 16, 0, 1600),
                    Extent(32, 16, 1, 320, DM_USER_EXTENT_WRITABLE)}));
  RamServer server("redirect", kDeviceSectors * 512);
  const Bytes data = Pattern(64 * 512, 7);
  EXPECT_EQ(0, Write(0, data));
  // 0-32 and 48-64 to the daemon.
  EXPECT_EQ("2", device_.StatusField(kServed));
  EXPECT_EQ("1", device_.StatusField(kRedirected));
  EXPECT_EQ(0, memcmp(server.data(), data.data(), 32 * 512));
  EXPECT_EQ(Bytes(16 * 512),
            Bytes(server.data() + 32 * 512, server.data() + 48 * 512));
  EXPECT_EQ(0,
            memcmp(server.data() + 48 * 512, data.data() + 48 * 512, 16 * 512));
  EXPECT_EQ(Bytes(data.begin() + 32 * 512, data.begin() + 48 * 512),
            ReadDevice(ram_[1], 320, 16 * 512));
  EXPECT_EQ(Content(0, 0, 4096), ReadDevice(ram_[0], 0, 4096 * 512));
  EXPECT_EQ(Bytes(data.begin() + 32 * 512, data.begin() + 48 * 512),
            Read(32, 16));
}

TEST_F(RedirectTest, ReadOnlyTables) {
  OpenBoth(16, "read_only");
  const AddResult r =
      TryAdd(channel_.get(), {Extent(0, 8, 0, 0), Extent(8, 8, 0, 8, 1)});
  EXPECT_EQ(EROFS, r.error);
  EXPECT_EQ(1u, r.wrong);
  EXPECT_EQ(unsigned{DM_USER_EXTENT_READ_ONLY}, r.reason);
  dm_user_device device = {};
  ASSERT_EQ(0, ioctl(channel_->fd(), DM_USER_IOC_DEVICE, &device));
  EXPECT_EQ(0u, device.flags);
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(EIO, Write(0, Bytes(4096)));
  EXPECT_EQ(Content(0, 0, 8), Read(0, 8));
}

// Another device of this target stands below and sees what reaches it.
TEST_F(RedirectTest, FlushesReachTheDevicesThatWereWritten) {
  ASSERT_EQ(0, below_.CreateUser());
  ASSERT_EQ(0, other_.CreateUser());
  RamServer below_server("below", kDeviceSectors * 512);
  RamServer unused_server("other", kDeviceSectors * 512);
  for (const bool no_flush : {false, true}) {
    Open(RedirectWords(16, {other_.block_path(), below_.block_path()},
                       no_flush ? "no_flush" : ""));
    {
      RamServer server("redirect", kDeviceSectors * 512);
      ASSERT_EQ(0, Add(channel_.get(),
                       {Extent(0, 8, 0, 0, 1), Extent(8, 8, 1, 0, 1)}));
      const uint64_t served = below_.StatusNumber(kServed);
      Io sync = StartFsync(device_);
      EXPECT_EQ(0, Await(&sync).result);
      EXPECT_EQ(served, below_.StatusNumber(kServed)) << "nothing was written";
      EXPECT_EQ(0, Write(8, Bytes(4096, 1), /*dsync=*/true));
      if (!no_flush) {
        EXPECT_TRUE(below_server.flags_seen() & DM_USER_REQ_MAP_FLAG_FUA);
      }
      EXPECT_EQ(Bytes(4096, 1), Read(8, 8));
      const uint64_t before = below_.StatusNumber(kServed);
      sync = StartFsync(device_);
      EXPECT_EQ(0, Await(&sync).result);
      EXPECT_EQ(before + 1, below_.StatusNumber(kServed));
      EXPECT_TRUE(below_server.flags_seen() & DM_USER_REQ_MAP_FLAG_PREFLUSH);
      EXPECT_EQ(!no_flush,
                bool(server.flags_seen() & DM_USER_REQ_MAP_FLAG_PREFLUSH));
    }
    EXPECT_EQ("0", other_.StatusField(kServed));
    EXPECT_EQ(0, device_.Remove());
  }
}

TEST_F(RedirectTest, DiscardsGoWhereTheDataIsIfItKnowsThem) {
  ASSERT_EQ(0, below_.CreateUser("1 discard"));
  ASSERT_EQ(0, other_.CreateUser());
  RamServer below_server("below", kDeviceSectors * 512);
  RamServer plain_server("other", kDeviceSectors * 512);
  Open(
      RedirectWords(16, {below_.block_path(), other_.block_path()}, "discard"));
  RamServer server("redirect", kDeviceSectors * 512);
  for (RamServer* s : {&below_server, &plain_server, &server}) {
    memset(s->data(), 0xff, kDeviceSectors * 512);
  }
  ASSERT_EQ(
      0, Add(channel_.get(), {Extent(0, 8, 0, 80, 1), Extent(8, 8, 1, 160, 1),
                              Extent(16, 8, 0, 1600)}));
  Io io = StartRangeIoctl(device_, BLKDISCARD, 0, 24 * 512);
  EXPECT_EQ(0, Await(&io).result);
  EXPECT_EQ(Bytes(8 * 512), Bytes(below_server.data() + 80 * 512,
                                  below_server.data() + 88 * 512));
  EXPECT_EQ(0xff, below_server.data()[1600 * 512]);
  EXPECT_EQ(0xff, plain_server.data()[160 * 512]);
  EXPECT_EQ(0xff, server.data()[0]);
  EXPECT_EQ(Bytes(16 * 512),
            Bytes(server.data() + 8 * 512, server.data() + 24 * 512));
}

TEST_F(RedirectTest, AnErrorIsThatOfItsBioAlone) {
  ASSERT_EQ(0, below_.Create({{0, 8, "linear", ram_[0] + " 0"},
                              {8, 8, "error", ""},
                              {16, 8, "linear", ram_[0] + " 16"}}));
  Open(RedirectWords(1, {below_.block_path()}));
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 24, 0, 0)}));
  Buffer buffer(4096);
  Io io = StartRead(device_, 4096, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
  EXPECT_EQ(Content(0, 0, 8), Read(0, 8));
  EXPECT_EQ(Content(0, 16, 8), Read(16, 8));
  EXPECT_EQ(0, RevokeAll(channel_.get(), 5000)) << "the failed one counts";
}

TEST_F(RedirectTest, NowaitIsHonest) {
  OpenBoth();
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 64, 0, 64)}));
  const int fd =
      open(device_.block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  Buffer buffer(4096);
  iovec part = {buffer.data(), buffer.size()};
  EXPECT_EQ(4096, preadv2(fd, &part, 1, 4096, RWF_NOWAIT)) << errno;
  EXPECT_EQ(Content(0, 72, 8), buffer.Copy());
  close(fd);
}

TEST_F(RedirectTest, BlocksAreAsLargeAsTheDevices) {
  ASSERT_EQ(0, below_.CreateUser("2 logical_block 4096"));
  RamServer large_server("below", kDeviceSectors * 512);
  ASSERT_EQ(0, device_.CreateEmpty());
  EXPECT_EQ(
      EINVAL,
      device_.Load({UserLine("redirect", RedirectWords(1, {below_.block_path()},
                                                       "logical_block 512"))}));
  ASSERT_EQ(0, device_.Remove());
  Open(RedirectWords(8, {ram_[0], below_.block_path()}));
  EXPECT_EQ("4096", device_.QueueLimit("logical_block_size"));
  dm_user_info info;
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_EQ(4096u, info.block_bytes);
  Channel* c = channel_.get();
  for (const dm_user_extent& e :
       {Extent(4, 8, 0, 0), Extent(0, 4, 0, 0), Extent(0, 8, 0, 4)}) {
    const AddResult r = TryAdd(c, {e});
    EXPECT_EQ(EINVAL, r.error);
    EXPECT_EQ(unsigned{DM_USER_EXTENT_ALIGNMENT}, r.reason);
  }
  ASSERT_EQ(0, Add(c, {Extent(0, 16, 1, 8)}));
  EXPECT_EQ(EINVAL, Revoke(c, 4, 8));
  EXPECT_EQ(EINVAL, Revoke(c, 8, 4));
  EXPECT_EQ(0, Revoke(c, 8, 8));
  large_server.data()[4096] = 42;
  EXPECT_EQ(42, Read(0, 8)[0]);
}

TEST_F(RedirectTest, TableLines) {
  const std::string line =
      "10 read_only max_io 8 logical_block 4096 redirect 5 2 1:0 1:1";
  ASSERT_EQ(0, device_.CreateUser(line));
  EXPECT_EQ(UserLine("redirect", line).params, device_.Table());
  EXPECT_EQ(0, device_.Load({{0, kDeviceSectors, "user", device_.Table()}}));
  EXPECT_EQ(0, device_.Resume());
  EXPECT_EQ(0, device_.Remove());
  ASSERT_EQ(0, device_.CreateUser("5 redirect 16777216 1 /dev/ram1 no_flush"));
  EXPECT_EQ(UserLine("redirect", "5 no_flush redirect 16777216 1 1:1").params,
            device_.Table());
  EXPECT_NE(0, device_.Load({UserLine(
                   "redirect", RedirectWords(1, {device_.block_path()}))}))
      << "itself";
  EXPECT_EQ(EINVAL, device_.Message("redirect 1"));
  EXPECT_EQ(0, device_.Remove());
  ASSERT_EQ(0, device_.CreateEmpty());
  for (const char* words :
       {"1 redirect", "2 redirect 1", "3 redirect 1 1",
        "4 redirect 0 1 /dev/ram0", "4 redirect 16777217 1 /dev/ram0",
        "4 redirect x 1 /dev/ram0", "4 redirect 1 0 /dev/ram0",
        "4 redirect 1 2 /dev/ram0", "4 redirect 1 x /dev/ram0",
        "5 redirect 1 1 /dev/ram0 /dev/ram1", "4 redirect 1 1 /dev/none",
        "4 redirect 1 1 /dev/null",
        "8 redirect 1 1 /dev/ram0 redirect 1 1 /dev/ram0",
        "4 redirect 1 17 /dev/ram0"}) {
    EXPECT_NE(0, device_.Load({UserLine("redirect", words)})) << words;
  }
}

TEST_F(RedirectTest, AnotherTableInheritsNothing) {
  OpenBoth();
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(Content(0, 0, 8), Read(0, 8));
  const uint64_t redirected = device_.StatusNumber(kRedirected);
  EXPECT_LE(1u, redirected);
  ASSERT_EQ(0,
            device_.Load({UserLine("redirect", RedirectWords(3, {ram_[1]}))}));
  ASSERT_EQ(1u, Extents(channel_.get()).size()) << "not loaded yet";
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(Lines(), Extents(channel_.get()));
  EXPECT_EQ("0", device_.StatusField(kExtents));
  EXPECT_EQ(redirected, device_.StatusNumber(kRedirected)) << "of the name";
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(Content(1, 0, 8), Read(0, 8));
  EXPECT_EQ(redirected + 1, device_.StatusNumber(kRedirected));
  // The same table once more keeps them.
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/false));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ((Lines{"0+8 0@0"}), Extents(channel_.get()));
}

TEST_F(RedirectTest, WhatWaitsStaysWithTheDaemon) {
  OpenBoth();
  Buffer a(4096), b(4096);
  Io delivered = StartRead(device_, 0, &a);
  WireRequest first, second;
  ASSERT_TRUE(channel_->Next(&first));
  Io queued = StartRead(device_, 0, &b);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  ASSERT_EQ(0, Add(channel_.get(), {Extent(0, 8, 0, 0)}));
  EXPECT_EQ(Content(0, 0, 8), Read(0, 8));
  ASSERT_TRUE(channel_->Next(&second));
  EXPECT_TRUE(channel_->Reply(first.header.seq, Pattern(4096, 1)));
  EXPECT_TRUE(channel_->Reply(second.header.seq, Pattern(4096, 2)));
  EXPECT_EQ(4096, Await(&delivered).result);
  EXPECT_EQ(4096, Await(&queued).result);
  EXPECT_EQ(Pattern(4096, 1), a.Copy());
  EXPECT_EQ(Pattern(4096, 2), b.Copy());
}

}  // namespace
}  // namespace dmu
