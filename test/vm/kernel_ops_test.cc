// SPDX-License-Identifier: Apache-2.0
//
// Goal: every operation the block layer can send arrives on the wire as the
// UAPI header says, and its answer reaches who asked.
// Method: one I/O in a thread, the daemon's side by hand in the test.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

class Ops : public testing::Test {
 protected:
  MappedDevice device_{"ops"};
};

TEST_F(Ops, Read) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("ops");
  Buffer buffer(8192);
  Io io = StartRead(device_, 4096, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(0u, request.header.seq);
  EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_READ}, request.header.type);
  EXPECT_EQ(8u, request.header.sector);
  EXPECT_EQ(8192u, request.header.len);
  const std::vector<uint8_t> data = Pattern(8192, 1);
  ASSERT_TRUE(channel.Reply(0, data));
  EXPECT_EQ(8192, Await(&io).result);
  EXPECT_EQ(data, buffer.Copy());
}

TEST_F(Ops, Write) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("ops");
  Buffer buffer(12288);
  buffer.FillPattern(2);
  Io io = StartWrite(device_, 1024 * 512, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_WRITE}, request.header.type);
  EXPECT_EQ(1024u, request.header.sector);
  EXPECT_EQ(12288u, request.header.len);
  EXPECT_EQ(buffer.Copy(), request.payload);
  EXPECT_FALSE(IsReady(&io));
  ASSERT_TRUE(channel.Reply(request.header.seq));
  EXPECT_EQ(12288, Await(&io).result);
}

TEST_F(Ops, FsyncIsAnEmptyWriteWithPreflush) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("ops");
  Io io = StartFsync(device_);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_WRITE}, request.header.type);
  EXPECT_EQ(0u, request.header.len);
  EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_FLAG_PREFLUSH | DM_USER_REQ_MAP_FLAG_SYNC},
            request.header.flags);
  ASSERT_TRUE(channel.Reply(request.header.seq));
  EXPECT_EQ(0, Await(&io).result);
}

TEST_F(Ops, DsyncWriteCarriesFua) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("ops");
  Buffer buffer(4096, 7);
  Io io = StartWrite(device_, 0, &buffer, /*dsync=*/true);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(4096u, request.header.len);
  EXPECT_TRUE(request.header.flags & DM_USER_REQ_MAP_FLAG_FUA);
  ASSERT_TRUE(channel.Reply(request.header.seq));
  // An O_DSYNC write of a block device ends with a flush of its own.
  if (channel.Poll(200) == POLLIN) {
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_EQ(0u, request.header.len);
    ASSERT_TRUE(channel.Reply(request.header.seq));
  }
  EXPECT_EQ(4096, Await(&io).result);
}

struct RangeOp {
  const char* name;
  const char* feature;
  unsigned long request;
  uint64_t type;
};

class RangeOps : public testing::TestWithParam<RangeOp> {
 protected:
  MappedDevice device_{"range"};
};

TEST_P(RangeOps, ArrivesWithTheFeature) {
  ASSERT_EQ(0, device_.CreateUser(std::string("1 ") + GetParam().feature));
  Channel channel("range");
  Io io = StartRangeIoctl(device_, GetParam().request, 8192, 1 << 20);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(GetParam().type, request.header.type);
  EXPECT_EQ(16u, request.header.sector);
  EXPECT_EQ(uint64_t{1 << 20}, request.header.len);
  ASSERT_TRUE(channel.Reply(request.header.seq));
  EXPECT_EQ(0, Await(&io).result);
}

TEST_P(RangeOps, UnsupportedReply) {
  ASSERT_EQ(0, device_.CreateUser(std::string("1 ") + GetParam().feature));
  Channel channel("range");
  Io io = StartRangeIoctl(device_, GetParam().request, 0, 4096);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_EQ(ssize_t{sizeof(WireHeader)},
            channel.ReplyType(request.header.seq, DM_USER_RESP_UNSUPPORTED));
  if (GetParam().request == BLKZEROOUT) {
    // The block layer falls back to writing zeroes itself.
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_WRITE}, request.header.type);
    EXPECT_EQ(std::vector<uint8_t>(4096), request.payload);
    ASSERT_TRUE(channel.Reply(request.header.seq));
    EXPECT_EQ(0, Await(&io).result);
    return;
  }
  // Up to 6.5 or so the block layer hides EOPNOTSUPP of a discard, which is
  // advisory, from the ioctl.
  const IoResult result = Await(&io);
  if (result.result < 0) {
    EXPECT_EQ(EOPNOTSUPP, result.error);
  } else {
    EXPECT_EQ(static_cast<unsigned long>(BLKDISCARD), GetParam().request);
  }
}

TEST_P(RangeOps, DoesNotArriveWithoutTheFeature) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("range");
  if (GetParam().request == BLKZEROOUT) {
    Io io = StartRangeIoctl(device_, BLKZEROOUT, 0, 4096);
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_WRITE}, request.header.type);
    ASSERT_TRUE(channel.Reply(request.header.seq));
    EXPECT_EQ(0, Await(&io).result);
    return;
  }
  Io io = StartRangeIoctl(device_, GetParam().request, 0, 4096);
  EXPECT_EQ(EOPNOTSUPP, Await(&io).error);
}

INSTANTIATE_TEST_SUITE_P(
    Each, RangeOps,
    testing::Values(RangeOp{"Discard", "discard", BLKDISCARD,
                            DM_USER_REQ_MAP_DISCARD},
                    RangeOp{"SecureErase", "secure_erase", BLKSECDISCARD,
                            DM_USER_REQ_MAP_SECURE_ERASE},
                    RangeOp{"WriteZeroes", "write_zeroes", BLKZEROOUT,
                            DM_USER_REQ_MAP_WRITE_ZEROES}),
    [](const testing::TestParamInfo<RangeOp>& info) {
      return info.param.name;
    });

TEST_F(Ops, NoFlushKeepsFsyncFromTheDaemon) {
  ASSERT_EQ(0, device_.CreateUser("1 no_flush"));
  EXPECT_EQ("write through", device_.QueueLimit("write_cache"));
  Io io = StartFsync(device_);
  EXPECT_EQ(0, Await(&io).result);
  EXPECT_EQ("0", device_.StatusField(kQueued));
}

TEST_F(Ops, ReadOnlyRefusesWritesWithoutTheDaemon) {
  ASSERT_EQ(0, device_.CreateUser("1 read_only"));
  Buffer buffer(4096);
  Io write = StartWrite(device_, 0, &buffer);
  EXPECT_EQ(EIO, Await(&write).error);
  Io fsync = StartFsync(device_);
  EXPECT_EQ(0, Await(&fsync).result);
  RamServer server("ops", kDeviceSectors * 512);
  Io read = StartRead(device_, 0, &buffer);
  EXPECT_EQ(4096, Await(&read).result);
}

TEST_F(Ops, MaxIoBoundsEachRequest) {
  ASSERT_EQ(0, device_.CreateUser("2 max_io 16"));
  Channel channel("ops");
  dm_user_info info;
  ASSERT_EQ(0, channel.Info(&info));
  EXPECT_EQ(8192u, info.max_io_bytes);
  Buffer buffer(32768);
  Io io = StartRead(device_, 4096, &buffer);
  uint64_t total = 0;
  while (total < buffer.size()) {
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_LE(request.header.len, 8192u);
    EXPECT_EQ(total / 512 + 8, request.header.sector);
    total += request.header.len;
    ASSERT_TRUE(
        channel.Reply(request.header.seq, Pattern(request.header.len, 3)));
  }
  EXPECT_EQ(32768, Await(&io).result);
}

TEST_F(Ops, LogicalBlockAndLimitsReachTheQueue) {
  ASSERT_EQ(0, device_.CreateUser(
                   "5 discard write_zeroes secure_erase logical_block 4096"));
  EXPECT_EQ("4096", device_.QueueLimit("logical_block_size"));
  EXPECT_EQ("4096", device_.QueueLimit("physical_block_size"));
  EXPECT_EQ("4096", device_.QueueLimit("discard_granularity"));
  EXPECT_EQ("2147483648", device_.QueueLimit("discard_max_bytes"));
  EXPECT_EQ("2147483648", device_.QueueLimit("write_zeroes_max_bytes"));
  EXPECT_EQ("write back", device_.QueueLimit("write_cache"));
  EXPECT_EQ("1", device_.QueueLimit("fua"));
}

// The block layer refuses such an I/O on a device that may sleep on the way.
TEST_F(Ops, NowaitArrivesAndIsServed) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("ops");
  Buffer buffer(4096);
  auto read = std::async(std::launch::async, [&]() -> ssize_t {
    const int fd = open(device_.block_path().c_str(), O_RDONLY | O_DIRECT);
    iovec to = {buffer.data(), buffer.size()};
    const ssize_t got = preadv2(fd, &to, 1, 0, RWF_NOWAIT);
    const int error = errno;
    close(fd);
    return got < 0 ? -error : got;
  });
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_TRUE(request.header.flags & DM_USER_REQ_MAP_FLAG_NOWAIT);
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(4096, 4)));
  EXPECT_EQ(4096, read.get());
  EXPECT_EQ(Pattern(4096, 4), buffer.Copy());
}

TEST_F(Ops, LimitsOfTheTableReachTheQueue) {
  ASSERT_EQ(
      0, device_.CreateUser("13 discard write_zeroes secure_erase max_io 256 "
                            "logical_block 1024 physical_block 8192 "
                            "discard_granularity 65536 max_discard 4096"));
  EXPECT_EQ("1024", device_.QueueLimit("logical_block_size"));
  EXPECT_EQ("8192", device_.QueueLimit("physical_block_size"));
  EXPECT_EQ("8192", device_.QueueLimit("minimum_io_size"));
  EXPECT_EQ("128", device_.QueueLimit("max_hw_sectors_kb"));
  EXPECT_EQ("128", device_.QueueLimit("max_sectors_kb"));
  EXPECT_EQ("65536", device_.QueueLimit("discard_granularity"));
  EXPECT_EQ("2097152", device_.QueueLimit("discard_max_bytes"));
  EXPECT_EQ("2097152", device_.QueueLimit("write_zeroes_max_bytes"));
}

// A long discard comes in pieces that fit, and their sum is all of it.
TEST_F(Ops, MaxDiscardBoundsEachRequest) {
  ASSERT_EQ(0, device_.CreateUser("3 discard max_discard 1024"));
  Channel channel("ops");
  Io io = StartRangeIoctl(device_, BLKDISCARD, 0, 4 << 20);
  uint64_t total = 0;
  while (total < 4 << 20) {
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_EQ(uint64_t{DM_USER_REQ_MAP_DISCARD}, request.header.type);
    EXPECT_LE(request.header.len, 1024u * 512);
    total += request.header.len;
    ASSERT_TRUE(channel.Reply(request.header.seq));
  }
  EXPECT_EQ(0, Await(&io).result);
}

TEST_F(Ops, DefaultLimitsOfferNoRangeOperation) {
  ASSERT_EQ(0, device_.CreateUser());
  EXPECT_EQ("512", device_.QueueLimit("logical_block_size"));
  EXPECT_EQ("0", device_.QueueLimit("discard_max_bytes"));
  EXPECT_EQ("0", device_.QueueLimit("write_zeroes_max_bytes"));
}

TEST_F(Ops, SectorIsCountedFromTheStartOfTheDevice) {
  ASSERT_EQ(0, device_.Create({{0, 2048, "error", ""},
                               {2048, 2048, "user", "2048 2048 ops"}}));
  Channel channel("ops");
  dm_user_info info;
  ASSERT_EQ(0, channel.Info(&info));
  EXPECT_EQ(2048u, info.start_sector);
  EXPECT_EQ(2048u, info.sectors);
  Buffer buffer(512);
  Io io = StartRead(device_, 3000 * 512, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(3000u, request.header.sector);
  EXPECT_EQ(512u, request.header.len);
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(512, 4)));
  EXPECT_EQ(512, Await(&io).result);
}

TEST_F(Ops, LargeRequestsComeAndGoWhole) {
  ASSERT_EQ(0, device_.CreateUser());
  RamServer server("ops", kDeviceSectors * 512);
  Buffer out(6 << 20), in(6 << 20);
  out.FillPattern(5);
  Io write = StartWrite(device_, 512, &out);
  EXPECT_EQ(6 << 20, Await(&write).result);
  Io read = StartRead(device_, 512, &in);
  EXPECT_EQ(6 << 20, Await(&read).result);
  EXPECT_EQ(out.Copy(), in.Copy());
}

// REQ_SWAP is one of the flags that must not kill a bio.
TEST_F(Ops, SwapOnTheDevice) {
  constexpr size_t kSwapBytes = 4 << 20, kMemory = 2 << 20;
  ASSERT_EQ(0, device_.CreateUser());
  RamServer server("ops", kDeviceSectors * 512);
  uint32_t* info = reinterpret_cast<uint32_t*>(server.data() + 1024);
  info[0] = 1;                      // version
  info[1] = kSwapBytes / 4096 - 1;  // last page
  info[2] = 0;                      // bad pages
  memcpy(server.data() + 4086, "SWAPSPACE2", 10);
  ASSERT_EQ(0, swapon(device_.block_path().c_str(), 0)) << strerror(errno);
  auto* memory =
      static_cast<uint8_t*>(mmap(nullptr, kMemory, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(MAP_FAILED, memory);
  const std::vector<uint8_t> data = Pattern(kMemory, 6);
  memcpy(memory, data.data(), kMemory);
  EXPECT_EQ(0, madvise(memory, kMemory, MADV_PAGEOUT));
  EXPECT_EQ(0, memcmp(memory, data.data(), kMemory));
  EXPECT_TRUE(server.flags_seen() & DM_USER_REQ_MAP_FLAG_SWAP);
  EXPECT_EQ(0, swapoff(device_.block_path().c_str()));
  munmap(memory, kMemory);
  EXPECT_EQ("0", device_.StatusField(kErrors));
}

struct ErrorReply {
  uint64_t type;
  int error;
};

class Errors : public testing::TestWithParam<ErrorReply> {
 protected:
  MappedDevice device_{"errors"};
};

TEST_P(Errors, OfReadsAndWritesReachTheCaller) {
  ASSERT_EQ(0, device_.CreateUser());
  Channel channel("errors");
  Buffer buffer(4096);
  for (const bool write : {false, true}) {
    Io io = write ? StartWrite(device_, 0, &buffer)
                  : StartRead(device_, 0, &buffer);
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    ASSERT_EQ(ssize_t{sizeof(WireHeader)},
              channel.ReplyType(request.header.seq, GetParam().type));
    EXPECT_EQ(GetParam().error, Await(&io).error);
  }
  EXPECT_EQ("2", device_.StatusField(kErrors));
  EXPECT_EQ("2", device_.StatusField(kServed));
}

INSTANTIATE_TEST_SUITE_P(
    Each, Errors,
    testing::Values(ErrorReply{DM_USER_RESP_ERROR, EIO},
                    ErrorReply{DM_USER_RESP_UNSUPPORTED, EOPNOTSUPP},
                    ErrorReply{3, EIO}, ErrorReply{UINT64_MAX, EIO}));

}  // namespace
}  // namespace dmu
