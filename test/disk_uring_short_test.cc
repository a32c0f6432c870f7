// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the kernel does in parts, refuses for the moment or is interrupted
// in, a UringDisk brings to its end: the caller sees whole ranges or an error.
// Method: real disks and a real ring, between which and the kernel this program
// stands (the linker's --wrap): it shortens transfers that are about to be
// submitted, has some of them refused unless they need no waiting, and has the
// system call interrupted.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "daemon/io/disk_uring.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"

namespace {

// What becomes of the transfers submitted from now on, in their order; behind
// the last they are as they were. Above 0: so many bytes at most. 0: refused
// (EAGAIN) unless it needs no waiting.
std::vector<unsigned> script;
int interruptions = 0;  // of the system call, before it has done anything
int scripted = 0;

}  // namespace

extern "C" {

int __real_io_uring_submit(io_uring* ring);

int __wrap_io_uring_submit(io_uring* ring) {
  if (interruptions > 0) {
    --interruptions;
    return -EINTR;
  }
  for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; ++i) {
    io_uring_sqe& entry = ring->sq.sqes[i & ring->sq.ring_mask];
    if (script.empty() ||
        (entry.opcode != IORING_OP_READ && entry.opcode != IORING_OP_WRITE)) {
      continue;
    }
    const unsigned step = script.front();
    script.erase(script.begin());
    ++scripted;
    if (step == 0) {
      entry.rw_flags = RWF_NOWAIT;
    } else if (step < entry.len) {
      entry.len = step;
    }
  }
  return __real_io_uring_submit(ring);
}
}

namespace dmu {
namespace {

constexpr uint64_t kSizeBytes = 1 << 20;

struct Op : DiskOp {
  Op(Kind kind_in, uint64_t offset_in, uint64_t bytes) : data(bytes) {
    kind = kind_in;
    offset = offset_in;
    length_bytes = bytes;
    buffer = data.data();
    done.run = [](void* context) { ++static_cast<Op*>(context)->times_done; };
    done.context = this;
  }
  std::vector<uint8_t> data;
  int times_done = 0;
};

class UringShortTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fd_.reset(mkostemp(path_, O_CLOEXEC));
    ASSERT_TRUE(fd_.valid());
    content_.resize(kSizeBytes);
    for (size_t i = 0; i < kSizeBytes; ++i) {
      content_[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
    }
    ASSERT_EQ(pwrite(fd_.get(), content_.data(), kSizeBytes, 0),
              ssize_t{kSizeBytes});
    loop_ = EpollLoop::Create();
    ring_ = Ring::Create({.entries = 4, .under_way_max = 8}, loop_.get());
    ASSERT_NE(ring_, nullptr) << strerror(errno);
    flusher_ = Flusher::Create(loop_.get());
    auto disk = UringDisk::Open(path_, {.writable = true}, ring_.get(),
                                flusher_.get(), loop_.get());
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = std::move(*disk);
    // All reads and writes go by the ring.
    disk_->set_opaque();
    scripted = 0;
  }
  void TearDown() override {
    EXPECT_TRUE(script.empty()) << "transfers that were not made";
    script.clear();
    disk_.reset();
    unlink(path_);
  }

  IoStatus Do(Op* op) {
    disk_->Submit(op);
    while (op->times_done == 0) loop_->Turn(/*wait=*/true);
    EXPECT_EQ(op->times_done, 1);
    return op->status;
  }
  bool IsContent(const Op& op) const {
    return memcmp(op.data.data(), &content_[op.offset], op.data.size()) == 0;
  }

  char path_[64] = "/tmp/dmu-uring-short-test-XXXXXX";
  UniqueFd fd_;
  std::vector<uint8_t> content_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<Flusher> flusher_;
  std::unique_ptr<UringDisk> disk_;
};

TEST_F(UringShortTest, ShortTransfersGoOn) {
  Op read(DiskOp::Kind::kRead, 4096, 20'000);
  script = {1, 511, 4096, 8000};
  EXPECT_EQ(Do(&read), IoStatus::kOk);
  EXPECT_EQ(scripted, 4);
  EXPECT_TRUE(IsContent(read));
  Op write(DiskOp::Kind::kWrite, 512, 30'000);
  for (size_t i = 0; i < write.data.size(); ++i) {
    write.data[i] = static_cast<uint8_t>(i % 251);
  }
  // The pages at its ends are read before, each once.
  script = {1, 1, 1, 4095, 3000, 10'000};
  EXPECT_EQ(Do(&write), IoStatus::kOk);
  memcpy(&content_[512], write.data.data(), write.data.size());
  script.clear();
  Op all(DiskOp::Kind::kRead, 0, kSizeBytes);
  EXPECT_EQ(Do(&all), IoStatus::kOk);
  EXPECT_TRUE(IsContent(all));
}

TEST_F(UringShortTest, WhatIsRefusedForTheMomentIsTriedAgain) {
  ASSERT_EQ(fsync(fd_.get()), 0);
  posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
  Op read(DiskOp::Kind::kRead, kSizeBytes / 2, 100'000);
  script = {0, 0, 4096, 0};
  EXPECT_EQ(Do(&read), IoStatus::kOk);
  EXPECT_TRUE(IsContent(read));
  script.clear();  // where all of it was in memory, less was tried
}

TEST_F(UringShortTest, AnInterruptedCallIsMadeAgain) {
  interruptions = 3;
  Op read(DiskOp::Kind::kRead, 0, 4096);
  EXPECT_EQ(Do(&read), IoStatus::kOk);
  EXPECT_EQ(interruptions, 0);
  EXPECT_TRUE(IsContent(read));
  interruptions = 2;
  Op write(DiskOp::Kind::kWrite, 8192, 4096);
  EXPECT_EQ(Do(&write), IoStatus::kOk);
  Op flush(DiskOp::Kind::kFlush, 0, 0);
  EXPECT_EQ(Do(&flush), IoStatus::kOk);
  EXPECT_EQ(interruptions, 0);
}

// The kernel writes what the limit lets it, and then refuses.
TEST_F(UringShortTest, ALimitIsNoSpaceAndNoSignal) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 10'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  Op write(DiskOp::Kind::kWrite, 8192, 4096);
  memset(write.data.data(), 9, write.data.size());
  EXPECT_EQ(Do(&write), IoStatus::kNoSpace);
  EXPECT_EQ(write.cause.error, EFBIG);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  Op read(DiskOp::Kind::kRead, 8192, 4096);
  EXPECT_EQ(Do(&read), IoStatus::kOk);
  EXPECT_EQ(read.data[1807], 9);
  EXPECT_EQ(read.data[1808], content_[10'000]);
}

}  // namespace
}  // namespace dmu
