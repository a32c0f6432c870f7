// SPDX-License-Identifier: Apache-2.0
//
// Goal: a range is transferred whole or fails with its class and cause,
// whatever the system calls do; what is no disk is refused and keeps nobody
// waiting.
// Method: real files, cut, limited and replaced. For what no file here does -
// interrupted calls, transfers cut anywhere, the errors of dying devices - this
// program stands in front of the C library's calls and does a part of them.
#include "daemon/io/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "daemon/base/cause_text.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"

namespace {

// What the next calls do, one after the other; behind the last they are as they
// were. 0: the whole; above 0: so many bytes at most; below: -errno.
std::vector<int64_t> script;

bool Scripted(size_t* bytes, ssize_t* result) {
  if (script.empty()) return false;
  const int64_t step = script.front();
  script.erase(script.begin());
  if (step < 0) {
    errno = static_cast<int>(-step);
    *result = -1;
    return true;
  }
  if (step > 0 && bytes != nullptr) {
    *bytes = std::min(*bytes, static_cast<size_t>(step));
  }
  return false;
}

}  // namespace

extern "C" {

ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
  ssize_t result = 0;
  if (Scripted(&bytes, &result)) return result;
  return syscall(SYS_pread64, fd, to, bytes, offset);
}

ssize_t pwrite(int fd, const void* from, size_t bytes, off_t offset) {
  ssize_t result = 0;
  if (Scripted(&bytes, &result)) return result;
  return syscall(SYS_pwrite64, fd, from, bytes, offset);
}

int fdatasync(int fd) {
  ssize_t result = 0;
  if (Scripted(nullptr, &result)) return static_cast<int>(result);
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  ssize_t result = 0;
  if (Scripted(nullptr, &result)) return static_cast<int>(result);
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, bytes));
}

}  // extern "C"

namespace dmu {
namespace {

constexpr uint64_t kBytes = 1 << 20;

class DiskFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    script.clear();
    char directory[] = "/tmp/dmu-disk-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/disk";
    loop_ = EpollLoop::Create();
    UniqueFd fd(open(path_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    content_.resize(kBytes);
    for (size_t i = 0; i < kBytes; ++i) {
      content_[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
    }
    ASSERT_EQ(write(fd.get(), content_.data(), kBytes),
              static_cast<ssize_t>(kBytes));
    auto disk = FileDisk::Open(path_, {.writable = true}, loop_.get());
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = std::move(*disk);
    op_.done.run = [](void* context) { ++*static_cast<int*>(context); };
    op_.done.context = &done_;
  }
  void TearDown() override {
    EXPECT_TRUE(script.empty()) << "calls that were not made";
    EXPECT_EQ(system(("rm -r " + directory_).c_str()), 0);
  }

  IoStatus Do(DiskOp::Kind kind, uint64_t offset, std::vector<uint8_t>* bytes) {
    op_.kind = kind;
    op_.offset = offset;
    op_.length_bytes = bytes->size();
    op_.buffer = bytes->data();
    const int before = done_;
    disk_->Submit(&op_);
    EXPECT_EQ(done_, before) << "completed from inside Submit";
    loop_->Turn(/*wait=*/false);
    EXPECT_EQ(done_, before + 1);
    return op_.status;
  }

  std::vector<uint8_t> Part(uint64_t offset, uint64_t bytes) const {
    const auto at = content_.begin() + static_cast<ptrdiff_t>(offset);
    return {at, at + static_cast<ptrdiff_t>(bytes)};
  }

  absl::StatusCode OpenCode(const std::string& path) {
    return FileDisk::Open(path, {.writable = true, .exclusive = true},
                          loop_.get())
        .status()
        .code();
  }

  std::string directory_;
  std::string path_;
  std::vector<uint8_t> content_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<FileDisk> disk_;
  DiskOp op_;
  int done_ = 0;
};

TEST_F(DiskFileTest, InterruptedAndShortTransfersGoOn) {
  std::vector<uint8_t> bytes(10'000);
  script = {1, -EINTR, 511, -EINTR, -EINTR, 4096, 0};
  EXPECT_EQ(Do(DiskOp::Kind::kRead, 4096, &bytes), IoStatus::kOk);
  EXPECT_TRUE(bytes == Part(4096, bytes.size()));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte ^ 0x55);
  script = {-EINTR, 1, 4095, -EINTR, 3000, 0};
  EXPECT_EQ(Do(DiskOp::Kind::kWrite, 512, &bytes), IoStatus::kOk);
  std::copy(bytes.begin(), bytes.end(), content_.begin() + 512);
  std::vector<uint8_t> all(kBytes);
  EXPECT_EQ(Do(DiskOp::Kind::kRead, 0, &all), IoStatus::kOk);
  EXPECT_TRUE(all == content_);
  script = {-EINTR, -EINTR, 0};
  EXPECT_EQ(Do(DiskOp::Kind::kFlush, 0, &bytes), IoStatus::kOk);
  script = {-EINTR, 0};
  EXPECT_EQ(Do(DiskOp::Kind::kDiscard, 0, &bytes), IoStatus::kOk);
}

TEST_F(DiskFileTest, ErrorsHaveClassAndCauseAndFailOneOperation) {
  const struct {
    int error;
    IoStatus status;
  } cases[] = {
      {EIO, IoStatus::kIoError},
      {EREMOTEIO, IoStatus::kIoError},
      {ENOSPC, IoStatus::kNoSpace},
      {EDQUOT, IoStatus::kNoSpace},
      {EFBIG, IoStatus::kNoSpace},
      {ENODEV, IoStatus::kGone},
      {ENXIO, IoStatus::kGone},
      {ENOMEDIUM, IoStatus::kGone},
      {EOPNOTSUPP, IoStatus::kUnsupported},
  };
  std::vector<uint8_t> bytes = Part(8192, 4096);
  for (const auto& c : cases) {
    for (const DiskOp::Kind kind :
         {DiskOp::Kind::kRead, DiskOp::Kind::kWrite, DiskOp::Kind::kFlush,
          DiskOp::Kind::kWriteZeroes}) {
      // Late ones, too: after a part of the range.
      const bool data =
          kind == DiskOp::Kind::kRead || kind == DiskOp::Kind::kWrite;
      script = data ? std::vector<int64_t>{512, -c.error}
                    : std::vector<int64_t>{-c.error};
      op_.cause = {};
      EXPECT_EQ(Do(kind, 8192, &bytes), c.status) << strerror(c.error);
      EXPECT_EQ(op_.cause.error, c.error);
      EXPECT_STREQ(op_.cause.where, path_.c_str());
      EXPECT_EQ(op_.cause.offset, kind == DiskOp::Kind::kFlush
                                      ? IoCause::kNoOffset
                                      : uint64_t{8192});
      EXPECT_EQ(Do(DiskOp::Kind::kRead, 8192, &bytes), IoStatus::kOk);
      EXPECT_TRUE(bytes == Part(8192, bytes.size()));
    }
  }
  // A discard is a hint.
  script = {-EOPNOTSUPP};
  EXPECT_EQ(Do(DiskOp::Kind::kDiscard, 8192, &bytes), IoStatus::kOk);
}

TEST_F(DiskFileTest, AFileThatIsCutEndsShort) {
  std::vector<uint8_t> bytes(8192);
  ASSERT_EQ(truncate(path_.c_str(), 6000), 0);
  EXPECT_EQ(Do(DiskOp::Kind::kRead, 0, &bytes), IoStatus::kShort);
  EXPECT_EQ(op_.cause.error, 0);
  EXPECT_STREQ(op_.cause.where, path_.c_str());
  EXPECT_EQ(Do(DiskOp::Kind::kRead, kBytes / 2, &bytes), IoStatus::kShort);
  bytes.resize(6000);
  EXPECT_EQ(Do(DiskOp::Kind::kRead, 0, &bytes), IoStatus::kOk);
  EXPECT_TRUE(bytes == Part(0, 6000));
  // A write makes it longer, as it does for everybody.
  bytes.assign(512, 7);
  EXPECT_EQ(Do(DiskOp::Kind::kWrite, kBytes - 512, &bytes), IoStatus::kOk);
  EXPECT_EQ(Do(DiskOp::Kind::kRead, kBytes / 2, &bytes), IoStatus::kOk);
  // Beyond what it was when it was opened there is nothing.
  EXPECT_EQ(Do(DiskOp::Kind::kRead, kBytes - 256, &bytes), IoStatus::kShort);
  EXPECT_EQ(Do(DiskOp::Kind::kWrite, UINT64_MAX - 4, &bytes), IoStatus::kShort);
}

// The kernel writes what the limit lets it, and then refuses.
TEST_F(DiskFileTest, ALimitIsNoSpaceAndNoSignal) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 10'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::vector<uint8_t> bytes(4096, 9);
  EXPECT_EQ(Do(DiskOp::Kind::kWrite, 8192, &bytes), IoStatus::kNoSpace);
  EXPECT_EQ(op_.cause.error, EFBIG);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  bytes.assign(2000, 0);
  EXPECT_EQ(Do(DiskOp::Kind::kRead, 8192, &bytes), IoStatus::kOk);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.begin() + 10'000 - 8192,
                          [](uint8_t byte) { return byte == 9; }));
  EXPECT_EQ(bytes[1900], content_[8192 + 1900]);
}

TEST_F(DiskFileTest, CausesInWords) {
  EXPECT_STREQ(CauseText({}).text(), "");
  EXPECT_STREQ(CauseText({.where = ""}).text(), "");
  EXPECT_STREQ(CauseText({.where = "/dev/x"}).text(), ": /dev/x");
  EXPECT_STREQ(CauseText({.where = "/dev/x", .offset = 0}).text(),
               ": /dev/x at offset 0");
  EXPECT_STREQ(CauseText({.error = EIO}).text(), ": Input/output error");
  EXPECT_STREQ(
      CauseText({.where = "/dev/x", .offset = 4096, .error = ENOSPC}).text(),
      ": /dev/x at offset 4096: No space left on device");
  EXPECT_STREQ(CauseText({.where = "/dev/x", .error = 54321}).text(),
               ": /dev/x");
  const std::string long_path(5000, 'x');
  EXPECT_EQ(CauseText({.where = long_path.c_str(), .error = EIO}).text(),
            ": " + long_path.substr(0, 189));
}

TEST_F(DiskFileTest, WhatIsNoDiskIsRefusedAtOnce) {
  const std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  alarm(20);  // who opens a FIFO waits for its writer
  EXPECT_EQ(OpenCode(fifo), absl::StatusCode::kInvalidArgument);
  alarm(0);
  EXPECT_EQ(OpenCode(directory_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenCode("/dev/full"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenCode("/dev/null"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenCode(directory_ + "/none"), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenCode(path_ + "/none"), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenCode(path_), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace dmu
