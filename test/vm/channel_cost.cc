// SPDX-License-Identifier: Apache-2.0
//
// What a request costs by each way of serving: 4 KiB random reads of a device
// whose server answers at once, from memory. Prints nanoseconds, system calls
// of the server and its switches for a request. In a machine that counts
// instructions (QEMU's -icount shift=0) a nanosecond is an instruction, of all:
// client, kernel and server.
//
// usage: channel_cost DEPTH REQUESTS {WAY|BLOCK_DEVICE}...
//
// A block device, of whatever kind, is read as it is: the bare one, or one that
// the daemon serves.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr uint32_t kHeader = sizeof(WireHeader);
constexpr uint32_t kMessages = 32;

struct Figures {
  uint64_t calls;
  uint64_t requests;
};
Figures* g_figures;  // shared with the server

void Check(bool good, const char* what) {
  if (good) return;
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  _exit(1);
}

// Requests in, replies out, whichever way they move.
class Work {
 public:
  Work() : in_(kMessages * kHeader), out_(kMessages * (kHeader + kBlock)) {}
  uint8_t* in() { return in_.data(); }
  uint32_t in_bytes() const { return static_cast<uint32_t>(in_.size()); }
  uint8_t* out() { return out_.data(); }
  // Makes replies to what is in the first `bytes`; returns their bytes.
  uint32_t Answer(size_t bytes) {
    uint32_t made = 0;
    for (size_t at = 0; at < bytes; at += kHeader) {
      WireHeader h;
      memcpy(&h, in_.data() + at, kHeader);
      h.type = DM_USER_RESP_SUCCESS;
      Check(h.len == kBlock, "length");
      memcpy(out_.data() + made, &h, kHeader);
      made += kHeader + kBlock;
      ++g_figures->requests;
    }
    return made;
  }

 private:
  std::vector<uint8_t> in_, out_;
};

// epoll, read, write: as a stream that moves many messages in a call.
void ServePoll(int fd) {
  const int epoll = epoll_create1(0);
  epoll_event event = {};
  event.events = EPOLLIN;
  Check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  Work work;
  for (;;) {
    ++g_figures->calls;
    epoll_wait(epoll, &event, 1, -1);
    ++g_figures->calls;
    const ssize_t got = read(fd, work.in(), work.in_bytes());
    if (got < 0 && errno == ENOTBLK) return;
    if (got < 0) continue;
    const uint32_t bytes = work.Answer(static_cast<size_t>(got));
    ++g_figures->calls;
    Check(write(fd, work.out(), bytes) == bytes, "write");
  }
}

// epoll, and one ioctl that answers and asks for more, until there is none.
void ServeIoctl(int fd, bool wait) {
  const int epoll = epoll_create1(0);
  epoll_event event = {};
  event.events = EPOLLIN;
  Check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  Work work;
  dm_user_batch batch = {};
  batch.replies = reinterpret_cast<uintptr_t>(work.out());
  batch.requests = reinterpret_cast<uintptr_t>(work.in());
  batch.requests_bytes = work.in_bytes();
  batch.timeout_ms = wait ? UINT32_MAX : 0;
  for (;;) {
    if (!wait && batch.replies_bytes == 0) {
      ++g_figures->calls;
      epoll_wait(epoll, &event, 1, -1);
    }
    ++g_figures->calls;
    if (ioctl(fd, DM_USER_IOC_BATCH, &batch) != 0) {
      Check(errno == ENOTBLK, "batch");
      return;
    }
    batch.replies_bytes = work.Answer(batch.given_bytes);
  }
}

// Commit and fetch by a ring; sleeps in the ring, or in epoll as a loop with
// other files would.
void ServeUring(int fd, bool poll, unsigned flags) {
  io_uring ring;
  Check(io_uring_queue_init(8, &ring, flags) == 0, "ring");
  const int epoll = epoll_create1(0);
  epoll_event event = {};
  event.events = EPOLLIN;
  epoll_ctl(epoll, EPOLL_CTL_ADD, ring.ring_fd, &event);
  Work work;
  dm_user_batch batch = {};
  batch.replies = reinterpret_cast<uintptr_t>(work.out());
  batch.requests = reinterpret_cast<uintptr_t>(work.in());
  batch.requests_bytes = work.in_bytes();
  batch.timeout_ms = UINT32_MAX;
  for (;;) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    if (entry == nullptr) return;
    memset(entry, 0, sizeof(*entry));
    entry->opcode = IORING_OP_URING_CMD;
    entry->fd = fd;
    entry->cmd_op = DM_USER_IOC_BATCH;
    dm_user_uring payload = {};
    payload.batch = reinterpret_cast<uintptr_t>(&batch);
    memcpy(entry->cmd, &payload, sizeof(payload));
    ++g_figures->calls;
    if (poll) {
      io_uring_submit(&ring);
    } else {
      io_uring_submit_and_wait(&ring, 1);
    }
    io_uring_cqe* completion = nullptr;
    while (io_uring_cq_ready(&ring) == 0) {
      ++g_figures->calls;
      if (poll) {
        epoll_wait(epoll, &event, 1, -1);
      } else {
        io_uring_submit_and_wait(&ring, 1);
      }
    }
    io_uring_peek_cqe(&ring, &completion);
    const int result = completion->res;
    io_uring_cqe_seen(&ring, completion);
    if (result == -EINTR) continue;
    if (result < 0) {
      errno = -result;
      Check(errno == ENOTBLK, "command");
      return;
    }
    batch.replies_bytes = work.Answer(static_cast<size_t>(result));
  }
}

const std::map<std::string, void (*)(int)> kWays = {
    {"poll", ServePoll},
    {"ioctl", [](int fd) { ServeIoctl(fd, false); }},
    {"ioctl-wait", [](int fd) { ServeIoctl(fd, true); }},
    {"uring",
     [](int fd) {
       ServeUring(fd, false,
                  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
     }},
    {"uring-epoll",
     [](int fd) {
       ServeUring(fd, true,
                  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN);
     }},
};

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 +
         static_cast<uint64_t>(now.tv_nsec);
}

void Load(const std::string& path, unsigned depth, unsigned count) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECT);
  Check(fd >= 0, path.c_str());
  Buffer buffers(size_t{kBlock} * depth);
  io_uring ring;
  Check(io_uring_queue_init(depth, &ring, 0) == 0, "ring");
  std::mt19937 random(1);
  unsigned begun = 0;
  for (unsigned done = 0; done < count;) {
    while (begun < count && begun - done < depth) {
      io_uring_sqe* entry = io_uring_get_sqe(&ring);
      io_uring_prep_read(entry, fd, buffers.data() + kBlock * (begun % depth),
                         kBlock, kBlock * (random() % (kDeviceSectors / 8)));
      ++begun;
    }
    io_uring_submit_and_wait(&ring, 1);
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring, &completion) == 0) {
      Check(completion->res == kBlock, "read");
      io_uring_cqe_seen(&ring, completion);
      ++done;
    }
  }
  io_uring_queue_exit(&ring);
  close(fd);
}

// Time a process has run.
uint64_t RunNs(pid_t pid) {
  FILE* file =
      fopen(("/proc/" + std::to_string(pid) + "/schedstat").c_str(), "re");
  unsigned long long ns = 0;
  Check(file != nullptr && fscanf(file, "%llu", &ns) == 1, "schedstat");
  fclose(file);
  return ns;
}

void Measure(const std::string& way, unsigned depth, unsigned count) {
  MappedDevice device("cost");
  Check(device.CreateUser() == 0, "create");
  Channel channel("cost");
  Check(channel.SetFlags(DM_USER_CHANNEL_BATCH) == 0, "batch mode");
  fcntl(channel.fd(), F_SETFL, way == "ioctl-wait" ? 0 : O_NONBLOCK);
  const pid_t pid = fork();
  if (pid == 0) {
    kWays.at(way)(channel.fd());
    _exit(0);
  }
  channel.Close();
  Load(device.block_path(), depth, 500);
  const Figures before = *g_figures;
  const uint64_t client_ns = RunNs(getpid()), server_ns = RunNs(pid);
  const uint64_t start_ns = NowNs();
  Load(device.block_path(), depth, count);
  const uint64_t ns = NowNs() - start_ns;
  const double client_us =
      static_cast<double>(RunNs(getpid()) - client_ns) / count / 1000;
  const double server_us =
      static_cast<double>(RunNs(pid) - server_ns) / count / 1000;
  const uint64_t calls = g_figures->calls - before.calls;
  Check(device.Remove() == 0, "remove");
  int status = 0;
  rusage usage = {};
  wait4(pid, &status, 0, &usage);
  Check(status == 0, "the server failed");
  printf(
      "%-12s depth %2u: %6.2f us (client %.2f, server %.2f), %.3f calls, %.3f "
      "switches a request\n",
      way.c_str(), depth, static_cast<double>(ns) / count / 1000, client_us,
      server_us, static_cast<double>(calls) / count,
      static_cast<double>(usage.ru_nvcsw + usage.ru_nivcsw) / count);
}

void MeasureDevice(const std::string& path, unsigned depth, unsigned count) {
  Load(path, depth, 500);
  const uint64_t client_ns = RunNs(getpid());
  const uint64_t start_ns = NowNs();
  Load(path, depth, count);
  const uint64_t ns = NowNs() - start_ns;
  printf("%-12s depth %2u: %6.2f us (client %.2f)\n", path.c_str(), depth,
         static_cast<double>(ns) / count / 1000,
         static_cast<double>(RunNs(getpid()) - client_ns) / count / 1000);
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s DEPTH REQUESTS {WAY|BLOCK_DEVICE}...\n",
            argv[0]);
    return 2;
  }
  void* shared = mmap(nullptr, sizeof(dmu::Figures), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  dmu::Check(shared != MAP_FAILED, "mmap");
  dmu::g_figures = static_cast<dmu::Figures*>(shared);
  for (int i = 3; i < argc; ++i) {
    const auto depth = static_cast<unsigned>(atoi(argv[1]));
    const auto count = static_cast<unsigned>(atoi(argv[2]));
    if (argv[i][0] == '/') {
      dmu::MeasureDevice(argv[i], depth, count);
      continue;
    }
    if (dmu::kWays.count(argv[i]) == 0) {
      fprintf(stderr, "%s: no such way; there are:", argv[i]);
      for (const auto& way : dmu::kWays)
        fprintf(stderr, " %s", way.first.c_str());
      fprintf(stderr, "\n");
      return 2;
    }
    dmu::Measure(argv[i], depth, count);
  }
  return 0;
}
