// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/ublk/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <new>
#include <utility>

namespace dmu::ublk {

namespace {

constexpr size_t kStackBytes = 8192;

// A daemon that lets go of a device and yet does not end: two seconds.
constexpr int kLingersMax = 40;

// A system call that leaves errno alone: the keeper would write the daemon's.
long Call(long number, long a = 0, long b = 0, long c = 0) {
#if defined(__x86_64__)
  long result = number;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
#else
#error "the ublk channel is written for x86-64 and arm64"
#endif
}

}  // namespace

// In the other process, whose files are its own and whose memory is the
// daemon's. Nothing of the C library that keeps a state.
int Keeper::Run(void* context) {
  const auto [ring_fd, read_fd, daemon] = *static_cast<const Files*>(context);
  static constexpr char kName[] = "dmuserd-keeper";
  Call(SYS_prctl, PR_SET_NAME, reinterpret_cast<long>(kName));
  const long low = ring_fd < read_fd ? ring_fd : read_fd;
  const long high = ring_fd < read_fd ? read_fd : ring_fd;
  constexpr long kLastFd = 0xffffffff;
  if (low > 0) Call(SYS_close_range, 0, low - 1, 0);
  if (high > low + 1) Call(SYS_close_range, low + 1, high - 1, 0);
  Call(SYS_close_range, high + 1, kLastFd, 0);
  char dismissed = 0;
  long got = 0;
  do {
    got = Call(SYS_read, read_fd, reinterpret_cast<long>(&dismissed), 1);
  } while (got == -EINTR);
  if (got == 1) return 0;
  // The daemon's files are closed. It is another's child when the kernel has
  // run the last of what it had queued for the daemon; and then a little more.
  const timespec linger = {0, kLingerMs * 1000000};
  for (int i = 0; i < kLingersMax && Call(SYS_getppid) == daemon; ++i) {
    Call(SYS_nanosleep, reinterpret_cast<long>(&linger), 0);
  }
  Call(SYS_nanosleep, reinterpret_cast<long>(&linger), 0);
  return 0;
}

int Keeper::Begin(int ring_fd) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  const UniqueFd read_end(ends[0]);
  write_fd_.reset(ends[1]);
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return errno;
  stack_ = stack;
  // At the far end of its stack, which lives as long as it does.
  auto* files = new (stack) Files{ring_fd, ends[0], getpid()};
  process_ =
      clone(Run, static_cast<char*>(stack) + kStackBytes, CLONE_VM, files);
  return process_ < 0 ? errno : 0;
}

void Keeper::Reap(int flags) {
  if (process_ < 0) return;
  if (waitpid(process_, nullptr, __WALL | flags) == process_) {
    munmap(std::exchange(stack_, nullptr), kStackBytes);
  }
  process_ = -1;
}

void Keeper::Leave() {
  write_fd_.reset();
  // Its stack stays with it; the daemon is about to end.
  Reap(WNOHANG);
}

void Keeper::Dismiss() {
  if (process_ < 0) return;
  const ssize_t put = write(write_fd_.get(), "x", 1);
  write_fd_.reset();
  // It has two calls to make.
  if (put == 1) Reap(0);
}

}  // namespace dmu::ublk
