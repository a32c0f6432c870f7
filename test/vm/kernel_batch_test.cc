// SPDX-License-Identifier: Apache-2.0
//
// Goal: a channel in batch mode gives and takes many messages in a call, loses
// nothing when one of them goes wrong, and keeps every rule of the stream.
// Method: the daemon's side by hand, one system call at a time; then a server
// that counts its calls under load.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/messages.h"

namespace dmu {
namespace {

constexpr size_t kHeader = sizeof(WireHeader);
constexpr uint32_t kForever = UINT32_MAX;

using Bytes = std::vector<uint8_t>;

// 0 or errno.
int Batch(Channel* channel, dm_user_batch* batch) {
  return ioctl(channel->fd(), DM_USER_IOC_BATCH, batch) == 0 ? 0 : errno;
}

int Exchange(Channel* channel, const Bytes& replies, Bytes* requests,
             uint32_t timeout_ms, dm_user_batch* batch) {
  *batch = {};
  batch->replies = reinterpret_cast<uintptr_t>(replies.data());
  batch->replies_bytes = static_cast<uint32_t>(replies.size());
  batch->requests = reinterpret_cast<uintptr_t>(requests->data());
  batch->requests_bytes = static_cast<uint32_t>(requests->size());
  batch->timeout_ms = timeout_ms;
  return Batch(channel, batch);
}

class BatchTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, device_.CreateUser());
    channel_ = std::make_unique<Channel>("batch");
    ASSERT_TRUE(channel_->ok());
    ASSERT_EQ(
        0, channel_->SetFlags(DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_FENCED));
  }
  // Some writes and reads, all queued.
  void Queue(size_t writes, size_t reads) {
    for (size_t i = 0; i < writes + reads; ++i) {
      buffers_.push_back(std::make_unique<Buffer>(4096));
      if (i < writes) {
        buffers_.back()->FillPattern(static_cast<uint32_t>(i));
        ios_.push_back(StartWrite(device_, 4096 * i, buffers_.back().get()));
      } else {
        ios_.push_back(StartRead(device_, 4096 * i, buffers_.back().get()));
      }
    }
    ASSERT_TRUE(device_.AwaitStatus(kQueued, std::to_string(ios_.size())));
  }
  std::vector<WireRequest> ReadBatch(size_t bytes) {
    Bytes in(bytes);
    const ssize_t got = channel_->Read(in.data(), in.size());
    EXPECT_GT(got, 0);
    in.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return ParseMessages(in);
  }
  void ExpectGood() {
    for (size_t i = 0; i < ios_.size(); ++i) {
      EXPECT_EQ(4096, Await(&ios_[i]).result) << i;
    }
    ios_.clear();
  }

  MappedDevice device_{"batch"};
  std::unique_ptr<Channel> channel_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Io> ios_;
};

TEST_F(BatchTest, OneCallGivesAllAndOneTakesAll) {
  Queue(3, 2);
  const auto requests = ReadBatch(65536);
  ASSERT_EQ(5u, requests.size());
  uint64_t seq = requests[0].header.seq;
  for (const WireRequest& request : requests) {
    EXPECT_EQ(seq++, request.header.seq) << "not in order";
    if (request.header.type != DM_USER_REQ_MAP_WRITE) continue;
    const size_t i = request.header.sector / 8;
    EXPECT_EQ(0, memcmp(request.payload.data(), buffers_[i]->data(), 4096));
  }
  const Bytes out = GoodReplies(requests);
  EXPECT_EQ(static_cast<ssize_t>(out.size()),
            channel_->Write(out.data(), out.size()));
  ExpectGood();
  for (size_t i = 3; i < 5; ++i) {
    const Bytes expected = Pattern(4096, static_cast<uint32_t>(8 * i));
    EXPECT_EQ(0, memcmp(buffers_[i]->data(), expected.data(), 4096));
  }
}

TEST_F(BatchTest, OnlyWhatFitsWholeIsBegun) {
  Queue(3, 0);
  // One, and the header of the next and more, but not all of it.
  EXPECT_EQ(1u, ReadBatch(kHeader + 4096 + kHeader + 4095).size());
  EXPECT_EQ("2", device_.StatusField(kQueued));
  EXPECT_EQ(2u, ReadBatch(2 * (kHeader + 4096)).size());
  ios_.clear();
  // The channel's end gives all of them back; the next one gets them again.
  channel_ = std::make_unique<Channel>("batch");
  ASSERT_EQ(0, channel_->SetFlags(DM_USER_CHANNEL_BATCH));
  const auto again = ReadBatch(65536);
  ASSERT_EQ(3u, again.size());
  const Bytes out = GoodReplies(again);
  EXPECT_EQ(static_cast<ssize_t>(out.size()),
            channel_->Write(out.data(), out.size()));
  EXPECT_TRUE(device_.AwaitStatus(kServed, "3"));
  EXPECT_EQ("3", device_.StatusField(kGivenBack));
}

TEST_F(BatchTest, AFirstMessageLargerThanTheBufferIsCut) {
  Queue(1, 0);
  Bytes in(2000);
  ASSERT_EQ(2000, channel_->Read(in.data(), in.size()));
  Bytes rest(65536);
  ASSERT_EQ(static_cast<ssize_t>(kHeader + 4096 - 2000),
            channel_->Read(rest.data(), rest.size()));
  in.insert(in.end(), rest.begin(), rest.begin() + kHeader + 4096 - 2000);
  const auto requests = ParseMessages(in);
  ASSERT_EQ(1u, requests.size());
  EXPECT_EQ(0, memcmp(requests[0].payload.data(), buffers_[0]->data(), 4096));
  ASSERT_TRUE(channel_->Reply(requests[0].header.seq));
  ExpectGood();
}

TEST_F(BatchTest, RepliesMayBeCutAnywhere) {
  for (const size_t piece : {1u, 39u, 40u, 41u, 4095u, 4136u, 5000u}) {
    Queue(1, 2);
    const Bytes out = GoodReplies(ReadBatch(65536));
    for (size_t at = 0; at < out.size();) {
      const size_t bytes = std::min(piece, out.size() - at);
      ASSERT_EQ(static_cast<ssize_t>(bytes),
                channel_->Write(out.data() + at, bytes));
      at += bytes;
    }
    ExpectGood();
  }
}

// What nobody asked for is passed over, with its data, in whatever pieces.
TEST_F(BatchTest, StaleRepliesCostNoOther) {
  for (const size_t piece : {1u, 100u, 1u << 20}) {
    Queue(0, 1);
    const auto requests = ReadBatch(4096);
    ASSERT_EQ(1u, requests.size());
    Bytes out;
    AppendReply(&out, 1u << 30, DM_USER_RESP_SUCCESS, Bytes(700, 0xee));
    AppendReply(&out, 1u << 30, DM_USER_RESP_ERROR);
    const Bytes good = GoodReplies(requests);
    out.insert(out.end(), good.begin(), good.end());
    // A second answer to the same.
    out.insert(out.end(), good.begin(), good.end());
    for (size_t at = 0; at < out.size();) {
      const size_t bytes = std::min(piece, out.size() - at);
      ASSERT_EQ(static_cast<ssize_t>(bytes),
                channel_->Write(out.data() + at, bytes));
      at += bytes;
    }
    ExpectGood();
  }
  dm_user_batch batch = {};
  Bytes out;
  AppendReply(&out, 1u << 30, DM_USER_RESP_SUCCESS, Bytes(100));
  AppendReply(&out, 1u << 31, DM_USER_RESP_SUCCESS);
  Bytes in(100);
  ASSERT_EQ(0, Exchange(channel_.get(), out, &in, 0, &batch));
  EXPECT_EQ(2u, batch.stale);
  EXPECT_EQ(out.size(), batch.taken_bytes);
}

TEST_F(BatchTest, AWrongLengthEndsTheRequestAndNoOther) {
  Queue(0, 2);
  const auto requests = ReadBatch(4096);
  ASSERT_EQ(2u, requests.size());
  Bytes out;
  AppendReply(&out, requests[0].header.seq, DM_USER_RESP_SUCCESS, Bytes(4095));
  const Bytes good = GoodReplies({requests[1]});
  out.insert(out.end(), good.begin(), good.end());
  dm_user_batch batch = {};
  Bytes in;
  ASSERT_EQ(0, Exchange(channel_.get(), out, &in, 0, &batch));
  EXPECT_EQ(out.size(), batch.taken_bytes);
  EXPECT_EQ(1u, batch.stale);
  int errors = 0;
  for (Io& io : ios_) errors += Await(&io).result == 4096 ? 0 : 1;
  EXPECT_EQ(1, errors);
}

// A suspend takes the request away between the two parts of its message.
TEST_F(BatchTest, AMessageThatIsTakenAwayIsSaid) {
  Queue(1, 0);
  Bytes in(2000);
  ASSERT_EQ(2000, channel_->Read(in.data(), in.size()));
  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  ASSERT_EQ(0, device_.Resume());
  EXPECT_EQ(-ECANCELED, channel_->Read(in.data(), in.size()));
  const auto requests = ReadBatch(65536);
  ASSERT_EQ(1u, requests.size());
  ASSERT_TRUE(channel_->Reply(requests[0].header.seq));
  ExpectGood();
}

TEST_F(BatchTest, ExchangeTakesGivesAndWaits) {
  dm_user_batch batch = {};
  Bytes in(65536);
  ASSERT_EQ(0, Exchange(channel_.get(), {}, &in, 0, &batch));
  EXPECT_EQ(0u, batch.given_bytes);
  ASSERT_EQ(0, Exchange(channel_.get(), {}, &in, 20, &batch));
  EXPECT_EQ(0u, batch.given_bytes);
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  ASSERT_EQ(0, Exchange(channel_.get(), {}, &in, kForever, &batch));
  ASSERT_EQ(kHeader, batch.given_bytes);
  auto requests = ParseMessages(Bytes(in.begin(), in.begin() + kHeader));
  ASSERT_EQ(1u, requests.size());
  // The answer goes in and the next one comes out, in one call.
  Queue(1, 0);
  const Bytes out = GoodReplies(requests);
  ASSERT_EQ(0, Exchange(channel_.get(), out, &in, kForever, &batch));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(out.size(), batch.taken_bytes);
  ASSERT_EQ(kHeader + 4096, batch.given_bytes);
  in.resize(batch.given_bytes);
  ASSERT_TRUE(channel_->Reply(ParseMessages(in)[0].header.seq));
  ExpectGood();
}

TEST_F(BatchTest, BadArgumentsTakeNothing) {
  Queue(0, 1);
  Bytes in(4096);
  dm_user_batch batch = {};
  batch.requests = reinterpret_cast<uintptr_t>(in.data());
  batch.requests_bytes = 4096;
  batch.flags = 2;
  EXPECT_EQ(EINVAL, Batch(channel_.get(), &batch));
  batch.flags = 0;
  for (auto& word : batch.reserved) {
    word = 1;
    EXPECT_EQ(EINVAL, Batch(channel_.get(), &batch));
    word = 0;
  }
  batch.requests = 8;
  EXPECT_EQ(EFAULT, Batch(channel_.get(), &batch));
  batch.requests = UINT64_MAX - 10;
  EXPECT_EQ(EFAULT, Batch(channel_.get(), &batch));
  batch.requests = reinterpret_cast<uintptr_t>(in.data());
  batch.replies = 8;
  batch.replies_bytes = 40;
  EXPECT_EQ(EFAULT, Batch(channel_.get(), &batch));
  EXPECT_EQ(-1, ioctl(channel_->fd(), DM_USER_IOC_BATCH, 8));
  EXPECT_EQ(EFAULT, errno);
  EXPECT_EQ("1", device_.StatusField(kQueued)) << "a fault lost a request";
  // Modes are for a channel that has done nothing.
  EXPECT_EQ(EBUSY, channel_->SetFlags(0));
  EXPECT_EQ(0, channel_->SetFlags(DM_USER_CHANNEL_BATCH));
  EXPECT_EQ(EINVAL, channel_->SetFlags(uint64_t{1} << 40));
  Channel stream("batch");
  EXPECT_EQ(EINVAL, Batch(&stream, &batch));
  const auto requests = ReadBatch(4096);
  const Bytes out = GoodReplies(requests);
  ASSERT_EQ(static_cast<ssize_t>(out.size()),
            channel_->Write(out.data(), out.size()));
  ExpectGood();
}

// Header and data of a reply from wherever they are, as by writev().
TEST_F(BatchTest, RepliesMayBeInSegments) {
  for (const size_t piece : {39u, 40u, 41u, 512u, 4136u}) {
    Queue(1, 2);
    Bytes out = GoodReplies(ReadBatch(65536));
    // Out of order in memory, so that no piece is behind the one before it.
    std::vector<Bytes> pieces;
    for (size_t at = 0; at < out.size(); at += piece) {
      const size_t end = std::min(at + piece, out.size());
      pieces.emplace_back(out.begin() + static_cast<ptrdiff_t>(at),
                          out.begin() + static_cast<ptrdiff_t>(end));
    }
    for (size_t first = 0; first < pieces.size();) {
      iovec segments[DM_USER_BATCH_SEGMENTS_MAX];
      dm_user_batch batch = {};
      for (;
           batch.segments < DM_USER_BATCH_SEGMENTS_MAX && first < pieces.size();
           ++first) {
        segments[batch.segments++] = {pieces[first].data(),
                                      pieces[first].size()};
        batch.replies_bytes += static_cast<uint32_t>(pieces[first].size());
      }
      batch.replies = reinterpret_cast<uintptr_t>(segments);
      ASSERT_EQ(0, Batch(channel_.get(), &batch));
      EXPECT_EQ(batch.replies_bytes, batch.taken_bytes);
      EXPECT_EQ(0u, batch.stale);
    }
    ExpectGood();
  }
}

TEST_F(BatchTest, BadSegmentsTakeNothing) {
  Queue(0, 1);
  Bytes out = GoodReplies(ReadBatch(4096));
  iovec segments[DM_USER_BATCH_SEGMENTS_MAX + 1] = {};
  segments[0] = {out.data(), kHeader};
  segments[1] = {out.data() + kHeader, out.size() - kHeader};
  const auto with = [&](uint32_t count, size_t bytes, void* address) {
    dm_user_batch batch = {};
    batch.replies = reinterpret_cast<uintptr_t>(address);
    batch.replies_bytes = static_cast<uint32_t>(bytes);
    batch.segments = count;
    return Batch(channel_.get(), &batch);
  };
  EXPECT_EQ(EINVAL, with(2, out.size() - 1, segments)) << "not their lengths";
  EXPECT_EQ(EINVAL, with(2, out.size() + 1, segments)) << "not their lengths";
  EXPECT_EQ(EINVAL, with(1, out.size(), segments)) << "not their lengths";
  EXPECT_EQ(EINVAL, with(2, 0, segments)) << "segments of nothing";
  EXPECT_EQ(EINVAL, with(DM_USER_BATCH_SEGMENTS_MAX + 1, out.size(), segments));
  EXPECT_EQ(EFAULT, with(2, out.size(), reinterpret_cast<void*>(8)));
  segments[2] = {reinterpret_cast<void*>(UINT64_MAX - 4096), 512};
  EXPECT_EQ(EFAULT, with(3, out.size() + 512, segments));
  EXPECT_EQ("0", device_.StatusField(kServed));
  EXPECT_EQ(0, with(2, out.size(), segments));
  ExpectGood();
}

TEST_F(BatchTest, RemovalEndsWhoWaits) {
  dm_user_batch batch = {};
  int error = 0;
  std::thread waiter([&] {
    Bytes in(4096);
    error = Exchange(channel_.get(), {}, &in, kForever, &batch);
  });
  ASSERT_TRUE(device_.AwaitStatus(kServers, "1"));
  EXPECT_EQ(0, device_.Remove());
  waiter.join();
  EXPECT_EQ(ENOTBLK, error);
}

class UserCopyTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, device_.CreateUser());
    channel_ = std::make_unique<Channel>("copy");
    ASSERT_EQ(0, channel_->SetFlags(DM_USER_CHANNEL_BATCH |
                                    DM_USER_CHANNEL_USER_COPY));
  }
  int Copy(Channel* channel, uint64_t seq, void* buffer, uint32_t offset,
           uint32_t bytes) {
    dm_user_copy copy = {};
    copy.seq = seq;
    copy.buffer = reinterpret_cast<uintptr_t>(buffer);
    copy.offset = offset;
    copy.bytes = bytes;
    const int result = ioctl(channel->fd(), DM_USER_IOC_COPY, &copy);
    return result < 0 ? -errno : result;
  }
  uint64_t Next() {
    WireHeader header = {};
    EXPECT_EQ(static_cast<ssize_t>(kHeader),
              channel_->Read(&header, sizeof(header)));
    return header.seq;
  }
  bool Answer(uint64_t seq) {
    Bytes out;
    AppendReply(&out, seq, DM_USER_RESP_SUCCESS);
    return channel_->Write(out.data(), out.size()) ==
           static_cast<ssize_t>(out.size());
  }

  MappedDevice device_{"copy"};
  std::unique_ptr<Channel> channel_;
};

TEST_F(UserCopyTest, DataMovesInAnyPieces) {
  constexpr uint32_t kBytes = 256 * 1024;
  Buffer buffer(kBytes);
  buffer.FillPattern(9);
  Io io = StartWrite(device_, 0, &buffer);
  Bytes got(kBytes);
  // The block layer may have cut it.
  for (size_t done = 0; done < kBytes;) {
    ASSERT_EQ(POLLIN, channel_->Poll(10000));
    WireHeader header = {};
    ASSERT_EQ(static_cast<ssize_t>(kHeader),
              channel_->Read(&header, sizeof(header)));
    const auto length = static_cast<uint32_t>(header.len);
    const size_t at = header.sector * 512;
    for (uint32_t offset = 0; offset < length;) {
      const uint32_t bytes = std::min(length - offset, offset / 3 + 100);
      ASSERT_EQ(static_cast<int>(bytes),
                Copy(channel_.get(), header.seq, got.data() + at + offset,
                     offset, bytes));
      offset += bytes;
    }
    ASSERT_TRUE(Answer(header.seq));
    done += length;
  }
  EXPECT_EQ(kBytes, Await(&io).result);
  EXPECT_EQ(0, memcmp(got.data(), buffer.data(), kBytes));
  Buffer back(4096);
  io = StartRead(device_, 0, &back);
  const uint64_t seq = Next();
  ASSERT_EQ(4096, Copy(channel_.get(), seq, got.data(), 0, 4096));
  ASSERT_TRUE(Answer(seq));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(0, memcmp(got.data(), back.data(), 4096));
}

TEST_F(UserCopyTest, OnlyWhatTheChannelHasAndNoMore) {
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  const uint64_t seq = Next();
  Bytes data(8192, 3);
  EXPECT_EQ(-EINVAL, Copy(channel_.get(), seq, data.data(), 0, 4097));
  EXPECT_EQ(-EINVAL, Copy(channel_.get(), seq, data.data(), 4096, 1));
  EXPECT_EQ(-EINVAL, Copy(channel_.get(), seq, data.data(), UINT32_MAX, 2));
  EXPECT_EQ(-EINVAL, Copy(channel_.get(), seq, data.data(), 0, 0));
  EXPECT_EQ(-EINVAL, Copy(channel_.get(), seq, data.data(), 0, UINT32_MAX));
  EXPECT_EQ(-ENOENT, Copy(channel_.get(), seq + 1, data.data(), 0, 512));
  EXPECT_EQ(-EFAULT,
            Copy(channel_.get(), seq, reinterpret_cast<void*>(8), 0, 512));
  Channel other("copy");
  EXPECT_EQ(-EINVAL, Copy(&other, seq, data.data(), 0, 512));
  ASSERT_EQ(0, other.SetFlags(DM_USER_CHANNEL_USER_COPY));
  EXPECT_EQ(-ENOENT, Copy(&other, seq, data.data(), 0, 512));
  ASSERT_EQ(4096, Copy(channel_.get(), seq, data.data(), 0, 4096));
  ASSERT_TRUE(Answer(seq));
  EXPECT_EQ(-ENOENT, Copy(channel_.get(), seq, data.data(), 0, 512));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(3, buffer.data()[4095]);
}

// Memory that ends in the middle: what was good is copied, and said.
TEST_F(UserCopyTest, AFaultLosesNothing) {
  Buffer buffer(16384);
  Io io = StartRead(device_, 0, &buffer);
  const uint64_t seq = Next();
  auto* pages =
      static_cast<uint8_t*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(pages, 7, 4096);
  mprotect(pages + 4096, 4096, PROT_NONE);
  EXPECT_EQ(4096, Copy(channel_.get(), seq, pages, 0, 8192));
  mprotect(pages + 4096, 4096, PROT_READ | PROT_WRITE);
  munmap(pages, 8192);
  Bytes rest(16384, 8);
  ASSERT_EQ(12288, Copy(channel_.get(), seq, rest.data(), 4096, 12288));
  ASSERT_TRUE(Answer(seq));
  EXPECT_EQ(16384, Await(&io).result);
  EXPECT_EQ(7, buffer.data()[4095]);
  EXPECT_EQ(8, buffer.data()[4096]);
}

// 32 threads that read 4 KiB each, again and again; the server's calls are
// counted.
TEST(BatchLoad, FewCallsForManyRequests) {
  constexpr int kThreads = 32;
  constexpr int kReads = 100;
  MappedDevice device("load");
  ASSERT_EQ(0, device.CreateUser());
  Channel channel("load");
  ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_BATCH));
  uint64_t calls = 0;
  uint64_t requests = 0;
  std::thread server([&] {
    Bytes in(64 * kHeader);
    Bytes out;
    const Bytes data(4096, 5);
    for (;;) {
      dm_user_batch batch = {};
      ++calls;
      if (Exchange(&channel, out, &in, kForever, &batch) != 0) return;
      out.clear();
      for (const WireRequest& request :
           ParseMessages(Bytes(in.begin(), in.begin() + batch.given_bytes))) {
        ++requests;
        AppendReply(&out, request.header.seq, DM_USER_RESP_SUCCESS,
                    Bytes(request.header.len, 5));
      }
    }
  });
  std::atomic<int> bad{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < kThreads; ++t) {
    readers.emplace_back([&, t] {
      const int fd = open(device.block_path().c_str(), O_RDONLY | O_DIRECT);
      Buffer buffer(4096);
      for (int i = 0; i < kReads; ++i) {
        const off_t at = 4096 * ((t * 7 + i) % 16);
        if (pread(fd, buffer.data(), 4096, at) != 4096 ||
            buffer.data()[0] != 5) {
          ++bad;
        }
      }
      close(fd);
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(0, device.Remove());
  server.join();
  EXPECT_EQ(0, bad);
  EXPECT_GE(requests, static_cast<uint64_t>(kThreads * kReads));
  const double share =
      static_cast<double>(calls) / static_cast<double>(requests);
  printf("%.3f system calls for each of %llu requests\n", share,
         static_cast<unsigned long long>(requests));
  EXPECT_LT(share, 0.25);
}

}  // namespace
}  // namespace dmu
