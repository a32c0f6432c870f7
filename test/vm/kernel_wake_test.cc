// SPDX-License-Identifier: Apache-2.0
//
// Goal: the wait of a batch ends when another file can be read, and only then;
// it loses no request for it, keeps nothing of the file afterwards, and ends
// for all that ends a wait without such a file. Method: a thread that waits,
// which is known to sleep before anything is done to it. Many that wait at a
// time are in kernel_wake_storm_test.cc.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/messages.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kHeader = sizeof(WireHeader);
constexpr uint32_t kForever = UINT32_MAX;
constexpr uint64_t kModes = DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_FENCED;

// 0 or errno.
int Exchange(int fd, dm_user_batch* batch, Bytes* requests,
             const Bytes& replies = {}) {
  batch->replies = reinterpret_cast<uintptr_t>(replies.data());
  batch->replies_bytes = static_cast<uint32_t>(replies.size());
  batch->requests = reinterpret_cast<uintptr_t>(requests->data());
  batch->requests_bytes = static_cast<uint32_t>(requests->size());
  return ioctl(fd, DM_USER_IOC_BATCH, batch) == 0 ? 0 : errno;
}

dm_user_batch WakeBatch(int wake_fd, uint32_t timeout_ms = kForever) {
  dm_user_batch batch = {};
  batch.timeout_ms = timeout_ms;
  batch.flags = DM_USER_BATCH_WAKE;
  batch.wake_fd = wake_fd;
  return batch;
}

// Whether a thread of this process sleeps in an ioctl, where a signal ends it.
bool Sleeps(pid_t thread) {
  const std::string folder = "/proc/self/task/" + std::to_string(thread);
  int64_t number = -1;
  std::ifstream(folder + "/syscall") >> number;
  std::string word, state;
  std::ifstream stat(folder + "/stat");
  stat >> word >> word >> state;
  return number == SYS_ioctl && state == "S";
}

// A thread that waits for requests of a channel, once.
class Waiter {
 public:
  Waiter(Channel* channel, int wake_fd, uint32_t timeout_ms = kForever,
         Bytes replies = {})
      : channel_(channel),
        batch_(WakeBatch(wake_fd, timeout_ms)),
        replies_(std::move(replies)) {
    std::promise<pid_t> id;
    std::future<pid_t> known = id.get_future();
    thread_ = std::thread([this, &id] {
      id.set_value(static_cast<pid_t>(syscall(SYS_gettid)));
      end_.set_value(Exchange(channel_->fd(), &batch_, &requests_, replies_));
    });
    id_ = known.get();
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() {
    if (thread_.joinable()) Result();
  }

  // False if it ends instead, or after 10 s.
  bool AwaitSleep() {
    for (int i = 0; i < 10000 && !HasEnded(); ++i) {
      if (Sleeps(id_)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool HasEnded() {
    return ended_.wait_for(std::chrono::seconds(0)) ==
           std::future_status::ready;
  }
  // What the call gave: 0 or errno. ETIME if nothing has ended it.
  int Result() {
    const bool in_time =
        ended_.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    EXPECT_TRUE(in_time) << "nothing ended the wait";
    if (!in_time) channel_->SetFlags(kModes | DM_USER_CHANNEL_STOPPED);
    thread_.join();
    return in_time ? ended_.get() : ETIME;
  }
  // It has ended because of the file, or the time.
  void ExpectNothing() {
    EXPECT_EQ(0, Result());
    EXPECT_EQ(0u, batch_.given_bytes);
  }
  void Interrupt() { pthread_kill(thread_.native_handle(), SIGUSR1); }

  const dm_user_batch& batch() const { return batch_; }
  std::vector<WireRequest> Given() {
    return ParseMessages(
        Bytes(requests_.begin(), requests_.begin() + batch_.given_bytes));
  }

 private:
  Channel* channel_;
  dm_user_batch batch_;
  Bytes requests_ = Bytes(65536);
  Bytes replies_;
  std::promise<int> end_;
  std::future<int> ended_ = end_.get_future();
  std::thread thread_;
  pid_t id_ = 0;
};

class WakeTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, device_.CreateUser());
    channel_ = std::make_unique<Channel>("wake");
    ASSERT_EQ(0, channel_->SetFlags(kModes));
    ASSERT_GE(event_, 0);
    signal(SIGPIPE, SIG_IGN);
  }
  void TearDown() override { close(event_); }
  void Kick() { ASSERT_EQ(0, eventfd_write(event_, 1)); }
  void Unkick() {
    eventfd_t count = 0;
    ASSERT_EQ(0, eventfd_read(event_, &count));
  }
  void Answer(const std::vector<WireRequest>& requests) {
    const Bytes out = GoodReplies(requests);
    ASSERT_EQ(static_cast<ssize_t>(out.size()),
              channel_->Write(out.data(), out.size()));
  }
  // A request comes, and the waiter gets it.
  void ExpectRequestEnds(Waiter* waiter) {
    Buffer buffer(4096);
    Io io = StartRead(device_, 0, &buffer);
    EXPECT_EQ(0, waiter->Result());
    EXPECT_EQ(kHeader, waiter->batch().given_bytes);
    if (waiter->batch().given_bytes == 0) {
      WireRequest request;
      channel_->SetFlags(kModes);
      ASSERT_TRUE(channel_->Next(&request));
      Answer({request});
    } else {
      Answer(waiter->Given());
    }
    EXPECT_EQ(4096, Await(&io).result);
  }

  MappedDevice device_{"wake"};
  std::unique_ptr<Channel> channel_;
  int event_ = eventfd(0, EFD_CLOEXEC);
};

// A file, and what makes it readable.
struct WakeFile {
  std::string name;
  // Fills the descriptors; the first is what is waited for.
  std::function<void(std::vector<int>*)> open;
  std::function<void(std::vector<int>*)> kick;
};

void CloseOne(std::vector<int>* fds, size_t index) {
  close((*fds)[index]);
  fds->erase(fds->begin() + static_cast<ptrdiff_t>(index));
}

void OpenPipe(std::vector<int>* fds) {
  fds->resize(2);
  ASSERT_EQ(0, pipe2(fds->data(), O_CLOEXEC));
}

void OpenSockets(std::vector<int>* fds) {
  fds->resize(2);
  ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                          0, fds->data()));
}

int EpollOf(int fd) {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {};
  event.events = EPOLLIN;
  EXPECT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
  return epoll;
}

const std::vector<WakeFile>& WakeFiles() {
  static const std::vector<WakeFile> files = {
      {"Eventfd", [](auto* fds) { *fds = {eventfd(0, EFD_CLOEXEC)}; },
       [](auto* fds) { eventfd_write((*fds)[0], 1); }},
      {"Timerfd",
       [](auto* fds) { *fds = {timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)}; },
       [](auto* fds) {
         itimerspec time = {};
         time.it_value.tv_nsec = 1000000;
         timerfd_settime((*fds)[0], 0, &time, nullptr);
       }},
      {"PipeData", OpenPipe,
       [](auto* fds) { EXPECT_EQ(1, write((*fds)[1], "x", 1)); }},
      {"PipeWriterCloses", OpenPipe, [](auto* fds) { CloseOne(fds, 1); }},
      {"PipeReaderCloses",
       [](auto* fds) {
         OpenPipe(fds);
         std::swap((*fds)[0], (*fds)[1]);
         // Full: there is nothing but the error to come.
         fcntl((*fds)[0], F_SETFL, O_NONBLOCK);
         const char page[4096] = {};
         while (write((*fds)[0], page, sizeof(page)) > 0) continue;
       },
       [](auto* fds) { CloseOne(fds, 1); }},
      {"SocketData", OpenSockets,
       [](auto* fds) { EXPECT_EQ(1, write((*fds)[1], "x", 1)); }},
      {"SocketPeerCloses", OpenSockets, [](auto* fds) { CloseOne(fds, 1); }},
      {"Epoll",
       [](auto* fds) {
         const int event = eventfd(0, EFD_CLOEXEC);
         *fds = {EpollOf(event), event};
       },
       [](auto* fds) { eventfd_write((*fds)[1], 1); }},
      {"EpollOfEpolls",
       [](auto* fds) {
         const int event = eventfd(0, EFD_CLOEXEC);
         const int inner = EpollOf(event), middle = EpollOf(inner);
         *fds = {EpollOf(middle), middle, inner, event};
       },
       [](auto* fds) { eventfd_write((*fds)[3], 1); }},
      {"Child",
       [](auto* fds) {
         const pid_t child = fork();
         if (child == 0) {
           pause();
           _exit(0);
         }
         *fds = {static_cast<int>(syscall(SYS_pidfd_open, child, 0)), child};
       },
       [](auto* fds) {
         const pid_t child = fds->back();
         fds->pop_back();
         kill(child, SIGKILL);
         siginfo_t info;
         // Not reaped while it is waited for.
         EXPECT_EQ(0, waitid(P_PID, static_cast<id_t>(child), &info,
                             WEXITED | WNOWAIT));
       }},
  };
  return files;
}

class WakeFileTest : public WakeTest,
                     public testing::WithParamInterface<size_t> {
 protected:
  void SetUp() override {
    WakeTest::SetUp();
    WakeFiles()[GetParam()].open(&fds_);
    ASSERT_GE(fds_[0], 0);
  }
  void TearDown() override {
    for (const int fd : fds_) close(fd);
    while (waitpid(-1, nullptr, WNOHANG) > 0) continue;
    WakeTest::TearDown();
  }
  std::vector<int> fds_;
};

TEST_P(WakeFileTest, EndsTheWait) {
  Waiter waiter(channel_.get(), fds_[0]);
  ASSERT_TRUE(waiter.AwaitSleep());
  WakeFiles()[GetParam()].kick(&fds_);
  waiter.ExpectNothing();
  // It can be read already, and again.
  for (int i = 0; i < 3; ++i) Waiter(channel_.get(), fds_[0]).ExpectNothing();
  // What is there is given all the same.
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
  Waiter last(channel_.get(), fds_[0]);
  EXPECT_EQ(0, last.Result());
  ASSERT_EQ(kHeader, last.batch().given_bytes);
  Answer(last.Given());
  EXPECT_EQ(4096, Await(&io).result);
}

TEST_P(WakeFileTest, ARequestEndsTheWait) {
  Waiter waiter(channel_.get(), fds_[0]);
  ASSERT_TRUE(waiter.AwaitSleep());
  ExpectRequestEnds(&waiter);
  WakeFiles()[GetParam()].kick(&fds_);  // nobody is there any more
}

INSTANTIATE_TEST_SUITE_P(Files, WakeFileTest,
                         testing::Range(size_t{0}, WakeFiles().size()),
                         [](const auto& info) {
                           return WakeFiles()[info.param].name;
                         });

TEST_F(WakeTest, InfoSaysThatItIsThere) {
  dm_user_info info = {};
  ASSERT_EQ(0, channel_->Info(&info));
  EXPECT_TRUE(info.features & DM_USER_FEATURE_WAKE);
}

TEST_F(WakeTest, RepliesAreTakenBeforeItWaits) {
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel_->Next(&request));
  const Bytes replies = GoodReplies({request});
  Waiter waiter(channel_.get(), event_, kForever, replies);
  EXPECT_EQ(4096, Await(&io).result);
  ASSERT_TRUE(waiter.AwaitSleep());
  Kick();
  waiter.ExpectNothing();
  EXPECT_EQ(replies.size(), waiter.batch().taken_bytes);
}

// A signal must not hide what was taken either.
TEST_F(WakeTest, RepliesAreToldAfterASignal) {
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(0, sigaction(SIGUSR1, &action, &before));
  Buffer buffer(4096);
  Io io = StartRead(device_, 0, &buffer);
  WireRequest request;
  ASSERT_TRUE(channel_->Next(&request));
  const Bytes replies = GoodReplies({request});
  Waiter waiter(channel_.get(), event_, kForever, replies);
  EXPECT_EQ(4096, Await(&io).result);
  ASSERT_TRUE(waiter.AwaitSleep());
  waiter.Interrupt();
  waiter.ExpectNothing();
  EXPECT_EQ(replies.size(), waiter.batch().taken_bytes);
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(WakeTest, WhatIsNotInputEndsNothing) {
  std::vector<int> fds;
  OpenSockets(&fds);
  {
    // It could be written to all the time.
    Waiter waiter(channel_.get(), fds[0]);
    ASSERT_TRUE(waiter.AwaitSleep());
    ExpectRequestEnds(&waiter);
  }
  const Bytes data(4096);
  while (write(fds[0], data.data(), data.size()) > 0) continue;
  {
    Waiter waiter(channel_.get(), fds[0]);
    ASSERT_TRUE(waiter.AwaitSleep());
    Bytes in(1 << 20);
    while (read(fds[1], in.data(), in.size()) > 0) continue;
    pollfd writable = {fds[0], POLLOUT, 0};
    ASSERT_EQ(1, poll(&writable, 1, 10000));
    ASSERT_TRUE(waiter.AwaitSleep()) << "an event that is not input ended it";
    ExpectRequestEnds(&waiter);
  }
  for (const int fd : fds) close(fd);
}

TEST_F(WakeTest, TimeEndsIt) {
  for (const uint32_t ms : {0u, 1u, 20u}) {
    Waiter(channel_.get(), event_, ms).ExpectNothing();
  }
}

TEST_F(WakeTest, SignalsEndIt) {
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(0, sigaction(SIGUSR1, &action, &before));
  {
    Waiter waiter(channel_.get(), event_);
    ASSERT_TRUE(waiter.AwaitSleep());
    waiter.Interrupt();
    EXPECT_EQ(EINTR, waiter.Result());
  }
  static std::atomic<int> handled;
  handled = 0;
  action.sa_handler = [](int) { ++handled; };
  action.sa_flags = SA_RESTART;
  ASSERT_EQ(0, sigaction(SIGUSR1, &action, nullptr));
  Waiter waiter(channel_.get(), event_);
  ASSERT_TRUE(waiter.AwaitSleep());
  waiter.Interrupt();
  while (handled == 0) std::this_thread::yield();
  ASSERT_TRUE(waiter.AwaitSleep());
  Kick();
  waiter.ExpectNothing();
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(WakeTest, AStopEndsIt) {
  Waiter waiter(channel_.get(), event_);
  ASSERT_TRUE(waiter.AwaitSleep());
  ASSERT_EQ(0, channel_->SetFlags(kModes | DM_USER_CHANNEL_STOPPED));
  EXPECT_EQ(ESHUTDOWN, waiter.Result());
}

TEST_F(WakeTest, RemovalEndsIt) {
  Waiter waiter(channel_.get(), event_);
  ASSERT_TRUE(waiter.AwaitSleep());
  ASSERT_EQ(0, device_.Remove());
  EXPECT_EQ(ENOTBLK, waiter.Result());
}

TEST_F(WakeTest, ACloseOfACopyAndASuspendEndNothing) {
  const int copy = dup(channel_->fd());
  Waiter waiter(channel_.get(), event_);
  ASSERT_TRUE(waiter.AwaitSleep());
  EXPECT_EQ(0, close(copy));
  for (const bool noflush : {true, false}) {
    ASSERT_EQ(0, device_.Suspend(noflush));
    ASSERT_EQ(0, device_.Resume());
  }
  ASSERT_TRUE(waiter.AwaitSleep());
  ExpectRequestEnds(&waiter);
}

// While it is waited for the file stays; afterwards the last reference goes
// with its descriptor, whatever ended the wait.
TEST_F(WakeTest, TheFileIsKeptForTheWaitAndNoLonger) {
  for (const char* const end : {"file", "time", "request", "stop"}) {
    SCOPED_TRACE(end);
    int fds[2];
    ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
    const std::string what = end;
    Waiter waiter(channel_.get(), fds[0], what == "time" ? 500 : kForever);
    if (what != "time") {
      ASSERT_TRUE(waiter.AwaitSleep());
      EXPECT_EQ(0, close(fds[0]));
    }
    if (what == "request") {
      ExpectRequestEnds(&waiter);
    } else if (what == "stop") {
      ASSERT_EQ(0, channel_->SetFlags(kModes | DM_USER_CHANNEL_STOPPED));
      EXPECT_EQ(ESHUTDOWN, waiter.Result());
    } else {
      if (what == "file") {
        EXPECT_EQ(1, write(fds[1], "x", 1)) << "the reader has gone already";
      }
      waiter.ExpectNothing();
    }
    if (what == "time") {
      EXPECT_EQ(0, close(fds[0]));
    }
    EXPECT_EQ(-1, write(fds[1], "x", 1)) << "somebody keeps the reading end";
    EXPECT_EQ(EPIPE, errno);
    close(fds[1]);
  }
}

TEST_F(WakeTest, ManyRoundsKeepNothing) {
  int fds[2];
  ASSERT_EQ(0, pipe2(fds, O_CLOEXEC));
  ASSERT_EQ(1, write(fds[1], "x", 1));
  Waiter(channel_.get(), fds[0]).ExpectNothing();
  ASSERT_FALSE(HasFailure()) << "each round would wait for ever";
  int bad = 0;
  // With a second thread each call has a reference of its own.
  std::thread rounds([&] {
    Bytes in(4096);
    for (int i = 0; i < 10000; ++i) {
      dm_user_batch batch = WakeBatch(fds[0]);
      bad += Exchange(channel_->fd(), &batch, &in) != 0 || batch.given_bytes;
    }
  });
  rounds.join();
  EXPECT_EQ(0, bad);
  EXPECT_EQ(0, close(fds[0]));
  EXPECT_EQ(-1, write(fds[1], "x", 1));
  EXPECT_EQ(EPIPE, errno);
  close(fds[1]);
}

// What is wrong with the file matters when it would be waited for.
TEST_F(WakeTest, AWrongFile) {
  const int regular = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const int path = open("/", O_PATH | O_CLOEXEC);
  ASSERT_GE(regular, 0);
  const std::vector<std::pair<int, int>> cases = {
      {-1, EBADF}, {1 << 20, EBADF}, {path, EBADF}, {regular, EPERM}};
  for (const auto& [fd, error] : cases) {
    SCOPED_TRACE(fd);
    Bytes in(4096);
    dm_user_batch batch = WakeBatch(fd);
    EXPECT_EQ(error, Exchange(channel_->fd(), &batch, &in));
    batch = WakeBatch(fd, 0);
    EXPECT_EQ(0, Exchange(channel_->fd(), &batch, &in));
    Buffer buffer(4096);
    Io io = StartRead(device_, 0, &buffer);
    ASSERT_TRUE(device_.AwaitStatus(kQueued, "1"));
    batch = WakeBatch(fd);
    EXPECT_EQ(0, Exchange(channel_->fd(), &batch, &in));
    ASSERT_EQ(kHeader, batch.given_bytes);
    // The answer is told, and the error comes with the next call.
    const Bytes out =
        GoodReplies(ParseMessages(Bytes(in.begin(), in.begin() + kHeader)));
    batch = WakeBatch(fd);
    EXPECT_EQ(0, Exchange(channel_->fd(), &batch, &in, out));
    EXPECT_EQ(out.size(), batch.taken_bytes);
    EXPECT_EQ(0u, batch.given_bytes);
    EXPECT_EQ(4096, Await(&io).result);
  }
  close(regular);
  close(path);
}

// A terminal has one queue for who reads and one for who writes.
TEST_F(WakeTest, AFileWithSeveralQueuesIsNotWaitedFor) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(terminal, 0) << strerror(errno);
  ASSERT_EQ(0, unlockpt(terminal));
  const int other = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(other, 0) << strerror(errno);
  pollfd nothing = {terminal, POLLIN, 0};
  ASSERT_EQ(0, poll(&nothing, 1, 0));
  Waiter waiter(channel_.get(), terminal);
  waiter.ExpectNothing();
  close(other);
  close(terminal);
}

TEST_F(WakeTest, WrongArgumentsTakeNothing) {
  Bytes in(4096);
  dm_user_batch batch = WakeBatch(event_, 0);
  for (int bit = 1; bit < 32; ++bit) {
    batch.flags = 1u << bit | DM_USER_BATCH_WAKE;
    EXPECT_EQ(EINVAL, Exchange(channel_->fd(), &batch, &in)) << bit;
  }
  batch.flags = 0;
  EXPECT_EQ(EINVAL, Exchange(channel_->fd(), &batch, &in)) << "no flag";
  batch.wake_fd = -1;
  EXPECT_EQ(EINVAL, Exchange(channel_->fd(), &batch, &in)) << "no flag";
}

// The file is the channel's own, or leads to it.
TEST_F(WakeTest, TheChannelItself) {
  const int inner = EpollOf(channel_->fd());
  const int outer = EpollOf(inner);
  epoll_event event = {};
  event.events = EPOLLIN;
  ASSERT_EQ(0, epoll_ctl(outer, EPOLL_CTL_ADD, event_, &event));
  for (const int fd : {channel_->fd(), inner, outer}) {
    SCOPED_TRACE(fd);
    Waiter waiter(channel_.get(), fd);
    ASSERT_TRUE(waiter.AwaitSleep());
    ExpectRequestEnds(&waiter);
    // And with another that waits there, whatever they wait for.
    Waiter one(channel_.get(), fd), two(channel_.get(), event_);
    ASSERT_TRUE(one.AwaitSleep());
    ASSERT_TRUE(two.AwaitSleep());
    Kick();
    two.ExpectNothing();
    if (fd == outer) {
      one.ExpectNothing();
    } else {
      ASSERT_TRUE(one.AwaitSleep());
      ExpectRequestEnds(&one);
    }
    Unkick();
  }
  // Its end is one of the file too.
  Waiter waiter(channel_.get(), outer);
  ASSERT_TRUE(waiter.AwaitSleep());
  ASSERT_EQ(0, device_.Remove());
  EXPECT_EQ(ENOTBLK, waiter.Result());
  close(outer);
  close(inner);
}

TEST_F(WakeTest, EachWaitsForItsOwnFile) {
  const int other_event = eventfd(0, EFD_CLOEXEC);
  Waiter one(channel_.get(), event_), two(channel_.get(), other_event);
  ASSERT_TRUE(one.AwaitSleep());
  ASSERT_TRUE(two.AwaitSleep());
  Kick();
  one.ExpectNothing();
  ASSERT_TRUE(two.AwaitSleep());
  ExpectRequestEnds(&two);
  close(other_event);
}

// One file for many: each is told.
TEST_F(WakeTest, OneFileWakesAll) {
  Channel other("wake");
  ASSERT_EQ(0, other.SetFlags(kModes));
  Waiter one(channel_.get(), event_), two(channel_.get(), event_);
  Waiter three(&other, event_);
  for (Waiter* waiter : {&one, &two, &three}) {
    ASSERT_TRUE(waiter->AwaitSleep());
  }
  Kick();
  for (Waiter* waiter : {&one, &two, &three}) waiter->ExpectNothing();
}

// The queue of a signalfd is in what the threads of a process share; it stays
// as long as the one that waits there.
TEST_F(WakeTest, ASignalfdOfThreadsThatGo) {
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, &before));
  int fd = -1;
  std::thread([&] { fd = signalfd(-1, &set, SFD_CLOEXEC); }).join();
  ASSERT_GE(fd, 0);
  Waiter waiter(channel_.get(), fd);
  ASSERT_TRUE(waiter.AwaitSleep());
  // A child that ends, or becomes another program, while one of its threads
  // waits.
  for (const bool becomes : {false, true}) {
    const pid_t child = fork();
    if (child == 0) {
      Channel own("wake");
      own.SetFlags(kModes);
      Waiter inside(&own, fd);
      if (!inside.AwaitSleep()) _exit(2);
      if (becomes) execl("/bin/true", "true", nullptr);
      _exit(becomes ? 3 : 0);
    }
    int status = -1;
    ASSERT_EQ(child, waitpid(child, &status, 0));
    EXPECT_EQ(0, status);
  }
  ASSERT_TRUE(waiter.AwaitSleep());
  ASSERT_EQ(0, kill(getpid(), SIGUSR2));
  waiter.ExpectNothing();
  signalfd_siginfo info;
  EXPECT_EQ(static_cast<ssize_t>(sizeof(info)), read(fd, &info, sizeof(info)));
  close(fd);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
}  // namespace dmu
