// SPDX-License-Identifier: Apache-2.0
//
// Goal: a request that is answered with a place ends there, and nowhere else:
// data, flushes and discards; a place that cannot be fails that request alone
// and leaves every device as it was; and only who asked for it may do so.
// Method: RAM disks with known content, and devices of this target that see
// what reaches them, below; the daemon's side by hand. Batches of such answers
// are in kernel_remap_batch_test.cc, what is in flight in
// kernel_remap_flight_test.cc.
#include <errno.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include <memory>
#include <string>
#include <vector>

#include "test/vm/remap.h"

namespace dmu {
namespace {

using RemapTest = RemapFixture;

int SetChannel(int fd, uint64_t flags) {
  dm_user_channel set = {};
  set.flags = flags;
  return ioctl(fd, DM_USER_IOC_SET_CHANNEL, &set) < 0 ? errno : 0;
}

TEST_F(RemapTest, ReadsComeFromTheirPlace) {
  OpenBoth();
  Pending* whole = Read(0, 128);
  Pending* odd = Read(777, 1);
  Pending* last = Read(kDeviceSectors - 8, 8);
  Pending* same = Read(64, 8);
  const Headers got = Take(4);
  Give({RemapTo(got[2].seq, 0, kRamDiskSectors - 8),
        RemapTo(got[0].seq, 1, 4097), RemapTo(got[3].seq, 0, 64),
        RemapTo(got[1].seq, 1, 0)});
  ExpectRead(whole, Content(1, 4097, 128));
  ExpectRead(odd, Content(1, 0, 1));
  ExpectRead(last, Content(0, kRamDiskSectors - 8, 8));
  ExpectRead(same, Content(0, 64, 8));
  EXPECT_EQ("4", device_.StatusField(kServed));
  EXPECT_EQ("4", device_.StatusField(kRemapped));
  EXPECT_EQ("0", device_.StatusField(kErrors));
  EXPECT_EQ("0", device_.StatusField(kRedirected)) << "it was a request";
  ExpectIdle();
}

// One message of several bios of different lengths, and one place.
TEST_F(RemapTest, RidersGoBehindEachOther) {
  OpenBoth("", DM_USER_CHANNEL_COALESCE, 1 << 20);
  const uint64_t lengths[] = {3, 1, 8, 17};
  std::vector<Pending*> reads, writes;
  uint64_t sector = 11;
  for (const uint64_t sectors : lengths) {
    reads.push_back(Read(sector, sectors));
    sector += sectors;
  }
  Headers got = Take(4, 1);
  EXPECT_EQ(29u * 512, got[0].len);
  Give({RemapTo(got[0].seq, 1, 1001)});
  uint64_t at = 1001;
  for (size_t i = 0; i < reads.size(); ++i) {
    ExpectRead(reads[i], Content(1, at, lengths[i]));
    at += lengths[i];
  }
  EXPECT_EQ("3", device_.StatusField(kCoalesced));
  EXPECT_EQ("4", device_.StatusField(kRemapped));

  Bytes expected = Whole(0);
  sector = 500;
  at = 9;
  for (uint32_t i = 0; i < 4; ++i) {
    writes.push_back(Write(sector, lengths[i], 70 + i));
    memcpy(expected.data() + at * 512, writes[i]->buffer.data(),
           lengths[i] * 512);
    sector += lengths[i];
    at += lengths[i];
  }
  got = Take(4, 1);
  Give({RemapTo(got[0].seq, 0, 9)});
  for (Pending* write : writes) ExpectDone(write);
  EXPECT_TRUE(expected == ReadDevice(ram_[0], 0, expected.size()));
  EXPECT_EQ("8", device_.StatusField(kServed));
  EXPECT_EQ("8", device_.StatusField(kRemapped));

  // One that is not there for the last of them is there for none.
  for (size_t i = 0; i < 4; ++i) {
    reads[i] = Read(sector, lengths[i]);
    sector += lengths[i];
  }
  got = Take(4, 1);
  Give({RemapTo(got[0].seq, 0, kRamDiskSectors - 28)}, /*stale=*/1);
  for (Pending* read : reads) ExpectError(read, EIO);
  EXPECT_EQ("8", device_.StatusField(kRemapped));
  EXPECT_EQ("4", device_.StatusField(kErrors));
}

TEST_F(RemapTest, WritesReachTheirPlaceAlone) {
  OpenBoth();
  Pending* first = Write(0, 16, 5);
  Pending* second = Write(100, 1, 6);
  const Headers got = Take(2);
  Give({RemapTo(got[0].seq, 1, 33), RemapTo(got[1].seq, 0, 4095)});
  ExpectDone(first);
  ExpectDone(second);
  Bytes expected = Whole(1);
  memcpy(expected.data() + 33 * 512, first->buffer.data(), 16 * 512);
  EXPECT_TRUE(expected == ReadDevice(ram_[1], 0, expected.size()));
  expected = Whole(0);
  memcpy(expected.data() + 4095 * 512, second->buffer.data(), 512);
  EXPECT_TRUE(expected == ReadDevice(ram_[0], 0, expected.size()));
}

TEST_F(RemapTest, FlushesReachTheDevicesThatWereWritten) {
  ASSERT_EQ(0, below_.CreateUser());
  ASSERT_EQ(0, other_.CreateUser());
  RamServer below_server("below", kDeviceSectors * 512);
  RamServer unused_server("other", kDeviceSectors * 512);
  for (const bool no_flush : {false, true}) {
    Open(RedirectWords(16, {other_.block_path(), below_.block_path()},
                       no_flush ? "no_flush" : ""));
    {
      RemapServer server(channel_.get(), [](const WireHeader& h) {
        if (h.len == 0) return Answer(h.seq);
        return RemapTo(h.seq, h.type == DM_USER_REQ_MAP_READ ? 0 : 1, h.sector);
      });
      // A read is not a write.
      Buffer buffer(4096);
      Io io = StartRead(device_, 0, &buffer);
      EXPECT_EQ(4096, Await(&io).result);
      const uint64_t unused = other_.StatusNumber(kServed);
      uint64_t served = below_.StatusNumber(kServed);
      io = StartFsync(device_);
      EXPECT_EQ(0, Await(&io).result);
      EXPECT_EQ(served, below_.StatusNumber(kServed)) << "nothing was written";
      buffer.FillPattern(8);
      io = StartWrite(device_, 4096, &buffer, /*dsync=*/true);
      EXPECT_EQ(4096, Await(&io).result);
      if (!no_flush) {
        EXPECT_TRUE(below_server.flags_seen() & DM_USER_REQ_MAP_FLAG_FUA);
      }
      EXPECT_EQ(0, memcmp(below_server.data() + 4096, buffer.data(), 4096));
      served = below_.StatusNumber(kServed);
      io = StartFsync(device_);
      EXPECT_EQ(0, Await(&io).result);
      EXPECT_EQ(served + 1, below_.StatusNumber(kServed));
      EXPECT_TRUE(below_server.flags_seen() & DM_USER_REQ_MAP_FLAG_PREFLUSH);
      EXPECT_EQ(!no_flush,
                bool(server.flags_seen() & DM_USER_REQ_MAP_FLAG_PREFLUSH));
      EXPECT_EQ(unused, other_.StatusNumber(kServed)) << "only read";
    }
    channel_.reset();
    EXPECT_EQ(0, device_.Remove());
  }
}

TEST_F(RemapTest, DiscardsGoWhereTheyAreKnown) {
  ASSERT_EQ(0, below_.CreateUser("1 discard"));
  ASSERT_EQ(0, other_.CreateUser());
  RamServer below_server("below", kDeviceSectors * 512);
  RamServer plain_server("other", kDeviceSectors * 512);
  Bytes expected(kDeviceSectors * 512, 0xff);
  memset(below_server.data(), 0xff, expected.size());
  memset(plain_server.data(), 0xff, expected.size());
  Open(
      RedirectWords(16, {below_.block_path(), other_.block_path()}, "discard"));
  for (const uint64_t device : {0u, 1u}) {
    Io discard = StartRangeIoctl(device_, BLKDISCARD, 0, 4096);
    const Headers got = Take(1);
    EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_DISCARD}, got[0].type);
    Give({RemapTo(got[0].seq, device, 80)});
    // Some kernels hide that a discard is not supported.
    const int error = Await(&discard).error;
    EXPECT_TRUE(error == 0 || (device == 1 && error == EOPNOTSUPP)) << error;
    EXPECT_EQ(device, device_.StatusNumber(kErrors));
  }
  EXPECT_EQ("1", device_.StatusField(kRemapped));
  EXPECT_EQ("2", device_.StatusField(kServed));
  EXPECT_EQ(0, memcmp(expected.data(), plain_server.data(), expected.size()));
  memset(expected.data() + 80 * 512, 0, 4096);
  EXPECT_EQ(0, memcmp(expected.data(), below_server.data(), expected.size()));
}

TEST_F(RemapTest, WriteZeroesGoThereToo) {
  ASSERT_EQ(0, below_.CreateUser("1 write_zeroes"));
  RamServer below_server("below", kDeviceSectors * 512);
  Bytes expected(kDeviceSectors * 512, 0xff);
  memset(below_server.data(), 0xff, expected.size());
  Open(RedirectWords(16, {below_.block_path()}, "write_zeroes"));
  Io zeroes = StartRangeIoctl(device_, BLKZEROOUT, 4096, 4096);
  const Headers got = Take(1);
  EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_WRITE_ZEROES}, got[0].type);
  Give({RemapTo(got[0].seq, 0, 160)});
  EXPECT_EQ(0, Await(&zeroes).error);
  memset(expected.data() + 160 * 512, 0, 4096);
  EXPECT_EQ(0, memcmp(expected.data(), below_server.data(), expected.size()));
}

TEST_F(RemapTest, TheChannelMustAskForIt) {
  Open(RedirectWords(1, {ram_[0]}));
  dm_user_info info;
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_TRUE(info.features & DM_USER_FEATURE_REMAP);
  Channel channel("remap");
  EXPECT_EQ(EINVAL, SetChannel(channel.fd(), DM_USER_CHANNEL_REMAP));
  EXPECT_EQ(EINVAL, SetChannel(channel.fd(),
                               DM_USER_CHANNEL_REMAP | DM_USER_CHANNEL_BATCH));
  EXPECT_EQ(EINVAL, SetChannel(channel.fd(), DM_USER_CHANNEL_REMAP |
                                                 DM_USER_CHANNEL_USER_COPY));
  EXPECT_EQ(EINVAL, SetChannel(channel.fd(), kRemapFlags | uint64_t{1} << 6));
  // Until the first read it may change its mind.
  const uint64_t plain = kRemapFlags & ~uint64_t{DM_USER_CHANNEL_REMAP};
  EXPECT_EQ(0, SetChannel(channel.fd(), kRemapFlags));
  EXPECT_EQ(0, channel.SetFlags(plain));
  Pending* read = Read(0, 8);
  WireHeader h = {};
  ASSERT_EQ(ssize_t{kHeaderBytes}, channel.Read(&h, sizeof(h)));
  EXPECT_EQ(EBUSY, SetChannel(channel.fd(), kRemapFlags));
  EXPECT_EQ(0, SetChannel(channel.fd(), plain | DM_USER_CHANNEL_FENCED));
  // Without it this type is none.
  const WireHeader place = RemapTo(h.seq, 0, 0);
  ASSERT_EQ(ssize_t{kHeaderBytes}, channel.Write(&place, sizeof(place)));
  ExpectError(read, EIO);
  EXPECT_EQ("0", device_.StatusField(kRemapped));
  read = Read(0, 8);
  const Headers got = Take(1);
  EXPECT_EQ(EBUSY, SetChannel(channel_->fd(), plain));
  EXPECT_EQ(0, SetChannel(channel_->fd(), kRemapFlags));
  Give({RemapTo(got[0].seq, 0, 8)});
  ExpectRead(read, Content(0, 8, 8));
}

TEST_F(RemapTest, TheTableMustNameDevices) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("remap");
  EXPECT_EQ(EOPNOTSUPP, SetChannel(channel.fd(), kRemapFlags));
  ASSERT_EQ(0, device_.Remove());
  EXPECT_EQ(ENOTBLK, SetChannel(channel.fd(), kRemapFlags));
  // One that names them no more.
  OpenBoth();
  ASSERT_EQ(0, device_.Load({UserLine("remap")}));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/false));
  ASSERT_EQ(0, device_.Resume());
  Pending* read = Read(0, 8);
  Headers got = Take(1);
  Give({RemapTo(got[0].seq, 0, 0)}, /*stale=*/1);
  ExpectError(read, EIO);
  // And another that does.
  ASSERT_EQ(0, device_.Load({UserLine("remap", RedirectWords(1, {ram_[1]}))}));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/false));
  ASSERT_EQ(0, device_.Resume());
  read = Read(0, 8);
  Pending* wrong = Read(8, 8);
  got = Take(2);
  Give({RemapTo(got[0].seq, 0, 5), RemapTo(got[1].seq, 1, 0)}, /*stale=*/1);
  ExpectRead(read, Content(1, 5, 8));
  ExpectError(wrong, EIO);
}

TEST_F(RemapTest, AWrongPlaceFailsItsRequestAlone) {
  ASSERT_EQ(0, below_.Create({{0, 2048, "linear", ram_[1] + " 0"}}));
  Open(RedirectWords(1, {ram_[0], below_.block_path()}));
  const struct {
    uint64_t device;
    uint64_t sector;
    uint64_t len;
  } places[] = {
      {2, 0, 0},
      {15, 0, 0},
      {16, 0, 0},
      {256, 0, 0},
      {uint64_t{1} << 32, 0, 0},
      {UINT64_MAX, 0, 0},
      {0, kRamDiskSectors - 7, 0},
      {0, kRamDiskSectors, 0},
      {1, 2041, 0},
      {1, kRamDiskSectors - 8, 0},
      {0, UINT64_MAX, 0},
      {0, UINT64_MAX - 7, 0},
      {0, UINT64_MAX - 8, 0},
      {1, uint64_t{1} << 63, 0},
      {0, (uint64_t{1} << 55) + 8, 0},
      {0, 0, 1},
      {0, 0, 4096},
      {1, 0, UINT64_MAX},
  };
  uint64_t errors = 0;
  for (const auto& place : places) {
    for (const bool write : {false, true}) {
      const std::string what =
          std::to_string(place.device) + "@" + std::to_string(place.sector) +
          " " + std::to_string(place.len) + (write ? " w" : " r");
      SCOPED_TRACE(what);
      Pending* victim = write ? Write(0, 8, 3) : Read(0, 8);
      Pending* good = Read(8, 8);
      const Headers got = Take(2);
      Give({RemapTo(got[0].seq, place.device, place.sector, place.len),
            RemapTo(got[1].seq, 1, 2040)},
           /*stale=*/1);
      ExpectError(victim, EIO);
      ExpectRead(good, Content(1, 2040, 8));
      EXPECT_EQ(++errors, device_.StatusNumber(kErrors));
      EXPECT_EQ(errors, device_.StatusNumber(kRemapped));
      EXPECT_EQ(2 * errors, device_.StatusNumber(kServed));
    }
  }
  EXPECT_TRUE(Whole(0) == ReadDevice(ram_[0], 0, Whole(0).size()));
  EXPECT_TRUE(Whole(1) == ReadDevice(ram_[1], 0, Whole(1).size()));
  ExpectIdle();
}

TEST_F(RemapTest, WhatHasNoLengthHasNoPlace) {
  OpenBoth();
  Io sync = StartFsync(device_);
  Headers got = Take(1);
  EXPECT_EQ(0u, got[0].len);
  Give({RemapTo(got[0].seq, 0, 0)}, /*stale=*/1);
  EXPECT_EQ(EIO, Await(&sync).error);
  EXPECT_EQ("1", device_.StatusField(kErrors));
  EXPECT_EQ("0", device_.StatusField(kRemapped));
}

TEST_F(RemapTest, PlacesAreWholeBlocks) {
  OpenBoth("logical_block 4096");
  for (const uint64_t sector : {1u, 4u, 7u, 12u}) {
    Pending* read = Read(0, 8);
    const Headers got = Take(1);
    Give({RemapTo(got[0].seq, 0, sector)}, /*stale=*/1);
    ExpectError(read, EIO);
  }
  Pending* read = Read(0, 8);
  const Headers got = Take(1);
  Give({RemapTo(got[0].seq, 0, 24)});
  ExpectRead(read, Content(0, 24, 8));
}

// A write that came before its table was one for reading.
TEST_F(RemapTest, NoWriteToWhatIsOpenForReading) {
  OpenBoth();
  Pending* write = Write(0, 8, 3);
  Headers got = Take(1);
  const uint64_t before = got[0].seq;
  ASSERT_EQ(0, device_.Load(
                   {UserLine("remap", RedirectWords(16, {ram_[0], ram_[1]}))},
                   /*read_only=*/true));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  got = Take(1);
  EXPECT_NE(before, got[0].seq);
  Give({RemapTo(before, 0, 0), RemapTo(got[0].seq, 0, 0)}, /*stale=*/2);
  ExpectError(write, EIO);
  EXPECT_TRUE(Whole(0) == ReadDevice(ram_[0], 0, Whole(0).size()));
  Pending* read = Read(8, 8);
  got = Take(1);
  Give({RemapTo(got[0].seq, 0, 1)});
  ExpectRead(read, Content(0, 1, 8));
}

TEST_F(RemapTest, ReadOnlyTables) {
  OpenBoth("read_only");
  Pending* read = Read(0, 8);
  const Headers got = Take(1);
  Give({RemapTo(got[0].seq, 1, 3)});
  ExpectRead(read, Content(1, 3, 8));
  Buffer buffer(4096);
  Io io = StartWrite(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&io).error);
}

// The answer of another channel is for none of this one's requests.
TEST_F(RemapTest, OnlyTheChannelThatHasIt) {
  OpenBoth();
  Channel other("remap");
  ASSERT_EQ(0, other.SetFlags(kRemapFlags));
  Pending* read = Read(0, 8);
  const Headers got = Take(1);
  const WireHeader place = RemapTo(got[0].seq, 0, 0);
  EXPECT_EQ(1u, Exchange(&other, &place, sizeof(place)).stale);
  EXPECT_EQ("1", device_.StatusField(kDelivered));
  Give({RemapTo(got[0].seq, 1, 40), place}, /*stale=*/1);
  ExpectRead(read, Content(1, 40, 8));
}

}  // namespace
}  // namespace dmu
