// SPDX-License-Identifier: Apache-2.0
//
// Goal: every kind of disk over a file or device does what disk.h says: whole
// ranges or an error, completions from a turn of the loop, and what was written
// is what is read, in the cache and out of it, many operations at a time.
// Method: the real disks on the real loop, against a byte array, with the page
// cache emptied in between. DMU_DISK_TEST_DEVICE names a block device to use in
// place of a file, DMU_DISK_TEST_DIR a folder for the file;
// DMU_DISK_TEST_DIRECT says that it can be had past the page cache too.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "daemon/io/disk_file.h"
#include "daemon/io/disk_uring.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"

namespace dmu {
namespace {

constexpr uint64_t kSizeBytes = 2 << 20;

enum class Kind { kFile, kUring, kUringOpaque, kFileDirect, kUringDirect };

bool IsDirect(Kind kind) {
  return kind == Kind::kFileDirect || kind == Kind::kUringDirect;
}
bool IsPlain(Kind kind) {
  return kind == Kind::kFile || kind == Kind::kFileDirect;
}

std::vector<Kind> Kinds(std::vector<Kind> kinds, Kind direct) {
  if (getenv("DMU_DISK_TEST_DIRECT") != nullptr) kinds.push_back(direct);
  return kinds;
}

std::string KindName(const testing::TestParamInfo<Kind>& info) {
  static constexpr const char* kNames[] = {"File", "Uring", "UringOpaque",
                                           "FileDirect", "UringDirect"};
  return kNames[static_cast<int>(info.param)];
}

// Memory at the start of a sector.
template <typename T>
struct SectorAllocator {
  using value_type = T;
  T* allocate(size_t count) {
    const size_t sectors = (count * sizeof(T) + 511) / 512;
    return static_cast<T*>(aligned_alloc(512, (sectors + 1) * 512));
  }
  void deallocate(T* at, size_t) { free(at); }
  bool operator==(const SectorAllocator&) const { return true; }
};
using Bytes = std::vector<uint8_t, SectorAllocator<uint8_t>>;

struct Op : DiskOp {
  Op(Kind kind_in, uint64_t offset_in, uint64_t bytes) : data(bytes) {
    kind = kind_in;
    offset = offset_in;
    length_bytes = bytes;
    buffer = data.data();
    done.run = [](void* context) { ++static_cast<Op*>(context)->times_done; };
    done.context = this;
  }
  Bytes data;
  int times_done = 0;
};

class DiskTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const char* device = getenv("DMU_DISK_TEST_DEVICE");
    const char* folder = getenv("DMU_DISK_TEST_DIR");
    is_device_ = device != nullptr;
    if (is_device_) {
      path_ = device;
      fd_.reset(open(device, O_RDWR | O_CLOEXEC));
    } else {
      path_ = std::string(folder != nullptr ? folder : "/tmp") +
              "/dmu-disk-test-XXXXXX";
      fd_.reset(mkostemp(path_.data(), O_CLOEXEC));
    }
    ASSERT_TRUE(fd_.valid()) << path_ << ": " << strerror(errno);
    content_.resize(kSizeBytes);
    for (uint8_t& byte : content_) byte = static_cast<uint8_t>(random_());
    ASSERT_EQ(pwrite(fd_.get(), content_.data(), kSizeBytes, 0),
              ssize_t{kSizeBytes});
    DropCache();
    loop_ = EpollLoop::Create();
    if (!IsPlain(GetParam())) {
      ring_ = Ring::Create({.entries = 4, .under_way_max = 8}, loop_.get());
      ASSERT_NE(ring_, nullptr) << strerror(errno);
      flusher_ = Flusher::Create(loop_.get());
      ASSERT_NE(flusher_, nullptr) << strerror(errno);
    }
    Open();
  }

  void TearDown() override {
    disk_.reset();
    if (!is_device_ && !path_.empty()) unlink(path_.c_str());
  }

  void Open() {
    disk_.reset();
    uring_ = nullptr;
    const DiskOptions options = {
        .writable = true,
        .direct = IsDirect(GetParam()) ? DirectIo::kOn : DirectIo::kOff};
    if (IsPlain(GetParam())) {
      auto disk = FileDisk::Open(path_, options, loop_.get());
      ASSERT_TRUE(disk.ok()) << disk.status();
      disk_ = std::move(*disk);
      return;
    }
    auto disk = UringDisk::Open(path_, options, ring_.get(), flusher_.get(),
                                loop_.get());
    ASSERT_TRUE(disk.ok()) << disk.status();
    uring_ = disk->get();
    if (GetParam() == Kind::kUringOpaque) uring_->set_opaque();
    disk_ = std::move(*disk);
  }

  // Rounded up to what the disk takes.
  uint64_t Fit(uint64_t bytes) const {
    const uint64_t unit = IsDirect(GetParam()) ? 512 : 1;
    return (bytes + unit - 1) / unit * unit;
  }

  void DropCache() {
    ASSERT_EQ(fsync(fd_.get()), 0);
    posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (is_device_) ioctl(fd_.get(), BLKFLSBUF, 0);
  }

  void Wait(const Op& op) {
    while (op.times_done == 0) loop_->Turn(/*wait=*/true);
  }

  void ExpectContent() {
    DropCache();
    Op read(DiskOp::Kind::kRead, 0, kSizeBytes);
    disk_->Submit(&read);
    Wait(read);
    EXPECT_EQ(read.status, IoStatus::kOk);
    EXPECT_TRUE(read.data == content_);
  }

  bool is_device_ = false;
  std::string path_;
  UniqueFd fd_;
  std::mt19937 random_{4711};
  Bytes content_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<Flusher> flusher_;
  std::unique_ptr<Disk> disk_;
  UringDisk* uring_ = nullptr;
};

TEST_P(DiskTest, CompletionsComeFromATurnOfTheLoop) {
  Op read(DiskOp::Kind::kRead, Fit(100), Fit(1000));
  Op flush(DiskOp::Kind::kFlush, 0, 0);
  Op beyond(DiskOp::Kind::kRead, kSizeBytes + (1 << 30), Fit(1));
  if (is_device_) beyond.offset = disk_->size_bytes();
  for (Op* op : {&read, &flush, &beyond}) disk_->Submit(op);
  EXPECT_EQ(read.times_done + flush.times_done + beyond.times_done, 0);
  for (Op* op : {&read, &flush, &beyond}) Wait(*op);
  EXPECT_EQ(read.status, IoStatus::kOk);
  EXPECT_EQ(memcmp(read.data.data(), &content_[Fit(100)], 1000), 0);
  EXPECT_EQ(flush.status, IoStatus::kOk);
  EXPECT_EQ(beyond.status, IoStatus::kShort);
}

TEST_P(DiskTest, MoreThanFitsIsDoneAllTheSame) {
  std::vector<std::unique_ptr<Op>> ops;
  for (uint64_t i = 0; i < 200; ++i) {
    ops.push_back(std::make_unique<Op>(
        DiskOp::Kind::kRead, Fit((i * 37 % 200) * 10000 + i), Fit(30000)));
    disk_->Submit(ops.back().get());
  }
  for (const auto& op : ops) {
    Wait(*op);
    EXPECT_EQ(op->status, IoStatus::kOk);
    EXPECT_EQ(memcmp(op->data.data(), &content_[op->offset], 30000), 0);
    EXPECT_EQ(op->times_done, 1);
  }
}

// Batches of operations that do not meet, of every kind, size and alignment.
TEST_P(DiskTest, RandomTrafficMatchesTheBytes) {
  constexpr uint64_t kParts = 16;
  constexpr uint64_t kPartBytes = kSizeBytes / kParts;
  if (uring_ != nullptr) uring_->set_dirty_bytes_max(128 << 10);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::unique_ptr<Op>> ops;
    std::vector<uint64_t> forgotten;
    for (uint64_t part = 0; part < kParts; ++part) {
      const uint64_t unit = random_() % 2 == 0 ? 4096
                            : is_device_       ? 512
                                               : Fit(1);
      const uint64_t first = random_() % (kPartBytes / unit);
      const uint64_t units =
          1 + random_() % std::min<uint64_t>(kPartBytes / unit - first,
                                             random_() % 8 == 0 ? 1 << 20 : 40);
      const uint64_t offset = part * kPartBytes + first * unit;
      const uint64_t bytes = units * unit;
      const uint32_t dice = random_() % 16;
      uint8_t* at = &content_[offset];
      auto kind = DiskOp::Kind::kRead;
      if (dice >= 7) kind = DiskOp::Kind::kWrite;
      if (dice == 13 && offset % 512 == 0 && bytes % 512 == 0) {
        kind = DiskOp::Kind::kWriteZeroes;
      }
      // Not parts of pages: brd of Linux 6.12 then forgets more than it should.
      if (dice == 14 && offset % 4096 == 0 && bytes % 4096 == 0) {
        kind = DiskOp::Kind::kDiscard;
      }
      if (dice == 15) kind = DiskOp::Kind::kFlush;
      ops.push_back(std::make_unique<Op>(kind, offset, bytes));
      Op* op = ops.back().get();
      if (kind == DiskOp::Kind::kWrite) {
        for (uint8_t& byte : op->data) byte = static_cast<uint8_t>(random_());
        memcpy(at, op->data.data(), bytes);
      } else if (kind == DiskOp::Kind::kWriteZeroes) {
        memset(at, 0, bytes);
      } else if (kind == DiskOp::Kind::kDiscard) {
        forgotten.push_back(ops.size() - 1);
      }
      disk_->Submit(op);
    }
    for (const auto& op : ops) {
      Wait(*op);
      ASSERT_EQ(op->status, IoStatus::kOk);
      ASSERT_EQ(op->times_done, 1);
      if (op->kind != DiskOp::Kind::kRead) continue;
      ASSERT_EQ(memcmp(op->data.data(), &content_[op->offset], op->data.size()),
                0);
    }
    // May read as anything, but as the same from now on.
    for (const uint64_t i : forgotten) {
      ASSERT_EQ(pread(fd_.get(), &content_[ops[i]->offset],
                      ops[i]->length_bytes, static_cast<off_t>(ops[i]->offset)),
                static_cast<ssize_t>(ops[i]->length_bytes));
    }
    if (random_() % 4 == 0) DropCache();
  }
  ExpectContent();
}

TEST_P(DiskTest, AFileThatWasCutFailsTheReadsBehindItsEnd) {
  if (is_device_) return;  // has no such thing
  ASSERT_EQ(ftruncate(fd_.get(), kSizeBytes / 2), 0);
  const uint64_t bytes = Fit(100);
  Op across(DiskOp::Kind::kRead, kSizeBytes / 2 - bytes, 2 * bytes);
  Op behind(DiskOp::Kind::kRead, kSizeBytes - bytes, bytes);
  Op before(DiskOp::Kind::kRead, kSizeBytes / 2 - bytes, bytes);
  for (Op* op : {&across, &behind, &before}) disk_->Submit(op);
  for (Op* op : {&across, &behind, &before}) Wait(*op);
  EXPECT_EQ(across.status, IoStatus::kShort);
  EXPECT_EQ(behind.status, IoStatus::kShort);
  EXPECT_EQ(before.status, IoStatus::kOk);
}

class UringDiskTest : public DiskTest {};

TEST_P(UringDiskTest, ADiskMayGoWhileItFlushesByItself) {
  uring_->set_dirty_bytes_max(1);
  Op first(DiskOp::Kind::kWrite, 0, 4096), second(DiskOp::Kind::kWrite, 0, 512);
  disk_->Submit(&first);
  Wait(first);
  disk_->Submit(&second);  // has to wait for a flush
  Wait(second);
  Op third(DiskOp::Kind::kWrite, 0, 512);
  disk_->Submit(&third);
  Wait(third);
  for (Op* op : {&first, &second, &third}) EXPECT_EQ(op->status, IoStatus::kOk);
  disk_.reset();
  for (int i = 0; i < 100; ++i) loop_->Turn(/*wait=*/false);
}

INSTANTIATE_TEST_SUITE_P(Kinds, DiskTest,
                         testing::ValuesIn(Kinds(Kinds({Kind::kFile,
                                                        Kind::kUring,
                                                        Kind::kUringOpaque},
                                                       Kind::kFileDirect),
                                                 Kind::kUringDirect)),
                         KindName);

// A pipe has no fdatasync, like a file of a file system that is only read.
TEST_P(UringDiskTest, AFlushTheKernelRefusesIsAnErrorOfTheFlush) {
  struct Refused : FlushOp {
    int result = -1;
  } op;
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  op.fd = fds[0];
  op.done = [](FlushOp* flush, int error) {
    static_cast<Refused*>(flush)->result = error;
  };
  flusher_->Submit(&op);
  EXPECT_EQ(op.result, -1) << "not from inside Submit";
  loop_->Turn(/*wait=*/true);
  EXPECT_EQ(op.result, EINVAL);
  close(fds[0]);
  close(fds[1]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, UringDiskTest, testing::Values(Kind::kUring));

}  // namespace
}  // namespace dmu
