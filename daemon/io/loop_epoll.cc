// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/loop_epoll.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>

#include "daemon/base/check.h"

namespace dmu {
namespace {

constexpr uint64_t kUsPerSecond = 1'000'000;

}  // namespace

void EpollLoop::Queue::Push(Task* task) {
  DMU_CHECK(!task->queued);
  task->queued = true;
  task->next = nullptr;
  (tail != nullptr ? tail->next : head) = task;
  tail = task;
}

Task* EpollLoop::Queue::Pop() {
  Task* task = head;
  if (task == nullptr) return nullptr;
  head = task->next;
  if (head == nullptr) tail = nullptr;
  task->next = nullptr;
  task->queued = false;
  return task;
}

bool EpollLoop::Queue::Remove(Task* task) {
  Task* previous = nullptr;
  for (Task* at = head; at != nullptr; previous = at, at = at->next) {
    if (at != task) continue;
    (previous != nullptr ? previous->next : head) = at->next;
    if (tail == at) tail = previous;
    at->next = nullptr;
    at->queued = false;
    return true;
  }
  return false;
}

std::unique_ptr<EpollLoop> EpollLoop::Create() {
  UniqueFd epoll_fd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_fd.valid()) return nullptr;
  // Made here and not when the first timer is armed, so that Arm cannot fail.
  UniqueFd timer_fd(
      timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer_fd.valid()) return nullptr;
  std::unique_ptr<EpollLoop> loop(
      new EpollLoop(std::move(epoll_fd), std::move(timer_fd)));
  const int error = loop->AddWatch(&loop->timer_watch_);
  if (error == 0) return loop;
  loop.reset();
  errno = error;
  return nullptr;
}

EpollLoop::EpollLoop(UniqueFd epoll_fd, UniqueFd timer_fd)
    : epoll_fd_(std::move(epoll_fd)), timer_fd_(std::move(timer_fd)) {
  timer_watch_.ready = OnTimerFd;
  timer_watch_.context = this;
  timer_watch_.fd = timer_fd_.get();
  timer_watch_.events = EPOLLIN;
}

int EpollLoop::AddWatch(Watch* watch) {
  epoll_event event = {};
  event.events = watch->events;
  event.data.ptr = watch;
  return epoll_ctl(epoll_fd_.get(), EPOLL_CTL_ADD, watch->fd, &event) == 0
             ? 0
             : errno;
}

int EpollLoop::ChangeWatch(Watch* watch, uint32_t events) {
  if (watch->events == events) return 0;
  epoll_event event = {};
  event.events = events;
  event.data.ptr = watch;
  if (epoll_ctl(epoll_fd_.get(), EPOLL_CTL_MOD, watch->fd, &event) != 0) {
    return errno;
  }
  watch->events = events;
  return 0;
}

void EpollLoop::Unwatch(Watch* watch) {
  epoll_event event = {};
  epoll_ctl(epoll_fd_.get(), EPOLL_CTL_DEL, watch->fd, &event);
  for (int i = 0; i < event_count_; ++i) {
    if (events_[i].data.ptr == watch) events_[i].data.ptr = nullptr;
  }
}

void EpollLoop::Post(Task* task) {
  if (!task->queued) tasks_.Push(task);
}

void EpollLoop::PostIdle(Task* task) {
  if (!task->queued) idle_tasks_.Push(task);
}

void EpollLoop::PostLast(Task* task) {
  if (!task->queued) last_tasks_.Push(task);
}

void EpollLoop::OnInterrupt(Task* task) {
  if (!task->queued) interrupt_tasks_.Push(task);
}

int EpollLoop::SetSleeper(Sleeper* sleeper) {
  if (sleeper != nullptr && sleeper_ != nullptr) return -1;
  sleeper_ = sleeper;
  return epoll_fd_.get();
}

void EpollLoop::Cancel(Task* task) {
  if (!task->queued) return;
  if (!tasks_.Remove(task) && !running_.Remove(task) &&
      !idle_tasks_.Remove(task) && !last_tasks_.Remove(task)) {
    interrupt_tasks_.Remove(task);
  }
}

uint64_t EpollLoop::NowUs() const {
  timespec now = {};
  DMU_CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
  return static_cast<uint64_t>(now.tv_sec) * kUsPerSecond +
         static_cast<uint64_t>(now.tv_nsec) / 1000;
}

uint64_t EpollLoop::TurnUs() const {
  if (turn_us_ == 0) turn_us_ = NowUs();
  return turn_us_;
}

void EpollLoop::Arm(Timer* timer, uint64_t delay_us) {
  Cancel(&timer->task);
  timers_.Remove(timer);
  timers_.Insert(timer, NowUs(), delay_us);
  if (FirstDueUs() != timer_fd_due_us_) SetTimerFd();
}

void EpollLoop::Disarm(Timer* timer) {
  Cancel(&timer->task);
  timers_.Remove(timer);
  if (FirstDueUs() != timer_fd_due_us_) SetTimerFd();
}

// Runs before the tasks of the turn, so what is due runs in this one.
void EpollLoop::OnTimerFd(void* context, uint32_t) {
  auto* self = static_cast<EpollLoop*>(context);
  const uint64_t now_us = self->NowUs();
  while (Timer* timer = self->timers_.PopDue(now_us)) self->Post(&timer->task);
  // Nothing is read: setting it takes back that it is readable.
  self->SetTimerFd();
}

// The first timer's time, or 0, which switches timer_fd_ off.
uint64_t EpollLoop::FirstDueUs() const {
  return timers_.first() != nullptr ? timers_.first()->due_us : 0;
}

void EpollLoop::SetTimerFd() {
  const uint64_t due_us = FirstDueUs();
  itimerspec setting = {};
  setting.it_value.tv_sec = static_cast<time_t>(due_us / kUsPerSecond);
  setting.it_value.tv_nsec = static_cast<long>(due_us % kUsPerSecond * 1000);
  DMU_CHECK(timerfd_settime(timer_fd_.get(), TFD_TIMER_ABSTIME, &setting,
                            nullptr) == 0);
  timer_fd_due_us_ = due_us;
}

void EpollLoop::Turn(bool wait) {
  const bool sleep = wait && tasks_.head == nullptr &&
                     idle_tasks_.head == nullptr && last_tasks_.head == nullptr;
  if (sleep && requests_ > 0) {
    if (round_observer_ != nullptr) {
      round_observer_->OnRound(*this, requests_);
    }
    requests_ = 0;
  }
  turn_us_ = 0;  // nobody asks before the sleep is over
  ++turns_;
  Sleeper::Came came = Sleeper::Came::kNothing;
  if (sleeper_ != nullptr) came = sleeper_->Enter(sleep);
  const bool sleep_here = sleep && came == Sleeper::Came::kNothing;
  // Idle work depends on the answer. A sleeper that has work whenever it is
  // entered never comes to look at the files.
  const bool ask =
      sleep_here || came == Sleeper::Came::kFiles || !wait ||
      idle_tasks_.head != nullptr ||
      ++unasked_turns_ > (sleep ? kUnaskedSleepsMax : kUnaskedTurnsMax);
  if (ask) unasked_turns_ = 0;
  const int count = !ask ? 0
                         : epoll_wait(epoll_fd_.get(), events_, kEventsPerTurn,
                                      sleep_here ? -1 : 0);
  DMU_CHECK(count >= 0 || errno == EINTR);
  event_count_ = count > 0 ? count : 0;
  const bool was_idle = ask && count == 0 && came == Sleeper::Came::kNothing &&
                        tasks_.head == nullptr;
  for (int i = 0; i < event_count_; ++i) {
    auto* watch = static_cast<Watch*>(events_[i].data.ptr);
    if (watch != nullptr) watch->ready(watch->context, events_[i].events);
  }
  event_count_ = 0;
  if (count < 0) {
    for (Task* at = interrupt_tasks_.head; at != nullptr; at = at->next) {
      at->run(at->context);
    }
  }

  if (tasks_.head != nullptr) RunAll(&tasks_);
  if (was_idle || ++busy_turns_ > kBusyTurnsMax) {
    busy_turns_ = 0;
    if (Task* task = idle_tasks_.Pop()) task->run(task->context);
  }
  if (last_tasks_.head != nullptr) RunAll(&last_tasks_);
  if (!wait && sleeper_ != nullptr) sleeper_->Enter(/*sleep=*/false);
}

// What is there now; what that posts is for the next turn.
void EpollLoop::RunAll(Queue* queue) {
  running_ = *queue;
  *queue = Queue();
  while (Task* task = running_.Pop()) task->run(task->context);
}

void EpollLoop::Run() {
  stopped_ = false;
  while (!stopped_) Turn(/*wait=*/true);
}

}  // namespace dmu
