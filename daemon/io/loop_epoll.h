// SPDX-License-Identifier: Apache-2.0
//
// loop_epoll.h - the Loop over epoll.
#ifndef DAEMON_IO_LOOP_EPOLL_H_
#define DAEMON_IO_LOOP_EPOLL_H_

#include <sys/epoll.h>

#include <memory>

#include "daemon/io/loop.h"
#include "daemon/io/timer_list.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class EpollLoop : public Loop {
 public:
  // nullptr, with errno set, when epoll or timerfd is not to be had.
  static std::unique_ptr<EpollLoop> Create();
  ~EpollLoop() override = default;

  int AddWatch(Watch* watch) override;
  int ChangeWatch(Watch* watch, uint32_t events) override;
  void Unwatch(Watch* watch) override;
  void Post(Task* task) override;
  void PostIdle(Task* task) override;
  void PostLast(Task* task) override;
  void OnInterrupt(Task* task) override;
  int SetSleeper(Sleeper* sleeper) override;
  void SetRoundObserver(RoundObserver* observer) override {
    round_observer_ = observer;
  }
  void Cancel(Task* task) override;
  void Arm(Timer* timer, uint64_t delay_us) override;
  void Disarm(Timer* timer) override;
  uint64_t NowUs() const override;
  uint64_t TurnUs() const override;
  uint64_t turns() const override { return turns_; }
  void Run() override;
  void Stop() override { stopped_ = true; }

  // One turn. wait: sleep when there is nothing to do; what the turn leaves for
  // the sleeper may then be handed on by the next one. Always looks at the
  // files when it does not wait.
  void Turn(bool wait);

 private:
  struct Queue {
    Task* head = nullptr;
    Task* tail = nullptr;
    void Push(Task* task);
    Task* Pop();
    bool Remove(Task* task);
  };

  // Enough that a turn serves every busy device, few enough that a task posted
  // by the first waits for little.
  static constexpr int kEventsPerTurn = 16;

  // Of Run, with tasks at hand. Each is as short as what one event may do.
  static constexpr int kUnaskedTurnsMax = 3;
  // Of Run, with a sleeper that has work: each may bring a batch of requests.
  static constexpr int kUnaskedSleepsMax = 32;

  EpollLoop(UniqueFd epoll_fd, UniqueFd timer_fd);

  void RunAll(Queue* queue);
  static void OnTimerFd(void* context, uint32_t events);
  uint64_t FirstDueUs() const;
  void SetTimerFd();

  UniqueFd epoll_fd_;
  UniqueFd timer_fd_;
  Watch timer_watch_;
  TimerList timers_;
  uint64_t timer_fd_due_us_ = 0;  // what timer_fd_ is set to; 0: to nothing
  Queue tasks_;
  Queue running_;  // what RunAll is at; Cancel reaches them too
  Queue idle_tasks_;
  Queue last_tasks_;
  Queue interrupt_tasks_;  // stay in it
  Sleeper* sleeper_ = nullptr;
  RoundObserver* round_observer_ = nullptr;
  int unasked_turns_ = 0;  // since the files were looked at
  epoll_event events_[kEventsPerTurn];
  int event_count_ = 0;
  uint64_t turns_ = 0;
  mutable uint64_t turn_us_ = 0;  // 0: not asked for in this turn
  int busy_turns_ = 0;            // since an idle task last ran
  bool stopped_ = false;
};

}  // namespace dmu

#endif  // DAEMON_IO_LOOP_EPOLL_H_
