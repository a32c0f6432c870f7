// SPDX-License-Identifier: Apache-2.0
//
// See remap.h.
#include "test/vm/remap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace dmu {

WireHeader RemapTo(uint64_t seq, uint64_t device, uint64_t sector,
                   uint64_t len) {
  return {seq, DM_USER_RESP_REMAP, device, sector, len};
}

WireHeader Answer(uint64_t seq, uint64_t type) { return {seq, type, 0, 0, 0}; }

Exchanged Exchange(Channel* channel, const void* replies, size_t replies_bytes,
                   void* requests, size_t requests_bytes) {
  UringBatch command;
  dm_user_batch* batch = &command.batch;
  batch->replies = reinterpret_cast<uintptr_t>(replies);
  batch->replies_bytes = static_cast<uint32_t>(replies_bytes);
  batch->requests = reinterpret_cast<uintptr_t>(requests);
  batch->requests_bytes = static_cast<uint32_t>(requests_bytes);
  int error = 0;
  if (Channel::kind == Channel::Kind::kUring) {
    Uring ring;
    const int result =
        ring.Submit(channel->fd(), &command) ? ring.Await(&command) : -EIO;
    if (result < 0) {
      error = -result;
    } else {
      // Only the completion says it.
      batch->given_bytes = static_cast<uint32_t>(result);
    }
  } else if (ioctl(channel->fd(), DM_USER_IOC_BATCH, batch) < 0) {
    error = errno;
  }
  return {error, batch->taken_bytes, batch->stale, batch->given_bytes};
}

RemapServer::RemapServer(Channel* channel, Rule rule)
    : channel_(channel), rule_(std::move(rule)), thread_([this] { Run(); }) {}

RemapServer::~RemapServer() {
  stop_ = true;
  thread_.join();
}

// Polls, so that it can be stopped with the target still there.
void RemapServer::Run() {
  Headers requests(64), replies;
  while (!stop_) {
    const short events = channel_->Poll(20);
    if (events & POLLERR) return;
    if (!(events & POLLIN)) continue;
    const ssize_t got =
        channel_->Read(requests.data(), requests.size() * kHeaderBytes);
    if (got <= 0) continue;
    replies.clear();
    for (size_t i = 0; i < static_cast<size_t>(got) / kHeaderBytes; ++i) {
      flags_seen_ |= requests[i].flags;
      replies.push_back(rule_(requests[i]));
    }
    channel_->Write(replies.data(), replies.size() * kHeaderBytes);
  }
}

Edge::Edge(size_t bytes)
    : mapped_bytes_((bytes / 4096 + 2) * 4096), data_(nullptr) {
  pages_ =
      static_cast<uint8_t*>(mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uint8_t* end = pages_ + mapped_bytes_ - 4096;
  mprotect(end, 4096, PROT_NONE);
  data_ = end - bytes;
  memset(data_, 0, bytes);
}

Edge::~Edge() { munmap(pages_, mapped_bytes_); }

FewTags::FewTags(const std::string& below) {
  const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  name_ = "loop" + std::to_string(ioctl(control, LOOP_CTL_GET_FREE));
  close(control);
  fd_ = open(("/dev/" + name_).c_str(), O_RDWR | O_CLOEXEC);
  const int file = open(below.c_str(), O_RDWR | O_CLOEXEC);
  loop_config config = {};
  config.fd = static_cast<uint32_t>(file);
  config.block_size = 512;
  config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN;
  blkpg_partition partition = {};
  partition.start = kStart * 512;
  partition.length = (kDeviceSectors - kStart) * 512;
  partition.pno = 1;
  blkpg_ioctl_arg add = {BLKPG_ADD_PARTITION, 0, sizeof(partition), &partition};
  if (ioctl(fd_, LOOP_CONFIGURE, &config) == 0 &&
      ioctl(fd_, BLKPG, &add) == 0 && Set("scheduler", "none") &&
      Set("nr_requests", std::to_string(kTags))) {
    partition_ = "/dev/" + name_ + "p1";
  }
  close(file);
}

FewTags::~FewTags() {
  ioctl(fd_, LOOP_CLR_FD);
  close(fd_);
}

bool FewTags::Set(const std::string& file, const std::string& value) {
  std::ofstream out("/sys/block/" + name_ + "/queue/" + file);
  out << value << std::flush;
  return out.good();
}

void RemapFixture::SetUp() {
  for (int i = 0; i < kRamDisks; ++i) {
    ram_[i] = RamDisk(i);
    ASSERT_NE("", ram_[i]);
    ASSERT_TRUE(WriteDevice(ram_[i], 0, Whole(i)));
  }
}

void RemapFixture::Open(const std::string& features, uint64_t more_flags,
                        uint64_t coalesce_bytes) {
  ASSERT_EQ(0, device_.CreateUser(features));
  channel_ = std::make_unique<Channel>("remap");
  ASSERT_EQ(0, channel_->SetFlags(kRemapFlags | more_flags, coalesce_bytes));
}

const Bytes& RemapFixture::Whole(int device) {
  static const Bytes contents[kRamDisks] = {Pattern(kRamDiskSectors * 512, 0),
                                            Pattern(kRamDiskSectors * 512, 1)};
  return contents[device];
}

Bytes RemapFixture::Content(int device, uint64_t sector, uint64_t sectors) {
  const uint8_t* at = Whole(device).data() + sector * 512;
  return Bytes(at, at + sectors * 512);
}

Pending* RemapFixture::Keep(std::unique_ptr<Pending> pending) {
  pending_.push_back(std::move(pending));
  return pending_.back().get();
}

Pending* RemapFixture::Read(uint64_t sector, uint64_t sectors) {
  const uint64_t queued = device_.StatusNumber(kQueued);
  Pending* p = Keep(std::make_unique<Pending>(sectors * 512));
  p->io = StartRead(device_, sector * 512, &p->buffer);
  EXPECT_TRUE(device_.AwaitStatus(kQueued, std::to_string(queued + 1)));
  return p;
}

Pending* RemapFixture::Write(uint64_t sector, uint64_t sectors, uint32_t seed) {
  const uint64_t queued = device_.StatusNumber(kQueued);
  Pending* p = Keep(std::make_unique<Pending>(sectors * 512));
  p->buffer.FillPattern(seed);
  p->io = StartWrite(device_, sector * 512, &p->buffer);
  EXPECT_TRUE(device_.AwaitStatus(kQueued, std::to_string(queued + 1)));
  return p;
}

Headers RemapFixture::Take(size_t queued, size_t messages) {
  Headers requests(messages + 1);
  EXPECT_TRUE(device_.AwaitStatus(kQueued, std::to_string(queued)));
  const ssize_t got =
      channel_->Read(requests.data(), requests.size() * kHeaderBytes);
  EXPECT_EQ(static_cast<ssize_t>(messages * kHeaderBytes), got);
  requests.resize(messages);
  return requests;
}

void RemapFixture::Give(const Headers& replies, uint32_t stale) {
  const size_t bytes = replies.size() * kHeaderBytes;
  const Exchanged r = Exchange(channel_.get(), replies.data(), bytes);
  EXPECT_EQ(0, r.error);
  EXPECT_EQ(bytes, r.taken_bytes);
  EXPECT_EQ(stale, r.stale);
}

void RemapFixture::ExpectError(Pending* pending, int error) {
  EXPECT_EQ(error, pending->Result().error);
}

void RemapFixture::ExpectDone(Pending* pending) {
  const IoResult r = pending->Result();
  EXPECT_EQ(static_cast<int64_t>(pending->buffer.size()), r.result) << r.error;
}

void RemapFixture::ExpectRead(Pending* pending, const Bytes& content) {
  ExpectDone(pending);
  EXPECT_TRUE(content == pending->buffer.Copy()) << "other data";
}

void RemapFixture::ExpectIdle() {
  EXPECT_EQ("0", device_.StatusField(kQueued));
  EXPECT_EQ("0", device_.StatusField(kDelivered));
}

}  // namespace dmu
