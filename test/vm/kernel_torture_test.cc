// SPDX-License-Identifier: Apache-2.0
//
// Goal: many devices, and everything that may happen to one at the same time
// from several processes: no hang, no leak, no wrong byte, and the errors are
// clean. Method: processes and threads that make, open, serve, fork, kill and
// remove; the kernel's own complaints are judged by the runner.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kDiskBytes = kDeviceSectors * 512;

int64_t MsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() -
                                                               start)
      .count();
}

// A figure of /proc/meminfo, in KiB.
int64_t MemoryKib(const std::string& name) {
  std::ifstream in("/proc/meminfo");
  for (std::string word; in >> word;) {
    if (word == name + ":") {
      int64_t kib = 0;
      in >> kib;
      return kib;
    }
  }
  return 0;
}

// Memory that processes share.
uint8_t* SharedMemory(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<uint8_t*>(at);
}

pid_t InChild(const std::function<bool()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    _exit(body() ? 0 : 1);
  }
  return pid;
}

void ExpectGoodEnd(pid_t pid) {
  int status = 0;
  ASSERT_EQ(pid, waitpid(pid, &status, 0));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

void ExpectKilled(pid_t pid) {
  ASSERT_EQ(0, kill(pid, SIGKILL));
  int status = 0;
  ASSERT_EQ(pid, waitpid(pid, &status, 0));
  EXPECT_TRUE(WIFSIGNALED(status)) << "it had ended by itself: " << status;
}

// Threads that write and read back, each in a part of the device of its own.
class Clients {
 public:
  Clients(const MappedDevice& device, int count) {
    // Before any of them works: who comes late may find the device gone.
    std::vector<int> fds;
    for (int c = 0; c < count; ++c) {
      fds.push_back(
          open(device.block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
      EXPECT_LE(0, fds.back()) << strerror(errno);
    }
    for (int c = 0; c < count; ++c) {
      threads_.emplace_back([this, c, fd = fds[c]] {
        Buffer out(8192), in(8192);
        for (uint32_t i = 0; !stop_; ++i) {
          const off_t offset = c * (1 << 20) + i % 64 * 8192;
          out.FillPattern(i * 7 + static_cast<uint32_t>(c));
          if (pwrite(fd, out.data(), 8192, offset) != 8192 ||
              pread(fd, in.data(), 8192, offset) != 8192) {
            error_ = errno;
            break;
          }
          wrong_ += memcmp(out.data(), in.data(), 8192) != 0;
          ++done_;
        }
        close(fd);
      });
    }
  }
  ~Clients() { Join(); }
  void Stop() {
    stop_ = true;
    Join();
  }
  // Until an error ends them.
  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) {
        thread.join();
      }
    }
  }
  int done() const { return done_; }
  int wrong() const { return wrong_; }
  int error() const { return error_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> done_{0}, wrong_{0}, error_{0};
  std::vector<std::thread> threads_;
};

// The device does what a device does.
void ExpectItServes(MappedDevice* device) {
  RamServer server(device->StatusField(kName), kDiskBytes);
  ASSERT_TRUE(server.ok());
  Buffer out(4096), in(4096);
  out.FillPattern(9);
  Io write = StartWrite(*device, 8192, &out);
  EXPECT_EQ(4096, Await(&write).result);
  Io read = StartRead(*device, 8192, &in);
  EXPECT_EQ(4096, Await(&read).result);
  EXPECT_EQ(out.Copy(), in.Copy());
}

// As many devices as wanted, or as the kernel has minors for: those of 6.1 end
// after about 120, and that must be an error like any other.
TEST(Torture, FiveHundredDevices) {
  constexpr size_t kWanted = 500;
  size_t made_first = 0;
  int64_t slab_kib = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<MappedDevice>> devices;
    const auto name = [](size_t i) { return "many" + std::to_string(i); };
    const int64_t free_kib = MemoryKib("MemFree");
    const auto start = Clock::now();
    int error = 0;
    while (devices.size() < kWanted && error == 0) {
      auto device = std::make_unique<MappedDevice>(name(devices.size()));
      error = device->CreateUser();
      if (error == 0) {
        devices.push_back(std::move(device));
      }
    }
    const size_t made = devices.size();
    printf("%zu devices in %lld ms, %lld KiB for each\n", made,
           static_cast<long long>(MsSince(start)),
           static_cast<long long>((free_kib - MemoryKib("MemFree")) /
                                  static_cast<int64_t>(made)));
    ASSERT_GE(made, 60u);
    if (made < kWanted) {
      EXPECT_EQ(EBUSY, error);
      struct stat st;
      EXPECT_NE(0, stat(("/dev/dm-user/" + name(made)).c_str(), &st));
      // Again no; and yes as soon as one is free.
      MappedDevice another("another");
      EXPECT_EQ(EBUSY, another.CreateUser());
      EXPECT_EQ(0, devices.front()->Remove());
      EXPECT_EQ(0, another.CreateUser());
      ExpectItServes(&another);
      EXPECT_EQ(0, another.Remove());
      EXPECT_EQ(0, devices.front()->CreateUser());
    }
    ExpectItServes(devices.front().get());
    ExpectItServes(devices.back().get());
    const auto removal = Clock::now();
    for (auto& device : devices) {
      ASSERT_EQ(0, device->Remove());
    }
    devices.clear();
    printf("removed in %lld ms\n", static_cast<long long>(MsSince(removal)));
    if (round == 0) {
      made_first = made;
      slab_kib = MemoryKib("Slab");
    } else {
      EXPECT_EQ(made_first, made);
      printf("%lld KiB more in slabs after the second time\n",
             static_cast<long long>(MemoryKib("Slab") - slab_kib));
      EXPECT_LT(MemoryKib("Slab") - slab_kib, 4096);
    }
  }
}

TEST(Torture, RenameWhileOpenAndWaiting) {
  MappedDevice device("torture");
  ASSERT_EQ(0, device.CreateUser());
  Channel channel("torture");
  Buffer buffer(4096);
  Io io = StartRead(device, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel.Next(&request));
  ASSERT_EQ(0, device.Rename("torture_renamed"));
  // The old name is another device's to take; the control node is not.
  MappedDevice other("torture");
  ASSERT_EQ(0, other.CreateEmpty());
  EXPECT_EQ(EBUSY, other.Load({UserLine("torture")}));
  ASSERT_EQ(0, device.Rename("torture_again"));
  ASSERT_TRUE(channel.Reply(request.header.seq, Pattern(4096, 3)));
  EXPECT_EQ(4096, Await(&io).result);
  EXPECT_EQ(Pattern(4096, 3), buffer.Copy());
  EXPECT_EQ("torture", device.StatusField(kName));
}

TEST(Torture, ForcedRemoveUnderLoad) {
  for (int round = 0; round < 10; ++round) {
    MappedDevice device("torture");
    ASSERT_EQ(0, device.CreateUser());
    RamServer server("torture", kDiskBytes);
    Clients clients(device, 3);
    while (clients.done() < 10 && clients.error() == 0) {
    }
    ASSERT_EQ(0, device.RemoveForced());
    clients.Join();
    EXPECT_EQ(EIO, clients.error());
    EXPECT_EQ(0, clients.wrong());
  }
}

// As the kernel's own tests of such drivers: recover once, and then once more
// before the first recovery has answered anything.
TEST(Torture, RecoversOnceAndTwice) {
  constexpr uint64_t kRequests = 8;
  MappedDevice device("torture");
  ASSERT_EQ(0, device.CreateUser("2 orphan_ms forever"));
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Io> ios;
  for (uint64_t i = 0; i < kRequests; ++i) {
    buffers.push_back(std::make_unique<Buffer>(4096));
    buffers.back()->FillPattern(static_cast<uint32_t>(i));
    ios.push_back(i % 2 ? StartWrite(device, i * 4096, buffers.back().get())
                        : StartRead(device, i * 4096, buffers.back().get()));
    ASSERT_TRUE(device.AwaitStatus(kQueued, std::to_string(i + 1)));
  }
  for (int kills = 1; kills <= 2; ++kills) {
    const pid_t pid = InChild([] {
      Channel channel("torture");
      WireRequest request;
      bool good = channel.SetFlags(DM_USER_CHANNEL_FENCED) == 0;
      for (uint64_t i = 0; good && i < kRequests; ++i) {
        good = channel.Next(&request) && request.header.seq == i;
      }
      if (good) {
        pause();
      }
      return false;
    });
    ASSERT_TRUE(device.AwaitStatus(kDelivered, std::to_string(kRequests)));
    ExpectKilled(pid);
    EXPECT_TRUE(device.AwaitStatus(kQueued, std::to_string(kRequests)));
    EXPECT_EQ(kills * kRequests, device.StatusNumber(kGivenBack));
  }
  Channel channel("torture");
  for (uint64_t i = 0; i < kRequests; ++i) {
    WireRequest request;
    ASSERT_TRUE(channel.Next(&request));
    EXPECT_EQ(i, request.header.seq);
    if (i % 2) {
      EXPECT_EQ(buffers[i]->Copy(), request.payload);
      ASSERT_TRUE(channel.Reply(i));
    } else {
      ASSERT_TRUE(channel.Reply(i, Pattern(4096, 77)));
    }
    EXPECT_EQ(4096, Await(&ios[i]).result);
  }
  EXPECT_EQ("0", device.StatusField(kErrors));
}

// The daemon forks and executes all the time, and its children have the channel
// too: what it had is given back when the last copy is closed, and not lost.
TEST(Torture, ChannelInForkedAndExecutedChildren) {
  constexpr int kKills = 12;
  MappedDevice device("torture");
  ASSERT_EQ(0, device.CreateUser("2 orphan_ms forever"));
  uint8_t* disk = SharedMemory(kDiskBytes);
  ASSERT_NE(nullptr, disk);
  const auto daemon = [&] {
    return InChild([&] {
      Channel channel("torture");
      if (channel.SetFlags(DM_USER_CHANNEL_FENCED) != 0 ||
          fcntl(channel.fd(), F_SETFD, 0) != 0) {
        return false;
      }
      std::thread([&] {
        for (int i = 0;; ++i) {
          const pid_t child = fork();
          if (child == 0) {
            if (i % 2) {
              execl("/bin/true", "true", nullptr);
            }
            _exit(0);
          }
          waitpid(child, nullptr, 0);
        }
      }).detach();
      return ServeRam(&channel, disk, kDiskBytes);
    });
  };
  Clients clients(device, 2);
  std::mt19937 random(5);
  for (int i = 0; i < kKills; ++i) {
    const int before = clients.done();
    const pid_t pid = daemon();
    while (clients.done() < before + 2 && clients.error() == 0) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40000));
    ExpectKilled(pid);
  }
  const pid_t last = daemon();
  clients.Stop();
  EXPECT_EQ(0, clients.wrong());
  EXPECT_EQ(0, clients.error());
  EXPECT_EQ("0", device.StatusField(kErrors));
  ExpectKilled(last);
  // Whatever its last child was, it ends.
  EXPECT_TRUE(device.AwaitStatus(kChannels, "0"));
  EXPECT_EQ("orphaned", device.StatusField(kState));
  munmap(disk, kDiskBytes);
}

// Opens the control node over and over, and does one random thing with it.
bool OpenAndClose(const std::atomic<bool>* stop, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(65536);
  while (!*stop) {
    Channel channel("torture", O_NONBLOCK);
    if (!channel.ok()) {
      continue;
    }
    for (int i = static_cast<int>(random() % 3); i >= 0; --i) {
      dm_user_info info;
      WireRequest request;
      switch (random() % 6) {
        case 0:
          channel.Read(bytes.data(), random() % bytes.size());
          break;
        case 1:
          channel.Write(bytes.data(), random() % 100);
          break;
        case 2:
          channel.Poll(0);
          break;
        case 3:
          channel.Info(&info);
          break;
        case 4:
          channel.SetFlags(random() % 8);
          channel.SetFlags(8 | random() % 8, 65536);
          break;
        case 5:
          if (channel.Poll(1) == POLLIN && channel.Next(&request)) {
            channel.Reply(request.header.seq,
                          std::vector<uint8_t>(request.header.len));
          }
          break;
      }
    }
  }
  return true;
}

// Opens the block device over and over, and reads and writes.
bool ReadAndWrite(const std::atomic<bool>* stop, unsigned seed) {
  std::mt19937 random(seed);
  Buffer buffer(4096);
  while (!*stop) {
    const int fd = open(("/dev/dm-" + std::to_string(random() % 2)).c_str(),
                        O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
      continue;
    }
    const off_t at = random() % 64 * 4096;
    // Any result will do; a hang will not. ENOSPC: there is no table yet.
    const ssize_t n = random() % 2 ? pread(fd, buffer.data(), 4096, at)
                                   : pwrite(fd, buffer.data(), 4096, at);
    if (n != 4096 && errno != EIO && errno != ENXIO && errno != ETIMEDOUT &&
        errno != EOPNOTSUPP && errno != ENOSPC && n != 0) {
      fprintf(stderr, "I/O: %zd, %m\n", n);
      return false;
    }
    close(fd);
  }
  return true;
}

TEST(Torture, OpenCloseRemoveStorm) {
  constexpr auto kDuration = std::chrono::seconds(5);
  constexpr int kRoundsMin = 10;
  auto* stop = reinterpret_cast<std::atomic<bool>*>(SharedMemory(4096));
  ASSERT_NE(nullptr, stop);
  std::vector<pid_t> children;
  for (unsigned seed = 0; seed < 3; ++seed) {
    children.push_back(InChild([&] { return OpenAndClose(stop, seed); }));
  }
  for (unsigned seed = 0; seed < 2; ++seed) {
    children.push_back(InChild([&] { return ReadAndWrite(stop, seed); }));
  }
  std::mt19937 random(11);
  int rounds = 0, busy = 0;
  const auto start = Clock::now();
  for (; rounds < kRoundsMin || Clock::now() - start < kDuration; ++rounds) {
    MappedDevice device("torture");
    ASSERT_EQ(0, device.CreateUser("6 new_ms 20 orphan_ms 20 stuck_ms 20"));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    switch (random() % 4) {
      case 0:
        busy += device.Remove() == EBUSY;
        break;
      case 1:
        ASSERT_EQ(0, device.Suspend(random() % 2));
        ASSERT_EQ(0, device.Resume());
        break;
      case 2:
        ASSERT_EQ(0, device.Load({UserLine("torture", "2 new_ms 10")}));
        ASSERT_EQ(0, device.Suspend(random() % 2));
        ASSERT_EQ(0, device.Resume());
        break;
      case 3:
        break;
    }
  }
  *stop = true;
  for (const pid_t child : children) {
    ExpectGoodEnd(child);
  }
  printf("%d devices, %d of them busy when they were to go\n", rounds, busy);
  MappedDevice device("torture");
  ASSERT_EQ(0, device.CreateUser());
  EXPECT_EQ("torture new 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", device.Status());
  ExpectItServes(&device);
  munmap(stop, 4096);
}

}  // namespace
}  // namespace dmu
