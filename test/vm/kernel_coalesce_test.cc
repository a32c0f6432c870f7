// SPDX-License-Identifier: Apache-2.0
//
// Goal: a channel that asks for it gets adjacent requests as one message, and
// each of them ends as it would have ended alone.
// Method: requests queued one after another, so that their order is known, and
// the daemon's side by hand.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

constexpr uint64_t kFlags = DM_USER_CHANNEL_COALESCE | DM_USER_CHANNEL_FENCED;
constexpr uint32_t kBlock = 4096;

using Bytes = std::vector<uint8_t>;

class Coalesce : public testing::Test {
 protected:
  void Make(const std::string& features = "", uint64_t coalesce_bytes = 65536) {
    ASSERT_EQ(0, device_.CreateUser(features));
    channel_ = std::make_unique<Channel>("join");
    ASSERT_TRUE(channel_->ok());
    ASSERT_EQ(0, channel_->SetFlags(kFlags, coalesce_bytes));
  }
  Buffer* NewBuffer(uint32_t bytes) {
    buffers_.push_back(std::make_unique<Buffer>(bytes));
    buffers_.back()->FillPattern(static_cast<uint32_t>(buffers_.size()));
    return buffers_.back().get();
  }
  void Queued() {
    ASSERT_TRUE(device_.AwaitStatus(kQueued, std::to_string(ios_.size())));
  }
  void Write(uint64_t block, bool dsync = false, uint32_t bytes = kBlock) {
    ios_.push_back(
        StartWrite(device_, block * kBlock, NewBuffer(bytes), dsync));
    Queued();
  }
  void Read(uint64_t block, uint32_t bytes = kBlock) {
    ios_.push_back(StartRead(device_, block * kBlock, NewBuffer(bytes)));
    Queued();
  }
  // Blocks [first, first + count) each as a request of its own.
  void Writes(uint64_t first, int count) {
    for (int i = 0; i < count; ++i) Write(first + static_cast<uint64_t>(i));
  }
  void Reads(uint64_t first, int count) {
    for (int i = 0; i < count; ++i) Read(first + static_cast<uint64_t>(i));
  }
  // The next message's number of blocks; answers a write, and a read with the
  // pattern of its sector.
  uint64_t TakeOne() {
    WireRequest request;
    if (!channel_->Next(&request)) return 0;
    const bool read = request.header.type == DM_USER_REQ_MAP_READ;
    EXPECT_TRUE(channel_->Reply(
        request.header.seq, read ? Pattern(request.header.len, 1) : Bytes()));
    return request.header.len / kBlock;
  }
  void ExpectAll(int64_t result) {
    for (size_t i = 0; i < ios_.size(); ++i) {
      EXPECT_EQ(result, Await(&ios_[i]).result) << i;
    }
    ios_.clear();
  }
  // What the buffers of all I/O so far hold, one behind the other.
  Bytes Joined() const {
    Bytes all;
    for (const auto& buffer : buffers_) {
      const Bytes part = buffer->Copy();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  MappedDevice device_{"join"};
  std::unique_ptr<Channel> channel_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Io> ios_;
};

TEST_F(Coalesce, WritesAreOneMessage) {
  Make();
  Writes(3, 5);
  WireRequest request;
  ASSERT_TRUE(channel_->Next(&request));
  EXPECT_EQ(0u, request.header.seq);
  EXPECT_EQ(24u, request.header.sector);
  ASSERT_EQ(5u * kBlock, request.header.len);
  EXPECT_EQ(Joined(), request.payload);
  EXPECT_EQ("5", device_.StatusField(kDelivered));
  EXPECT_EQ("0", device_.StatusField(kQueued));
  ASSERT_TRUE(channel_->Reply(request.header.seq));
  ExpectAll(kBlock);
  EXPECT_EQ("5", device_.StatusField(kServed));
  EXPECT_EQ("4", device_.StatusField(kCoalesced));
  EXPECT_EQ("0", device_.StatusField(kDelivered));
}

// In pieces that end in the middle of a header and of each request.
TEST_F(Coalesce, ReadsAreOneMessageInAnyPieces) {
  Make();
  for (const size_t piece : {1u, 1000u, 4096u, 5000u, 1u << 20}) {
    buffers_.clear();
    Reads(0, 3);
    WireHeader header;
    ASSERT_TRUE(channel_->NextHeader(&header));
    ASSERT_EQ(3u * kBlock, header.len);
    const Bytes data = Pattern(3 * kBlock, static_cast<uint32_t>(piece));
    header.type = DM_USER_RESP_SUCCESS;
    Bytes out(sizeof(header));
    memcpy(out.data(), &header, sizeof(header));
    out.insert(out.end(), data.begin(), data.end());
    for (size_t at = 0; at < out.size();) {
      const size_t bytes = std::min(piece, out.size() - at);
      const ssize_t taken = channel_->Write(out.data() + at, bytes);
      ASSERT_EQ(static_cast<ssize_t>(bytes), taken);
      at += bytes;
    }
    ExpectAll(kBlock);
    EXPECT_EQ(data, Joined());
  }
}

TEST_F(Coalesce, OnlyWhatIsAdjacentAndAlike) {
  Make();
  Writes(0, 2);
  Write(3);  // a gap
  Read(4);   // another operation
  Write(5);
  Write(6, /*dsync=*/true);  // FUA: must not wait for more than itself
  Write(7);
  Write(6);  // backwards
  const std::vector<uint64_t> expected = {2, 1, 1, 1, 1, 1, 1};
  for (const uint64_t blocks : expected) EXPECT_EQ(blocks, TakeOne());
  EXPECT_EQ(0u, TakeOne()) << "the flush behind the synchronous write";
  ExpectAll(kBlock);
}

TEST_F(Coalesce, LengthIsBounded) {
  Make("", 2 * kBlock + 512);
  Writes(0, 5);
  EXPECT_EQ(2u, TakeOne());
  EXPECT_EQ(2u, TakeOne());
  EXPECT_EQ(1u, TakeOne());
  ExpectAll(kBlock);
  // Off again; it holds for what is begun from now on.
  ASSERT_EQ(0, channel_->SetFlags(DM_USER_CHANNEL_FENCED));
  Writes(0, 2);
  EXPECT_EQ(1u, TakeOne());
  EXPECT_EQ(1u, TakeOne());
  ExpectAll(kBlock);
}

TEST_F(Coalesce, MaxIoBoundsItToo) {
  Make("2 max_io 16", 1 << 20);
  Writes(0, 3);
  EXPECT_EQ(2u, TakeOne());
  EXPECT_EQ(1u, TakeOne());
  ExpectAll(kBlock);
}

TEST_F(Coalesce, OthersNoticeNothing) {
  Make();
  channel_ = std::make_unique<Channel>("join");
  Writes(0, 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(1u, TakeOne());
  ExpectAll(kBlock);
  EXPECT_EQ("0", device_.StatusField(kCoalesced));
}

TEST_F(Coalesce, OneErrorIsForAll) {
  Make();
  Reads(0, 3);
  WireHeader header;
  ASSERT_TRUE(channel_->NextHeader(&header));
  EXPECT_EQ(static_cast<ssize_t>(sizeof(header)),
            channel_->ReplyType(header.seq, DM_USER_RESP_ERROR));
  ExpectAll(-1);
  EXPECT_EQ("3", device_.StatusField(kErrors));
}

// The next daemon, which has never heard of it, gets the same message again.
TEST_F(Coalesce, GivenBackWholeWithTheSameNumber) {
  Make();
  Writes(0, 3);
  WireRequest first;
  ASSERT_TRUE(channel_->Next(&first));
  channel_.reset();
  EXPECT_EQ("3", device_.StatusField(kQueued));
  EXPECT_EQ("3", device_.StatusField(kGivenBack));
  Write(3);  // adjacent, but the message has been seen
  channel_ = std::make_unique<Channel>("join");
  ASSERT_EQ(0, channel_->SetFlags(kFlags, 65536));
  WireRequest again;
  ASSERT_TRUE(channel_->Next(&again));
  EXPECT_EQ(first.header.seq, again.header.seq);
  EXPECT_EQ(first.header.len, again.header.len);
  EXPECT_EQ(first.payload, again.payload);
  ASSERT_TRUE(channel_->Reply(again.header.seq));
  EXPECT_EQ(1u, TakeOne());
  ExpectAll(kBlock);
}

// Closed with half of the payload read; an unfenced server, whose write fails.
TEST_F(Coalesce, UnfencedAndHalfRead) {
  Make();
  ASSERT_EQ(0, channel_->SetFlags(DM_USER_CHANNEL_COALESCE, 65536));
  Writes(0, 3);
  WireHeader header;
  ASSERT_TRUE(channel_->NextHeader(&header));
  Bytes half(kBlock + 100);
  ASSERT_EQ(static_cast<ssize_t>(half.size()),
            channel_->Read(half.data(), half.size()));
  channel_.reset();
  ExpectAll(-1);
  EXPECT_EQ("3", device_.StatusField(kErrors));
  EXPECT_EQ("0", device_.StatusField(kDelivered));
}

TEST_F(Coalesce, PushedBackEachForItself) {
  Make();
  Writes(0, 3);
  WireHeader header;
  ASSERT_TRUE(channel_->NextHeader(&header));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  EXPECT_EQ("3", device_.StatusField(kPushedBack));
  ASSERT_EQ(0, device_.Resume());
  char byte;
  EXPECT_EQ(-ECANCELED, channel_->Read(&byte, 1));
  uint64_t blocks = 0;
  while (blocks < 3) blocks += TakeOne();
  ExpectAll(kBlock);
}

TEST_F(Coalesce, DeadlineEndsAll) {
  Make();
  Reads(0, 3);
  WireHeader header;
  ASSERT_TRUE(channel_->NextHeader(&header));
  ASSERT_EQ(0, device_.Message("stuck_ms 50"));
  for (Io& io : ios_) EXPECT_EQ(ETIMEDOUT, Await(&io).error);
  EXPECT_EQ("3", device_.StatusField(kExpired));
}

TEST_F(Coalesce, UserCopyAcrossRequests) {
  ASSERT_EQ(0, device_.CreateUser());
  channel_ = std::make_unique<Channel>("join");
  ASSERT_EQ(0, channel_->SetFlags(kFlags | DM_USER_CHANNEL_USER_COPY, 65536));
  Writes(0, 3);
  WireHeader header;
  ASSERT_TRUE(channel_->NextHeader(&header));
  ASSERT_EQ(3u * kBlock, header.len);
  const Bytes all = Joined();
  for (const uint32_t offset : {0u, 1u, 4095u, 4096u, 4097u, 8192u, 12287u}) {
    Bytes part(3 * kBlock - offset);
    dm_user_copy copy = {};
    copy.seq = header.seq;
    copy.buffer = reinterpret_cast<uintptr_t>(part.data());
    copy.offset = offset;
    copy.bytes = static_cast<uint32_t>(part.size());
    ASSERT_EQ(static_cast<int>(part.size()),
              ioctl(channel_->fd(), DM_USER_IOC_COPY, &copy));
    EXPECT_EQ(Bytes(all.begin() + offset, all.end()), part) << offset;
    copy.offset = offset + 1;
    EXPECT_EQ(-1, ioctl(channel_->fd(), DM_USER_IOC_COPY, &copy));
  }
  ASSERT_TRUE(channel_->Reply(header.seq));
  ExpectAll(kBlock);
}

TEST_F(Coalesce, BadArgumentsAreRefused) {
  Make();
  EXPECT_EQ(EINVAL, channel_->SetFlags(kFlags, 0));
  EXPECT_EQ(EINVAL, channel_->SetFlags(kFlags, (4 << 20) + 1));
  EXPECT_EQ(EINVAL, channel_->SetFlags(0, 4096));
  dm_user_info info = {};
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_TRUE(info.features & DM_USER_FEATURE_COALESCE);
}

// What it is for: the page cache writes a page at a time.
TEST_F(Coalesce, BufferedWritesAreFewMessages) {
  Make("2 max_io 128");
  constexpr size_t kBytes = 1 << 20;
  const Bytes data = Pattern(kBytes, 77);
  const int fd = open(device_.block_path().c_str(), O_RDWR);
  ASSERT_EQ(static_cast<ssize_t>(kBytes), pwrite(fd, data.data(), kBytes, 0));
  // Comes back when all of it is in the queue, before anything is served.
  ASSERT_EQ(0, sync_file_range(fd, 0, kBytes, SYNC_FILE_RANGE_WRITE));
  Bytes disk(kBytes);
  uint64_t messages = 0;
  std::thread server([&] {
    WireRequest request;
    while (channel_->Next(&request)) {
      if (request.header.type == DM_USER_REQ_MAP_WRITE &&
          request.header.len > 0) {
        ++messages;
        memcpy(disk.data() + request.header.sector * 512,
               request.payload.data(), request.header.len);
      }
      if (!channel_->Reply(request.header.seq)) return;
    }
  });
  EXPECT_EQ(0, fsync(fd));
  close(fd);
  EXPECT_EQ(0, device_.Remove());
  server.join();
  EXPECT_EQ(data, disk);
  // 16 of 64 KiB, where each bio is a page; others may fit them less well.
  EXPECT_LE(messages, 2 * kBytes / 65536);
}

}  // namespace
}  // namespace dmu
