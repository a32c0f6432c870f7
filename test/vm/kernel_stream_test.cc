// SPDX-License-Identifier: Apache-2.0
//
// Goal: the stream keeps its framing and loses nothing, however it is cut,
// whatever garbage it is given, and whoever reads beside.
// Method: the daemon's side by hand, one system call at a time.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

constexpr ssize_t kHeader = sizeof(WireHeader);

class Stream : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(0, device_.CreateUser()); }
  MappedDevice device_{"stream"};
};

// Two pages of which the second cannot be touched; memory that ends at the
// border.
class Cliff {
 public:
  Cliff()
      : pages_(
            static_cast<uint8_t*>(mmap(nullptr, 16384, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    mprotect(pages_ + 8192, 8192, PROT_NONE);
  }
  ~Cliff() { munmap(pages_, 16384); }
  // `good` bytes before the border.
  uint8_t* At(size_t good) { return pages_ + 8192 - good; }

 private:
  uint8_t* pages_;
};

TEST_F(Stream, HeaderAndPayloadNeverShareARead) {
  Channel channel("stream");
  Buffer buffer(4096);
  buffer.FillPattern(1);
  Io io = StartWrite(device_, 0, &buffer);
  std::vector<uint8_t> big(65536);
  ASSERT_EQ(POLLIN, channel.Poll(10000));
  ASSERT_EQ(kHeader, channel.Read(big.data(), big.size()));
  WireHeader header;
  memcpy(&header, big.data(), sizeof(header));
  ASSERT_EQ(4096, channel.Read(big.data(), big.size()));
  EXPECT_EQ(0, memcmp(big.data(), buffer.data(), 4096));
  ASSERT_TRUE(channel.Reply(header.seq));
  EXPECT_EQ(4096, Await(&io).result);
}

class Pieces : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { ASSERT_EQ(0, device_.CreateUser()); }
  MappedDevice device_{"pieces"};
};

TEST_P(Pieces, OfAWriteRequest) {
  Channel channel("pieces");
  Buffer buffer(1536);
  buffer.FillPattern(2);
  Io io = StartWrite(device_, 512, &buffer);
  std::vector<uint8_t> got;
  ASSERT_EQ(POLLIN, channel.Poll(10000));
  while (got.size() < kHeader + buffer.size()) {
    std::vector<uint8_t> piece(GetParam());
    EXPECT_EQ(POLLIN, channel.Poll(0));
    const ssize_t n = channel.Read(piece.data(), piece.size());
    ASSERT_GT(n, 0);
    got.insert(got.end(), piece.begin(), piece.begin() + n);
  }
  EXPECT_EQ(0, channel.Poll(0));
  EXPECT_EQ(0, memcmp(got.data() + kHeader, buffer.data(), buffer.size()));
  WireHeader header;
  memcpy(&header, got.data(), sizeof(header));
  EXPECT_EQ(1536u, header.len);
  ASSERT_TRUE(channel.Reply(header.seq));
  EXPECT_EQ(1536, Await(&io).result);
}

TEST_P(Pieces, OfAReadReply) {
  Channel channel("pieces");
  Buffer buffer(1536);
  Io io = StartRead(device_, 512, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  const WireHeader header = {request.header.seq, 0, 0, 0, 0};
  std::vector<uint8_t> reply(kHeader);
  memcpy(reply.data(), &header, sizeof(header));
  const std::vector<uint8_t> data = Pattern(1536, 3);
  reply.insert(reply.end(), data.begin(), data.end());
  for (size_t done = 0; done < reply.size();) {
    EXPECT_FALSE(IsReady(&io));
    const size_t want = std::min(GetParam(), reply.size() - done);
    ASSERT_EQ(static_cast<ssize_t>(want),
              channel.Write(reply.data() + done, want));
    done += want;
  }
  EXPECT_EQ(1536, Await(&io).result);
  EXPECT_EQ(data, buffer.Copy());
}

INSTANTIATE_TEST_SUITE_P(Sizes, Pieces,
                         testing::Values(1, 3, 39, 40, 41, 64, 511, 512, 1000,
                                         4096));

TEST_F(Stream, VectorsOfOddSizes) {
  Channel channel("stream");
  Buffer out(8192), in(8192);
  out.FillPattern(4);
  Io write = StartWrite(device_, 0, &out);
  WireHeader header;
  ASSERT_TRUE(channel.NextHeader(&header));
  std::vector<uint8_t> got(8192);
  std::vector<iovec> parts;
  for (size_t at = 0, step = 1; at < got.size(); at += step, step += 37) {
    parts.push_back({got.data() + at, std::min(step, got.size() - at)});
  }
  ASSERT_EQ(8192,
            readv(channel.fd(), parts.data(), static_cast<int>(parts.size())));
  EXPECT_EQ(out.Copy(), got);
  ASSERT_TRUE(channel.Reply(header.seq));
  EXPECT_EQ(8192, Await(&write).result);

  Io read = StartRead(device_, 0, &in);
  ASSERT_TRUE(channel.NextHeader(&header));
  WireHeader reply = {header.seq, 0, 0, 0, 0};
  parts.insert(parts.begin(),
               {reinterpret_cast<uint8_t*>(&reply) + 7, sizeof(reply) - 7});
  parts.insert(parts.begin(), {&reply, 7});
  ASSERT_EQ(8192 + kHeader,
            writev(channel.fd(), parts.data(), static_cast<int>(parts.size())));
  EXPECT_EQ(8192, Await(&read).result);
  EXPECT_EQ(got, in.Copy());
}

TEST_F(Stream, RepliesInAnyOrder) {
  Channel channel("stream");
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Io> ios;
  std::vector<WireRequest> requests(8);
  for (size_t i = 0; i < requests.size(); ++i) {
    buffers.push_back(std::make_unique<Buffer>(4096));
    ios.push_back(StartRead(device_, i * 4096, buffers[i].get()));
    ASSERT_TRUE(channel.Next(&requests[i]));
    EXPECT_EQ(i, requests[i].header.seq);
  }
  for (const size_t i : {3, 7, 0, 5, 1, 6, 2, 4}) {
    ASSERT_TRUE(channel.Reply(requests[i].header.seq,
                              Pattern(4096, static_cast<uint32_t>(i))));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(4096, Await(&ios[i]).result);
    EXPECT_EQ(Pattern(4096, static_cast<uint32_t>(i)), buffers[i]->Copy());
  }
}

// Also a reply to a request of another channel, one given twice, and one to a
// request that is not yet read.
TEST_F(Stream, UnknownSequenceNumberIsRefusedAndForgotten) {
  Channel channel("stream"), other("stream");
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  EXPECT_TRUE(device_.AwaitStatus(kQueued, "1"));
  EXPECT_EQ(-EINVAL, channel.ReplyType(0, DM_USER_RESP_ERROR));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(-EINVAL, channel.ReplyType(12345, DM_USER_RESP_SUCCESS));
  EXPECT_EQ(-EINVAL, channel.ReplyType(UINT64_MAX, DM_USER_RESP_SUCCESS));
  // 256 is in the same bucket as 0.
  EXPECT_EQ(-EINVAL, channel.ReplyType(256, DM_USER_RESP_SUCCESS));
  EXPECT_EQ(-EINVAL, other.ReplyType(0, DM_USER_RESP_SUCCESS));
  const std::vector<uint8_t> garbage = Pattern(5000, 9);
  EXPECT_EQ(-EINVAL, channel.Write(garbage.data(), garbage.size()));
  // A refused header in two pieces: the first was taken.
  EXPECT_EQ(17, channel.Write(garbage.data(), 17));
  EXPECT_EQ(-EINVAL, channel.Write(garbage.data() + 17, 23));
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 5)));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(Pattern(4096, 5), buffer.Copy());
  EXPECT_EQ(-EINVAL, channel.ReplyType(0, DM_USER_RESP_SUCCESS));
}

TEST_F(Stream, OneReplyPerWriteAndNothingAfterAnError) {
  Channel channel("stream");
  Buffer a(512), b(512);
  Io first = StartRead(device_, 0, &a);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  // Payload behind an error reply is not taken.
  std::vector<uint8_t> reply(kHeader + 512);
  const WireHeader error = {0, DM_USER_RESP_ERROR, 0, 0, 0};
  memcpy(reply.data(), &error, sizeof(error));
  EXPECT_EQ(kHeader, channel.Write(reply.data(), reply.size()));
  EXPECT_EQ(EIO, Await(&first).error);

  Io second = StartRead(device_, 0, &b);
  ASSERT_TRUE(channel.Next(&request));
  const WireHeader good = {1, DM_USER_RESP_SUCCESS, 0, 0, 0};
  memcpy(reply.data(), &good, sizeof(good));
  reply.resize(reply.size() + 100);
  EXPECT_EQ(kHeader + 512, channel.Write(reply.data(), reply.size()));
  EXPECT_EQ(512, Await(&second).result);
}

TEST_F(Stream, NothingIsNothing) {
  Channel channel("stream", O_NONBLOCK);
  char c = 0;
  EXPECT_EQ(0, channel.Write(&c, 0));
  EXPECT_EQ(0, channel.Read(&c, 0));
  Buffer buffer(512);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(0, channel.Write(&c, 0));
  const WireHeader header = {0, 0, 0, 0, 0};
  EXPECT_EQ(kHeader, channel.Write(&header, sizeof(header)));
  EXPECT_EQ(0, channel.Write(&c, 0));
  const std::vector<uint8_t> data = Pattern(512, 6);
  EXPECT_EQ(512, channel.Write(data.data(), data.size()));
  EXPECT_EQ(512, Await(&io).result);
  EXPECT_EQ(data, buffer.Copy());
}

TEST_F(Stream, FaultWhileReadingLosesNothing) {
  Channel channel("stream");
  Cliff cliff;
  Buffer buffer(4096);
  buffer.FillPattern(7);
  Io io = StartWrite(device_, 0, &buffer);
  ASSERT_EQ(POLLIN, channel.Poll(10000));
  EXPECT_EQ(-EFAULT, channel.Read(cliff.At(0), 40));
  // It is still in the queue, for any channel.
  EXPECT_EQ("1", device_.StatusField(kQueued));
  WireHeader header;
  ASSERT_EQ(25, channel.Read(cliff.At(25), 40));
  memcpy(&header, cliff.At(25), 25);
  EXPECT_EQ(-EFAULT, channel.Read(cliff.At(0), 40));
  ASSERT_EQ(15, channel.Read(reinterpret_cast<uint8_t*>(&header) + 25, 15));
  EXPECT_EQ(4096u, header.len);
  // The cliff in the middle of the payload, and of a vector.
  std::vector<uint8_t> got(4096);
  EXPECT_EQ(-EFAULT, channel.Read(cliff.At(0), 4096));
  ASSERT_EQ(1001, channel.Read(cliff.At(1001), 4096));
  memcpy(got.data(), cliff.At(1001), 1001);
  iovec parts[2] = {{got.data() + 1001, 1000}, {cliff.At(333), 3000}};
  ASSERT_EQ(1333, readv(channel.fd(), parts, 2));
  memcpy(got.data() + 2001, cliff.At(333), 333);
  ASSERT_EQ(4096 - 2334, channel.Read(got.data() + 2334, 4096));
  EXPECT_EQ(buffer.Copy(), got);
  ASSERT_TRUE(channel.Reply(header.seq));
  EXPECT_EQ(4096, Await(&io).result);
}

TEST_F(Stream, FaultWhileWritingLosesNothing) {
  Channel channel("stream");
  Cliff cliff;
  Buffer buffer(4096);
  const std::vector<uint8_t> data = Pattern(4096, 8);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  const WireHeader header = {request.header.seq, 0, 0, 0, 0};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  EXPECT_EQ(-EFAULT, channel.Write(cliff.At(0), 40));
  memcpy(cliff.At(11), bytes, 11);
  ASSERT_EQ(11, channel.Write(cliff.At(11), 40));
  EXPECT_EQ(-EFAULT, channel.Write(cliff.At(0), 29));
  ASSERT_EQ(29, channel.Write(bytes + 11, 29));
  EXPECT_EQ(-EFAULT, channel.Write(cliff.At(0), 4096));
  memcpy(cliff.At(2500), data.data(), 2500);
  ASSERT_EQ(2500, channel.Write(cliff.At(2500), 4096));
  EXPECT_FALSE(IsReady(&io));
  ASSERT_EQ(4096 - 2500, channel.Write(data.data() + 2500, 4096));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(data, buffer.Copy());
}

TEST_F(Stream, NonBlocking) {
  Channel channel("stream", O_NONBLOCK);
  char bytes[64];
  EXPECT_EQ(-EAGAIN, channel.Read(bytes, sizeof(bytes)));
  EXPECT_EQ(0, channel.Poll(0));
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  EXPECT_EQ(-EAGAIN, channel.Read(bytes, sizeof(bytes)));
  iovec part = {bytes, sizeof(bytes)};
  EXPECT_EQ(-1, preadv2(channel.fd(), &part, 1, -1, RWF_NOWAIT));
  EXPECT_EQ(EAGAIN, errno);
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(4096, 1)));
  EXPECT_EQ(4096, Await(&io).result);
}

TEST_F(Stream, Epoll) {
  Channel channel("stream", O_NONBLOCK);
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {EPOLLIN | EPOLLET, {}};
  ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, channel.fd(), &event));
  EXPECT_EQ("live", device_.StatusField(kState));
  EXPECT_EQ(0, epoll_wait(epoll, &event, 1, 0));
  Buffer buffer(4096);
  for (int i = 0; i < 3; ++i) {
    Io io = StartRead(device_, 0, &buffer);
    ASSERT_EQ(1, epoll_wait(epoll, &event, 1, 10000));
    EXPECT_EQ(EPOLLIN, event.events & (EPOLLIN | EPOLLERR | EPOLLHUP));
    WireHeader header;
    ASSERT_EQ(kHeader, channel.Read(&header, sizeof(header)));
    EXPECT_EQ(0, epoll_wait(epoll, &event, 1, 0));
    ASSERT_TRUE(channel.Reply(header.seq, Pattern(4096, 1)));
    EXPECT_EQ(4096, Await(&io).result);
  }
  close(epoll);
}

TEST_F(Stream, PollIsWritable) {
  Channel channel("stream");
  pollfd p = {channel.fd(), POLLOUT, 0};
  EXPECT_EQ(1, poll(&p, 1, 0));
  EXPECT_EQ(POLLOUT, p.revents);
  // Nobody asked for input: that is not serving.
  EXPECT_EQ("new", device_.StatusField(kState));
}

TEST_F(Stream, IsAStream) {
  Channel channel("stream");
  char c = 0;
  EXPECT_EQ(-1, lseek(channel.fd(), 0, SEEK_SET));
  EXPECT_EQ(ESPIPE, errno);
  EXPECT_EQ(-1, pread(channel.fd(), &c, 1, 0));
  EXPECT_EQ(ESPIPE, errno);
  EXPECT_EQ(-1, pwrite(channel.fd(), &c, 1, 0));
  EXPECT_EQ(ESPIPE, errno);
}

TEST_F(Stream, Ioctls) {
  Channel channel("stream");
  dm_user_info info;
  memset(&info, 0xff, sizeof(info));
  ASSERT_EQ(0, channel.Info(&info));
  EXPECT_EQ(1u, info.abi_version);
  EXPECT_EQ(unsigned{DM_USER_STATE_NEW}, info.state);
  EXPECT_EQ(DM_USER_FEATURE_FENCED | DM_USER_FEATURE_POLL |
                DM_USER_FEATURE_BATCH | DM_USER_FEATURE_USER_COPY |
                DM_USER_FEATURE_COALESCE | DM_USER_FEATURE_REDIRECT |
                DM_USER_FEATURE_URING | DM_USER_FEATURE_STOPPED |
                DM_USER_FEATURE_SEGMENTS | DM_USER_FEATURE_REMAP |
                DM_USER_FEATURE_WAKE |
                (UringParks() ? DM_USER_FEATURE_URING_PARKS : 0),
            info.features);
  EXPECT_EQ(kDeviceSectors, info.sectors);
  EXPECT_EQ(0u, info.start_sector);
  EXPECT_EQ(0u, info.max_io_bytes);
  EXPECT_EQ(0u, info.reserved[0] | info.reserved[1] | info.reserved[2]);
  EXPECT_EQ(EFAULT, channel.Info(nullptr));
  EXPECT_EQ(EINVAL, channel.SetFlags(uint64_t{1} << 63));
  EXPECT_EQ("new", device_.StatusField(kState));
  EXPECT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_FENCED));
  EXPECT_EQ("live", device_.StatusField(kState));
  EXPECT_EQ(-1, ioctl(channel.fd(), _IO(DM_USER_IOC_TYPE, 0x7f), 0));
  EXPECT_EQ(ENOTTY, errno);
}

// Threads that share one file: each request comes once, whole.
TEST_F(Stream, ThreadsShareAFile) {
  constexpr int kThreads = 3, kRequests = 60;
  Channel channel("stream");
  std::mutex mutex;
  std::set<uint64_t> seen;
  std::vector<std::thread> readers;
  for (int t = 0; t < kThreads; ++t) {
    readers.emplace_back([&] {
      for (;;) {
        WireHeader header;
        const ssize_t n = channel.Read(&header, sizeof(header));
        if (n == -ENOTBLK) {
          return;
        }
        ASSERT_EQ(kHeader, n);
        {
          std::lock_guard<std::mutex> lock(mutex);
          EXPECT_TRUE(seen.insert(header.seq).second);
        }
        // In one writev(), hence whole.
        ASSERT_TRUE(channel.Reply(header.seq, Pattern(header.len, 1)));
      }
    });
  }
  std::vector<std::thread> writers;
  for (int t = 0; t < kThreads; ++t) {
    writers.emplace_back([&, t] {
      Buffer buffer(4096);
      for (int i = 0; i < kRequests / kThreads; ++i) {
        Io io = StartRead(device_, static_cast<uint64_t>(t) * 4096, &buffer);
        EXPECT_EQ(4096, Await(&io).result);
      }
    });
  }
  for (std::thread& thread : writers) {
    thread.join();
  }
  EXPECT_EQ(0, device_.RemoveForced());
  for (std::thread& thread : readers) {
    thread.join();
  }
  EXPECT_EQ(size_t{kRequests}, seen.size());
}

// Memory whose pages are not there until Fill(): who touches it waits.
class MissingMemory {
 public:
  explicit MissingMemory(size_t bytes)
      : bytes_(bytes),
        fd_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))),
        memory_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    uffdio_api api = {};
    api.api = UFFD_API;
    uffdio_register range = {};
    range.range = {reinterpret_cast<uintptr_t>(memory_), bytes_};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    ok_ = fd_ >= 0 && memory_ != MAP_FAILED &&
          ioctl(fd_, UFFDIO_API, &api) == 0 &&
          ioctl(fd_, UFFDIO_REGISTER, &range) == 0;
  }
  ~MissingMemory() {
    close(fd_);
    munmap(memory_, bytes_);
  }
  bool ok() const { return ok_; }
  uint8_t* data() { return static_cast<uint8_t*>(memory_); }
  // Somebody waits for a page. (Without O_NONBLOCK it would be POLLERR always.)
  bool AwaitFault() {
    pollfd p = {fd_, POLLIN, 0};
    return poll(&p, 1, 10000) == 1 && p.revents == POLLIN;
  }
  void Fill(const std::vector<uint8_t>& from) {
    uffdio_copy copy = {};
    copy.dst = reinterpret_cast<uintptr_t>(memory_);
    copy.src = reinterpret_cast<uintptr_t>(from.data());
    copy.len = bytes_;
    ioctl(fd_, UFFDIO_COPY, &copy);
  }

 private:
  size_t bytes_;
  int fd_;
  void* memory_;
  bool ok_;
};

// A daemon stuck in a page fault in the middle of a copy holds up nobody but
// itself: the request can be taken from it.
TEST_F(Stream, FaultThatTakesLongDoesNotHoldTheRequest) {
  Channel channel("stream");
  MissingMemory missing(4096);
  ASSERT_TRUE(missing.ok());
  Buffer in(4096), out(4096);
  out.FillPattern(3);
  Io read = StartRead(device_, 0, &in);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  Io write = StartWrite(device_, 4096, &out);
  WireHeader header;
  ASSERT_TRUE(channel.NextHeader(&header));
  std::thread replier([&] {
    WireHeader reply = {request.header.seq, 0, 0, 0, 0};
    iovec parts[2] = {{&reply, sizeof(reply)}, {missing.data(), 4096}};
    EXPECT_EQ(-1, writev(channel.fd(), parts, 2));
    EXPECT_EQ(EINVAL, errno);
  });
  ASSERT_TRUE(missing.AwaitFault());
  MissingMemory missing_too(4096);
  std::thread reader(
      [&] { EXPECT_EQ(-ECANCELED, channel.Read(missing_too.data(), 4096)); });
  ASSERT_TRUE(missing_too.AwaitFault());

  ASSERT_EQ(0, device_.Suspend(/*noflush=*/true));
  EXPECT_EQ("2", device_.StatusField(kPushedBack));
  missing.Fill(Pattern(4096, 0xbad));
  missing_too.Fill(Pattern(4096, 0xbad));
  replier.join();
  reader.join();
  ASSERT_EQ(0, device_.Resume());

  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(channel.Next(&request));
    const bool is_read = request.header.type == DM_USER_REQ_MAP_READ;
    ASSERT_TRUE(
        channel.Reply(request.header.seq,
                      is_read ? Pattern(4096, 4) : std::vector<uint8_t>()));
    if (!is_read) {
      EXPECT_EQ(out.Copy(), request.payload);
    }
  }
  EXPECT_EQ(4096, Await(&read).result);
  EXPECT_EQ(4096, Await(&write).result);
  EXPECT_EQ(Pattern(4096, 4), in.Copy());
}

// The same, but the daemon gets its page: nothing is lost.
TEST_F(Stream, FaultThatEndsIsGoneOnWith) {
  Channel channel("stream");
  MissingMemory missing(8192);
  ASSERT_TRUE(missing.ok());
  Buffer in(8192);
  Io read = StartRead(device_, 0, &in);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  std::thread replier([&] {
    WireHeader reply = {request.header.seq, 0, 0, 0, 0};
    iovec parts[2] = {{&reply, sizeof(reply)}, {missing.data(), 8192}};
    EXPECT_EQ(8192 + kHeader, writev(channel.fd(), parts, 2));
  });
  ASSERT_TRUE(missing.AwaitFault());
  missing.Fill(Pattern(8192, 5));
  replier.join();
  EXPECT_EQ(8192, Await(&read).result);
  EXPECT_EQ(Pattern(8192, 5), in.Copy());
}

uint64_t VoluntarySwitches(pid_t tid) {
  std::ifstream in("/proc/self/task/" + std::to_string(tid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("voluntary_ctxt_switches:", 0) == 0) {
      return std::stoull(line.substr(24));
    }
  }
  return 0;
}

// Of many blocked channels one wakes per request.
TEST_F(Stream, WakeUpsAreExclusive) {
  constexpr size_t kThreads = 6;
  constexpr uint64_t kRequests = 40;
  std::vector<std::thread> readers;
  std::mutex mutex;
  std::vector<pid_t> tids;
  for (size_t t = 0; t < kThreads; ++t) {
    readers.emplace_back([&] {
      Channel channel("stream");
      {
        std::lock_guard<std::mutex> lock(mutex);
        tids.push_back(static_cast<pid_t>(syscall(SYS_gettid)));
      }
      WireHeader header;
      while (channel.Read(&header, sizeof(header)) == kHeader) {
        ASSERT_TRUE(channel.Reply(header.seq, Pattern(header.len, 1)));
      }
    });
  }
  ASSERT_TRUE(device_.AwaitStatus(kServers, std::to_string(kThreads)));
  uint64_t before = 0, after = 0;
  for (const pid_t tid : tids) {
    before += VoluntarySwitches(tid);
  }
  Buffer buffer(512);
  for (uint64_t i = 0; i < kRequests; ++i) {
    Io io = StartRead(device_, 0, &buffer);
    EXPECT_EQ(512, Await(&io).result);
  }
  for (const pid_t tid : tids) {
    after += VoluntarySwitches(tid);
  }
  // One per request, one per thread that was not asleep yet, and some for the
  // likes of the C++ runtime; a herd would make it kThreads times as many.
  EXPECT_LE(after - before, kRequests * 2);
  EXPECT_EQ(0, device_.RemoveForced());
  for (std::thread& thread : readers) {
    thread.join();
  }
}

// A channel that is stopped gets no more, whoever waits in it learns of it, and
// what it has may be answered; without the flag it goes on.
TEST_F(Stream, StoppedChannelsGetNoMore) {
  Channel channel("stream");
  int result = 0;
  std::thread reader([&] {
    WireHeader header;
    result = static_cast<int>(channel.Read(&header, sizeof(header)));
  });
  ASSERT_TRUE(device_.AwaitStatus(kServers, "1"));
  ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_STOPPED));
  reader.join();
  EXPECT_EQ(-ESHUTDOWN, result);
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  WireHeader header;
  EXPECT_EQ(-ESHUTDOWN, channel.Read(&header, sizeof(header)));
  ASSERT_EQ(0, channel.SetFlags(0));
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_STOPPED));
  ASSERT_TRUE(channel.Reply(0, Pattern(4096, 1)));
  EXPECT_EQ(4096, Await(&io).result);
}

}  // namespace
}  // namespace dmu
