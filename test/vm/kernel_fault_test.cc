// SPDX-License-Identifier: Apache-2.0
//
// Goal: no allocation and no user copy that fails leaves anything behind, loses
// a request, or is worse than an error.
// Method: on a kernel with fault injection, each operation is done again and
// again, with its first, its second, ... its last call that can fail made to
// fail, until one run meets no failure any more. What the kernel thinks of it
// (KASAN, lockdep, kmemleak) is judged by the machine's runner.
//
// Runs as root, with the module loaded and debugfs mounted.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;

void WriteFile(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0) << path << ": " << strerror(errno);
  EXPECT_EQ(static_cast<ssize_t>(text.size()),
            write(fd, text.data(), text.size()))
      << path;
  close(fd);
}

// Faults of this thread alone; see the kernel's fault-injection.rst, fail-nth.
class Faults {
 public:
  Faults() {
    fd_ = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
    if (fd_ < 0) abort();
  }
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;
  ~Faults() { close(fd_); }

  // The nth call from now on that can fail will.
  void Arm(int nth) { Set(nth); }
  // True if it has. To ask, and to disarm, are calls that can fail as well.
  bool Disarm() {
    char text[16] = {};
    const ssize_t got = pread(fd_, text, sizeof(text) - 1, 0);
    if (got <= 0 && errno != EFAULT) abort();
    Set(0);
    return got > 0 && atoi(text) == 0;
  }

 private:
  void Set(int value) {
    char text[16];
    const int length = snprintf(text, sizeof(text), "%d", value);
    while (pwrite(fd_, text, static_cast<size_t>(length), 0) != length) {
      if (errno != EFAULT) abort();
    }
  }

  int fd_ = -1;
};

// `once` arms the faults itself, right before what is tried, and returns what
// Disarm said.
void WithEachFault(const char* what,
                   const std::function<bool(Faults*, int nth)>& once) {
  Faults faults;
  int nth = 1;
  for (; nth < 5000 && once(&faults, nth); ++nth) {
    ASSERT_FALSE(testing::Test::HasFailure()) << what << ", fault " << nth;
  }
  ASSERT_LT(nth, 5000) << what << ": there is no end of it";
  printf("%s: %d places to fail\n", what, nth - 1);
}

class FaultEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    // Has what all devices share: an open control node, and slab caches, whose
    // maker would report each failure with a call trace.
    ASSERT_EQ(0, first_.CreateUser());
    const std::string debug = "/sys/kernel/debug/";
    for (const std::string kind : {"failslab", "fail_page_alloc"}) {
      // Those that may sleep too: they are the ones there are.
      WriteFile(debug + kind + "/ignore-gfp-wait", "N");
    }
    WriteFile(debug + "fail_page_alloc/min-order", "0");
    for (const std::string kind :
         {"failslab", "fail_page_alloc", "fail_usercopy"}) {
      WriteFile(debug + kind + "/verbose", "0");
    }
  }
  void TearDown() override { EXPECT_EQ(0, first_.Remove()); }

 private:
  MappedDevice first_{"first"};
};

// Not by the name in /dev: devtmpfs keeps that when it lacks the memory for its
// path, and nothing is behind it.
bool HasControlNode() { return Channel("fault").ok(); }

constexpr char kFeatures[] = "5 discard orphan_ms forever max_io 128";

TEST(Faults, CreateAndRemove) {
  WithEachFault("create", [](Faults* faults, int nth) {
    MappedDevice device("fault");
    faults->Arm(nth);
    const int error = device.CreateUser(kFeatures);
    const bool injected = faults->Disarm();
    EXPECT_TRUE(injected || error == 0) << strerror(error);
    if (error != 0) {
      // There is one when only the answer did not get through.
      device.Remove();
      EXPECT_FALSE(HasControlNode()) << "a node is left";
      EXPECT_EQ(0, device.CreateUser(kFeatures)) << "the name is not free";
    }
    return injected;
  });
  WithEachFault("remove", [](Faults* faults, int nth) {
    MappedDevice device("fault");
    EXPECT_EQ(0, device.CreateUser(kFeatures));
    faults->Arm(nth);
    const int error = device.Remove();
    const bool injected = faults->Disarm();
    // Again, unless only the answer did not get through.
    if (error != 0) device.Remove();
    EXPECT_FALSE(HasControlNode());
    return injected;
  });
}

TEST(Faults, ReloadSuspendAndResume) {
  MappedDevice device("fault");
  ASSERT_EQ(0, device.CreateUser(kFeatures));
  RamServer server("fault", kDeviceSectors * 512);
  WithEachFault("load", [&](Faults* faults, int nth) {
    faults->Arm(nth);
    device.Load({UserLine("fault", kFeatures)});
    const bool injected = faults->Disarm();
    device.Clear();
    return injected;
  });
  for (const bool noflush : {false, true}) {
    WithEachFault("suspend and resume", [&](Faults* faults, int nth) {
      EXPECT_EQ(0, device.Load({UserLine("fault", kFeatures)}));
      faults->Arm(nth);
      device.Suspend(noflush);
      device.Resume();
      const bool injected = faults->Disarm();
      EXPECT_EQ(0, device.Resume());
      Buffer buffer(4096);
      Io io = StartRead(device, 0, &buffer);
      EXPECT_EQ(4096, Await(&io).result);
      return injected;
    });
  }
  WithEachFault("status, table, message", [&](Faults* faults, int nth) {
    faults->Arm(nth);
    device.Status();
    device.Table();
    device.Message("stuck_ms 100000");
    return faults->Disarm();
  });
}

TEST(Faults, OpenAndAsk) {
  MappedDevice device("fault");
  ASSERT_EQ(0, device.CreateUser(kFeatures));
  WithEachFault("open and ioctls", [&](Faults* faults, int nth) {
    dm_user_info info = {};
    faults->Arm(nth);
    Channel channel("fault");
    if (channel.ok()) {
      channel.Info(&info);
      channel.SetFlags(DM_USER_CHANNEL_FENCED);
      channel.Poll(0);
    }
    const bool injected = faults->Disarm();
    channel.Close();
    EXPECT_EQ("0", device.StatusField(kChannels));
    return injected;
  });
}

// A fault of read() or write() is EFAULT or a short transfer, and the next call
// goes on where it was.
TEST(Faults, ServingByStream) {
  MappedDevice device("fault");
  ASSERT_EQ(0, device.CreateUser(kFeatures));
  Channel channel("fault");
  ASSERT_EQ(0, channel.SetFlags(DM_USER_CHANNEL_FENCED));
  Buffer buffer(8192);
  for (const bool write : {false, true}) {
    WithEachFault(write ? "serve a write" : "serve a read", [&](Faults* faults,
                                                                int nth) {
      buffer.FillPattern(static_cast<uint32_t>(nth));
      const Bytes expected =
          write ? buffer.Copy() : Pattern(8192, static_cast<uint32_t>(nth) + 9);
      Io io = write ? StartWrite(device, 0, &buffer)
                    : StartRead(device, 0, &buffer);
      EXPECT_EQ(POLLIN, channel.Poll(10000));
      Bytes in(sizeof(WireHeader) + (write ? 8192 : 0));
      faults->Arm(nth);
      for (size_t done = 0; done < in.size();) {
        const size_t until =
            done < sizeof(WireHeader) ? sizeof(WireHeader) : in.size();
        const ssize_t got = channel.Read(in.data() + done, until - done);
        EXPECT_TRUE(got > 0 || got == -EFAULT) << got;
        if (got <= 0 && got != -EFAULT) return false;
        if (got > 0) done += static_cast<size_t>(got);
      }
      WireHeader header;
      memcpy(&header, in.data(), sizeof(header));
      header.type = DM_USER_RESP_SUCCESS;
      Bytes out(sizeof(header));
      memcpy(out.data(), &header, sizeof(header));
      if (!write) out.insert(out.end(), expected.begin(), expected.end());
      for (size_t done = 0; done < out.size();) {
        const ssize_t took =
            channel.Write(out.data() + done, out.size() - done);
        EXPECT_TRUE(took > 0 || took == -EFAULT) << took;
        if (took <= 0 && took != -EFAULT) return false;
        if (took > 0) done += static_cast<size_t>(took);
      }
      const bool injected = faults->Disarm();
      EXPECT_EQ(8192, Await(&io).result);
      if (write) {
        EXPECT_EQ(expected, Bytes(in.begin() + sizeof(WireHeader), in.end()));
      } else {
        EXPECT_EQ(expected, buffer.Copy());
      }
      return injected;
    });
  }
}

// The same for batches and user copy: whatever fails, what the daemon was told
// is true, and the request can be finished.
TEST(Faults, ServingByBatch) {
  MappedDevice device("fault");
  ASSERT_EQ(0, device.CreateUser(kFeatures));
  WithEachFault("batch and copy", [&](Faults* faults, int nth) {
    Channel channel("fault");
    EXPECT_EQ(0, channel.SetFlags(
                     DM_USER_CHANNEL_FENCED | DM_USER_CHANNEL_BATCH |
                         DM_USER_CHANNEL_USER_COPY | DM_USER_CHANNEL_COALESCE,
                     65536));
    Buffer buffer(8192);
    buffer.FillPattern(static_cast<uint32_t>(nth));
    Io io = StartWrite(device, 0, &buffer);
    EXPECT_EQ(POLLIN, channel.Poll(10000));
    WireHeader header = {};
    dm_user_batch batch = {};
    batch.requests = reinterpret_cast<uintptr_t>(&header);
    batch.requests_bytes = sizeof(header);
    Bytes data(8192);
    dm_user_copy copy = {};
    copy.buffer = reinterpret_cast<uintptr_t>(data.data());
    copy.bytes = 8192;
    faults->Arm(nth);
    const bool given = ioctl(channel.fd(), DM_USER_IOC_BATCH, &batch) == 0 &&
                       batch.given_bytes == sizeof(header);
    copy.seq = header.seq;
    const int copied = given ? ioctl(channel.fd(), DM_USER_IOC_COPY, &copy) : 0;
    header.type = DM_USER_RESP_SUCCESS;
    header.len = 0;
    batch = {};
    batch.replies = reinterpret_cast<uintptr_t>(&header);
    batch.replies_bytes = sizeof(header);
    const bool answered = copied == 8192 &&
                          ioctl(channel.fd(), DM_USER_IOC_BATCH, &batch) == 0 &&
                          batch.taken_bytes == sizeof(header);
    const bool injected = faults->Disarm();
    if (copied == 8192) {
      EXPECT_EQ(buffer.Copy(), data);
    }
    if (!answered) {
      // The next server gets it, unless the kernel took the answer and only
      // could not say so.
      channel.Close();
      if (!IsReady(&io)) {
        Channel next("fault");
        WireRequest request;
        if (device.StatusField(kQueued) != "0") {
          EXPECT_TRUE(next.Next(&request));
          EXPECT_EQ(buffer.Copy(), request.payload);
          EXPECT_TRUE(next.Reply(request.header.seq));
        }
      }
    }
    EXPECT_EQ(8192, Await(&io).result);
    return injected;
  });
}

TEST(Faults, OfWhoReadsAndWritesTheDevice) {
  MappedDevice device("fault");
  ASSERT_EQ(0, device.CreateUser(kFeatures));
  RamServer server("fault", kDeviceSectors * 512);
  const int fd = open(device.block_path().c_str(), O_RDWR | O_DIRECT);
  ASSERT_GE(fd, 0);
  Buffer buffer(262144);
  WithEachFault("write, fsync, read", [&](Faults* faults, int nth) {
    faults->Arm(nth);
    const ssize_t wrote = pwrite(fd, buffer.data(), buffer.size(), 0);
    const int synced = fsync(fd);
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), 0);
    const bool injected = faults->Disarm();
    if (!injected) {
      EXPECT_EQ(static_cast<ssize_t>(buffer.size()), wrote);
      EXPECT_EQ(0, synced);
      EXPECT_EQ(static_cast<ssize_t>(buffer.size()), got);
    }
    return injected;
  });
  close(fd);
  EXPECT_EQ("0", device.StatusField(kQueued));
  EXPECT_EQ("0", device.StatusField(kDelivered));
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new dmu::FaultEnvironment);
  return RUN_ALL_TESTS();
}
