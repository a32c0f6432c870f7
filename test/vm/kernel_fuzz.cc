// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes a control node for a fixed time: processes, with threads that share
// their files, do to it whatever a system call can express, right, half right
// and wrong, while others do I/O on the device, the table is reloaded, and the
// fuzzers are killed. Any outcome of an I/O is good but these: that it hangs,
// that a write's memory changes, or that a read reaches beyond its buffer.
// Afterwards a daemon that behaves must find a device that does.
//
// Usage: kernel_fuzz SECONDS [SEED]; needs the module and root. Prints the
// seed. Ends with 0, or with 1 and a line about what went wrong. What the
// kernel says about itself is for the runner to judge.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/redirect.h"

namespace dmu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kName[] = "fuzz";
constexpr int kClients = 3, kFuzzers = 2, kThreads = 2;
constexpr size_t kIoBytesMax = 128 << 10, kPage = 4096;
constexpr size_t kSeqs = 64;
// Far above every deadline of the tables below.
constexpr int kHangMs = 15000;

// What all processes see.
struct Shared {
  std::atomic<bool> stop;
  std::atomic<uint64_t> progress[kClients];
  std::atomic<uint64_t> failures;
  // Numbers of requests that somebody has read, for replies by anybody.
  std::atomic<uint64_t> seqs[kSeqs];
  std::atomic<uint64_t> calls;
  std::atomic<uint64_t> answers;
};
Shared* g_shared;

void Fail(const char* what) {
  fprintf(stderr, "kernel_fuzz: %s\n", what);
  ++g_shared->failures;
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(engine_()) % n; }
  bool OneIn(uint32_t n) { return Below(n) == 0; }
  uint64_t Any() {
    const uint64_t value = uint64_t{engine_()} << 32 | engine_();
    // Near the edges as often as anywhere.
    switch (Below(6)) {
      case 0:
        return value;
      case 1:
        return Below(4096);
      case 2:
        return UINT32_MAX - Below(3);
      case 3:
        return UINT64_MAX - Below(3);
      case 4:
        return uint64_t{1} << Below(64);
      default:
        return 0;
    }
  }

 private:
  std::mt19937 engine_;
};

// --- I/O on the device ---

// Memory with a page before and after it that must stay as it is.
class Guarded {
 public:
  Guarded() : memory_(kIoBytesMax + 2 * kPage) {
    memset(memory_.data(), 0xa5, memory_.size());
  }
  uint8_t* data() { return memory_.data() + kPage; }
  bool Whole(size_t bytes) {
    return Same(0, kPage) && Same(kPage + bytes, memory_.size());
  }
  void Reset() { memset(data(), 0xa5, kIoBytesMax); }

 private:
  bool Same(size_t from, size_t to) {
    return std::all_of(memory_.data() + from, memory_.data() + to,
                       [](uint8_t byte) { return byte == 0xa5; });
  }
  Buffer memory_;
};

void OneIo(int fd, int cached_fd, Random* random, Guarded* in, Buffer* out,
           const std::vector<uint8_t>& sent) {
  const size_t sectors = 1 + random->Below(kIoBytesMax / 512);
  const size_t bytes = random->OneIn(3) ? 512 : sectors * 512;
  const off_t at = static_cast<off_t>(
      random->Below(static_cast<uint32_t>(kDeviceSectors - bytes / 512)) * 512);
  uint64_t range[2] = {static_cast<uint64_t>(at), bytes};
  switch (random->Below(9)) {
    case 0:
      fsync(fd);
      break;
    case 8:
      // Many adjacent requests at once, one for each page.
      pwrite(cached_fd, out->data(), kIoBytesMax, at);
      fdatasync(cached_fd);
      break;
    case 1:
      ioctl(fd, BLKDISCARD, range);
      break;
    case 2:
      ioctl(fd, BLKZEROOUT, range);
      break;
    case 3:
    case 4:
      pwrite(fd, out->data(), bytes, at);
      if (memcmp(out->data(), sent.data(), bytes) != 0) {
        Fail("a write's memory has changed");
      }
      break;
    default:
      in->Reset();
      pread(fd, in->data(), bytes, at);
      if (!in->Whole(bytes)) {
        Fail("a read has changed memory beyond its buffer");
      }
      break;
  }
}

void Client(const std::string& device, int number, uint32_t seed) {
  Random random(seed);
  Guarded in;
  Buffer out(kIoBytesMax);
  out.FillPattern(seed);
  const std::vector<uint8_t> sent = out.Copy();
  const int fd = open(device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  const int cached_fd = open(device.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 || cached_fd < 0) {
    Fail("cannot open the device");
    return;
  }
  while (!g_shared->stop) {
    OneIo(fd, cached_fd, &random, &in, &out, sent);
    ++g_shared->progress[number];
  }
  close(cached_fd);
  close(fd);
}

// --- The other side ---

// What the threads of a fuzzer have in common.
struct Memory {
  uint8_t* good;       // 256 KiB
  uint8_t* read_only;  // 64 KiB
  uint8_t* half;       // 64 KiB, of which the second half is not there
};
constexpr size_t kGoodBytes = 256 << 10, kOtherBytes = 64 << 10;

uint8_t* Map(size_t bytes, int protection) {
  return static_cast<uint8_t*>(
      mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

class Fuzzer {
 public:
  Fuzzer(const Memory& memory, std::atomic<int>* fd, uint32_t seed)
      : memory_(memory), fd_(fd), random_(seed) {}

  void Run() {
    for (;;) {
      if (random_.OneIn(40)) {
        Reopen();
      }
      One(*fd_);
      ++g_shared->calls;
    }
  }

 private:
  // The other thread may be in a call with the old file, or find another file
  // under its number.
  void Reopen() {
    const int flags = random_.OneIn(4) ? 0 : O_NONBLOCK;
    const int fd =
        open((std::string("/dev/dm-user/") + kName).c_str(), O_RDWR | flags);
    if (fd < 0) {
      return;
    }
    if (!random_.OneIn(4)) {
      dm_user_channel set = {};
      set.flags = random_.OneIn(8) ? random_.Any() : random_.Below(64);
      if (random_.OneIn(3)) {
        set.flags = DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_USER_COPY |
                    DM_USER_CHANNEL_REMAP | random_.Below(16);
      }
      set.coalesce_bytes = CoalesceBytes(set.flags);
      ioctl(fd, DM_USER_IOC_SET_CHANNEL, &set);
    }
    close(fd_->exchange(fd));
  }

  // Memory for a call, of whatever kind.
  uint8_t* Somewhere() {
    switch (random_.Below(10)) {
      case 0:
        return memory_.read_only + random_.Below(kOtherBytes);
      case 1:
        return memory_.half + kOtherBytes / 2 - random_.Below(8192);
      case 2:
        return reinterpret_cast<uint8_t*>(random_.Any());
      default:
        return memory_.good + random_.Below(kGoodBytes);
    }
  }

  size_t Length() {
    switch (random_.Below(6)) {
      case 0:
        return 1;
      case 1:
        return sizeof(WireHeader);
      case 2:
        return random_.Below(100);
      case 3:
        return random_.OneIn(4) ? random_.Any() : random_.Below(1 << 20);
      default:
        return random_.Below(1 << 16);
    }
  }

  uint64_t CoalesceBytes(uint64_t flags) {
    if (random_.OneIn(8)) {
      return random_.Any();
    }
    return flags & DM_USER_CHANNEL_COALESCE ? 1 + random_.Below(4 << 20) : 0;
  }

  uint64_t Seq() {
    return random_.OneIn(8) ? random_.Any()
                            : g_shared->seqs[random_.Below(kSeqs)].load();
  }

  WireHeader Reply() {
    WireHeader h = {};
    h.seq = Seq();
    h.type = random_.OneIn(3) ? random_.Below(5) : DM_USER_RESP_SUCCESS;
    h.len = random_.OneIn(2) ? random_.Below(kIoBytesMax) : random_.Any();
    SetPlace(&h);
    return h;
  }

  // Of a remap: on one of two devices more often than not.
  void SetPlace(WireHeader* h) {
    if (h->type != DM_USER_RESP_REMAP) return;
    h->flags = random_.OneIn(6) ? random_.Any() : random_.Below(2);
    h->sector = random_.OneIn(6) ? random_.Any()
                                 : random_.Below(uint32_t{kRamDiskSectors});
    if (!random_.OneIn(6)) h->len = 0;
  }

  // Remembers the header that was read.
  void Note(const WireHeader& h) {
    g_shared->seqs[random_.Below(kSeqs)] = h.seq;
  }

  // A request taken and answered, more or less.
  void Serve(int fd) {
    WireHeader h;
    pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, 2) <= 0 || !(p.revents & POLLIN) ||
        read(fd, &h, sizeof(h)) != sizeof(h)) {
      return;
    }
    Note(h);
    if (h.type == DM_USER_REQ_MAP_WRITE && h.len <= kGoodBytes &&
        !random_.OneIn(8)) {
      read(fd, memory_.good, h.len - (random_.OneIn(4) ? random_.Below(9) : 0));
    }
    if (random_.OneIn(5)) {
      return;
    }
    uint32_t type = random_.OneIn(6) ? random_.Below(5) : DM_USER_RESP_SUCCESS;
    if (random_.OneIn(3)) type = DM_USER_RESP_REMAP;
    const bool data =
        h.type == DM_USER_REQ_MAP_READ && type != DM_USER_RESP_REMAP;
    WireHeader reply = {h.seq, type, 0, 0, data ? h.len : 0};
    SetPlace(&reply);
    const size_t bytes = data && h.len <= kGoodBytes ? h.len : 0;
    // In pieces, some of one byte; perhaps too much, perhaps twice.
    iovec parts[3] = {
        {&reply, sizeof(reply)},
        {memory_.good, std::min<size_t>(bytes, random_.Below(600))},
        {memory_.good, 0}};
    parts[2].iov_len =
        bytes - parts[1].iov_len + (random_.OneIn(10) ? random_.Below(999) : 0);
    const ssize_t n = writev(fd, parts, 3);
    g_shared->answers += n > 0;
    if (random_.OneIn(10)) {
      writev(fd, parts, 3);
    }
  }

  void Batch(int fd) {
    dm_user_batch batch = {};
    WireHeader* replies = reinterpret_cast<WireHeader*>(memory_.good);
    for (uint32_t i = random_.Below(8); i > 0; --i) {
      replies[i - 1] = Reply();
    }
    batch.replies = reinterpret_cast<uintptr_t>(
        random_.OneIn(3) ? Somewhere() : memory_.good);
    batch.requests = reinterpret_cast<uintptr_t>(Somewhere());
    batch.replies_bytes = static_cast<uint32_t>(Length());
    batch.requests_bytes = static_cast<uint32_t>(Length());
    batch.timeout_ms = random_.Below(5);
    if (random_.OneIn(10)) {
      batch.flags = static_cast<uint32_t>(random_.Any());
    }
    if (random_.OneIn(10)) {
      batch.reserved[random_.Below(4)] = static_cast<uint32_t>(random_.Any());
    }
    iovec segments[2];
    if (random_.OneIn(3)) {
      segments[0] = {random_.OneIn(5) ? Somewhere() : memory_.good,
                     sizeof(WireHeader)};
      segments[1] = {Somewhere(), Length()};
      batch.replies = reinterpret_cast<uintptr_t>(segments);
      batch.segments = static_cast<uint32_t>(
          random_.OneIn(10) ? random_.Any() : random_.Below(3));
      if (!random_.OneIn(5)) {
        batch.replies_bytes =
            static_cast<uint32_t>(segments[0].iov_len + segments[1].iov_len);
      }
    }
    if (random_.OneIn(3)) {
      Command(fd, batch);
      return;
    }
    ioctl(fd, DM_USER_IOC_BATCH, &batch);
  }

  // The batch as a command of a ring. It may wait for long, so its memory
  // stays; another may write into it meanwhile.
  void Command(int fd, dm_user_batch batch) {
    if (ring_ready_ && random_.OneIn(50)) {
      io_uring_queue_exit(&ring_);
      ring_ready_ = false;
    }
    if (!ring_ready_) {
      ring_ready_ =
          io_uring_queue_init(
              8, &ring_, random_.OneIn(2) ? IORING_SETUP_COOP_TASKRUN : 0) == 0;
    }
    io_uring_sqe* entry = ring_ready_ ? io_uring_get_sqe(&ring_) : nullptr;
    if (entry == nullptr) {
      return;
    }
    if (!random_.OneIn(10)) {
      batch.timeout_ms = random_.OneIn(3) ? 0 : UINT32_MAX;
    }
    auto* where = reinterpret_cast<dm_user_batch*>(
        memory_.good + kGoodBytes + random_.Below(64) * sizeof(batch));
    *where = batch;
    memset(entry, 0, sizeof(*entry));
    entry->opcode = IORING_OP_URING_CMD;
    entry->fd = fd;
    entry->flags = random_.OneIn(10) ? IOSQE_ASYNC : 0;
    entry->cmd_op = random_.OneIn(20) ? static_cast<uint32_t>(random_.Any())
                                      : DM_USER_IOC_BATCH;
    dm_user_uring payload = {};
    payload.batch = reinterpret_cast<uintptr_t>(
        random_.OneIn(10) ? Somewhere() : reinterpret_cast<uint8_t*>(where));
    payload.reserved = random_.OneIn(20);
    memcpy(entry->cmd, &payload, sizeof(payload));
    io_uring_submit(&ring_);
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      io_uring_cqe_seen(&ring_, completion);
    }
  }

  void Copy(int fd) {
    dm_user_copy copy = {};
    copy.seq = Seq();
    copy.buffer = reinterpret_cast<uintptr_t>(Somewhere());
    copy.offset = random_.OneIn(3) ? static_cast<uint32_t>(random_.Any())
                                   : random_.Below(8192);
    copy.bytes = static_cast<uint32_t>(Length());
    if (random_.OneIn(10)) {
      copy.flags = static_cast<uint32_t>(random_.Any());
    }
    ioctl(fd, DM_USER_IOC_COPY, &copy);
  }

  void Vector(int fd) {
    iovec parts[8];
    const int count = 1 + static_cast<int>(random_.Below(8));
    for (int i = 0; i < count; ++i) {
      parts[i] = {Somewhere(), random_.Below(random_.OneIn(2) ? 50 : 5000)};
    }
    random_.OneIn(2) ? readv(fd, parts, count) : writev(fd, parts, count);
  }

  void One(int fd) {
    pollfd p = {fd, static_cast<short>(random_.Any()), 0};
    int pipe_fds[2];
    switch (random_.Below(16)) {
      case 0:
        read(fd, Somewhere(), Length());
        break;
      case 1: {
        WireHeader h;
        if (read(fd, &h, sizeof(h)) == sizeof(h)) {
          Note(h);
        }
        break;
      }
      case 2:
        write(fd, Somewhere(), Length());
        break;
      case 3: {
        const WireHeader h = Reply();
        write(fd, &h, random_.OneIn(4) ? random_.Below(41) : sizeof(h));
        break;
      }
      case 4:
        Batch(fd);
        break;
      case 5:
        Copy(fd);
        break;
      case 6:
        Vector(fd);
        break;
      case 7:
        poll(&p, 1, static_cast<int>(random_.Below(3)));
        break;
      case 8:
        ioctl(fd,
              random_.OneIn(2) ? _IO(DM_USER_IOC_TYPE, random_.Below(256))
                               : static_cast<unsigned>(random_.Any()),
              Somewhere());
        break;
      case 9: {
        dm_user_channel set = {};
        set.flags = random_.Below(64);
        set.coalesce_bytes = CoalesceBytes(set.flags);
        set.reserved[random_.Below(2)] = random_.OneIn(8) ? random_.Any() : 0;
        ioctl(fd, DM_USER_IOC_SET_CHANNEL,
              random_.OneIn(8) ? static_cast<void*>(Somewhere()) : &set);
        break;
      }
      case 10:
        if (pipe(pipe_fds) == 0) {
          fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
          splice(fd, nullptr, pipe_fds[1], nullptr, 4096, SPLICE_F_NONBLOCK);
          splice(pipe_fds[0], nullptr, fd, nullptr, 4096, SPLICE_F_NONBLOCK);
          close(pipe_fds[0]);
          close(pipe_fds[1]);
        }
        break;
      case 11:
        lseek(fd, static_cast<off_t>(random_.Any()), SEEK_SET);
        pread(fd, Somewhere(), Length(), static_cast<off_t>(random_.Any()));
        pwrite(fd, Somewhere(), Length(), static_cast<off_t>(random_.Any()));
        mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0);
        fsync(fd);
        break;
      default:
        Serve(fd);
        break;
    }
  }

  const Memory memory_;
  std::atomic<int>* const fd_;
  Random random_;
  io_uring ring_ = {};
  bool ring_ready_ = false;
};

// Never ends by itself.
void FuzzProcess(uint32_t seed) {
  Memory memory;
  memory.good = Map(kGoodBytes + (1 << 20), PROT_READ | PROT_WRITE);
  memory.read_only = Map(kOtherBytes, PROT_READ);
  memory.half = Map(kOtherBytes, PROT_READ | PROT_WRITE);
  munmap(memory.half + kOtherBytes / 2, kOtherBytes / 2);
  std::atomic<int> fd{-1};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Fuzzer(memory, &fd, seed * kThreads + static_cast<uint32_t>(t)).Run();
    });
  }
  threads[0].join();
}

template <typename Body>
pid_t InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

// --- Above both ---

std::string Features(Random* random) {
  const char* const policies[] = {"fail", "hold", "requeue"};
  const std::string words = "new_ms 30 orphan_ms 30 stuck_ms 50 unfenced " +
                            std::string(policies[random->Below(3)]) +
                            " discard write_zeroes secure_erase";
  if (random->OneIn(4)) {
    return std::to_string(Split(words).size()) + " " + words;
  }
  return RedirectWords(16, {RamDisk(0), RamDisk(1)}, words);
}

// One thing an administrator might do.
void Administrate(MappedDevice* device, Random* random) {
  switch (random->Below(6)) {
    case 0:
      device->Load({UserLine(kName, Features(random))});
      [[fallthrough]];
    case 1:
      if (device->Suspend(/*noflush=*/random->OneIn(2)) != 0 ||
          device->Resume() != 0) {
        Fail("cannot suspend or resume");
      }
      break;
    case 2:
      device->Message("requeue");
      break;
    case 3:
      device->Message("fail_queued");
      break;
    case 4:
      device->Message("stuck_ms " + std::to_string(1 + random->Below(60)));
      break;
    case 5:
      device->Status();
      break;
  }
}

bool ServesWell(MappedDevice* device) {
  constexpr size_t kBytes = 1 << 20;
  device->Message("stuck_ms forever");
  device->Message("new_ms forever");
  RamServer server(kName, kDeviceSectors * 512);
  if (!server.ok()) {
    return false;
  }
  Buffer out(kBytes), in(kBytes);
  for (uint32_t i = 0; i < 8; ++i) {
    out.FillPattern(i);
    Io write = StartWrite(*device, i * kBytes, &out);
    if (Await(&write).result != kBytes) {
      return false;
    }
    Io read = StartRead(*device, i * kBytes, &in);
    if (Await(&read).result != kBytes || in.Copy() != out.Copy()) {
      return false;
    }
  }
  return device->StatusNumber(kQueued) == 0 &&
         device->StatusNumber(kDelivered) == 0 &&
         device->StatusNumber(kHeld) == 0 &&
         device->StatusNumber(kChannels) == 1;
}

int Main(int seconds, uint32_t seed) {
  printf("seed %u\n", seed);
  fflush(stdout);
  Random random(seed);
  g_shared =
      static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  MappedDevice device(kName);
  if (g_shared == MAP_FAILED || device.CreateUser(Features(&random)) != 0) {
    perror("kernel_fuzz: cannot begin");
    return 1;
  }
  std::vector<pid_t> clients, fuzzers;
  for (int i = 0; i < kClients; ++i) {
    const uint32_t own = random.Below(UINT32_MAX);
    clients.push_back(InChild([&] { Client(device.block_path(), i, own); }));
  }
  const auto start_fuzzer = [&] {
    const uint32_t own = random.Below(UINT32_MAX);
    return InChild([&] { FuzzProcess(own); });
  };
  for (int i = 0; i < kFuzzers; ++i) {
    fuzzers.push_back(start_fuzzer());
  }

  const auto end = Clock::now() + std::chrono::seconds(seconds);
  auto moved = Clock::now();
  uint64_t last[kClients] = {}, kills = 0;
  std::vector<Clock::time_point> seen(kClients, moved);
  while (Clock::now() < end && g_shared->failures == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random.Below(60)));
    Administrate(&device, &random);
    if (random.OneIn(4)) {
      pid_t& victim = fuzzers[random.Below(kFuzzers)];
      kill(victim, SIGKILL);
      waitpid(victim, nullptr, 0);
      victim = start_fuzzer();
      ++kills;
    }
    for (int i = 0; i < kClients; ++i) {
      if (g_shared->progress[i] != last[i]) {
        last[i] = g_shared->progress[i];
        seen[i] = Clock::now();
      } else if (Clock::now() - seen[i] > std::chrono::milliseconds(kHangMs)) {
        Fail("an I/O hangs");
        fprintf(stderr, "%s\n", device.Status().c_str());
      }
    }
  }
  for (const pid_t fuzzer : fuzzers) {
    kill(fuzzer, SIGKILL);
    waitpid(fuzzer, nullptr, 0);
  }
  g_shared->stop = true;
  uint64_t ios = 0;
  for (int i = 0; i < kClients; ++i) {
    const auto limit = Clock::now() + std::chrono::milliseconds(kHangMs);
    while (waitpid(clients[i], nullptr, WNOHANG) == 0) {
      if (Clock::now() > limit) {
        Fail("an I/O hangs at the end");
        fprintf(stderr, "%s\n", device.Status().c_str());
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ios += g_shared->progress[i];
  }
  printf("%llu calls, %llu requests answered, %llu I/Os, %llu kills\n",
         static_cast<unsigned long long>(g_shared->calls),
         static_cast<unsigned long long>(g_shared->answers),
         static_cast<unsigned long long>(ios),
         static_cast<unsigned long long>(kills));
  if (g_shared->failures == 0 && !ServesWell(&device)) {
    Fail("a good daemon does not find a good device");
  }
  printf("%s\n", device.Status().c_str());
  if (device.Remove() != 0) {
    Fail("the device cannot be removed");
  }
  return g_shared->failures != 0;
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    fprintf(stderr, "usage: %s SECONDS [SEED]\n", argv[0]);
    return 2;
  }
  return dmu::Main(atoi(argv[1]), argc == 3 ? static_cast<uint32_t>(
                                                  strtoul(argv[2], nullptr, 10))
                                            : std::random_device()());
}
