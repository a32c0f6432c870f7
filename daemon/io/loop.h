// SPDX-License-Identifier: Apache-2.0
//
// loop.h - the daemon's one thread: readiness of files, tasks, and timers.
//
// Tasks posted while a turn runs are run in the next turn, so a task that posts
// itself cannot starve the files: while there are tasks, they are looked at in
// every few turns, for to ask is a system call. An idle loop with no timer
// armed sleeps in the kernel without a timeout: an idle daemon costs no
// wake-up. Where a Sleeper is registered it sleeps there, in the call that
// hands the turn's work to the kernel.
#ifndef DAEMON_IO_LOOP_H_
#define DAEMON_IO_LOOP_H_

#include <cstdint>

#include "daemon/base/task.h"

namespace dmu {

// What a watched file calls. Owned by the watcher; must live until Unwatch.
struct Watch {
  // `events`: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR as epoll gives them.
  void (*ready)(void* context, uint32_t events) = nullptr;
  void* context = nullptr;
  int fd = -1;
  uint32_t events = 0;  // EPOLLIN and/or EPOLLOUT; level-triggered
};

// Posts its task once, when its time has come. Owned by whoever arms it, who
// disarms it before it goes away.
struct Timer {
  constexpr Timer() = default;
  constexpr Timer(Task::Function run, void* context) : task(run, context) {}

  Task task;

  // Owned by the loop; of use to others only to see whether it is armed.
  Timer* next = nullptr;
  uint64_t due_us = 0;
  bool armed = false;
};

// What a loop may sleep in, in place of its own wait for files: it has
// something under way that ends such a sleep, and watches the loop's files
// meanwhile.
class Sleeper {
 public:
  // What Enter has found.
  enum class Came {
    kNothing,  // if it was to sleep, it has no reason to: the loop does
    kWork,     // or the sleep has ended for no reason
    kFiles,    // maybe: the loop asks them, and loses no event if it does not
               // take all
  };

  // Begins each turn: hands on what the last one has prepared; with `sleep`
  // waits, in the same call, until something has come; runs what is there of
  // its own.
  virtual Came Enter(bool sleep) = 0;

 protected:
  ~Sleeper() = default;
};

class Loop;

// Learns how much work comes at a time.
class RoundObserver {
 public:
  // The loop is about to sleep, and has taken up so many requests since it did
  // last; not when there were none.
  virtual void OnRound(const Loop& loop, uint32_t requests) = 0;

 protected:
  ~RoundObserver() = default;
};

class Loop {
 public:
  // One turn in nine for the merge, at the least.
  static constexpr int kBusyTurnsMax = 8;

  virtual ~Loop() = default;

  // 0 or an errno value. After Unwatch returns, `ready` is not called again,
  // not even for an event this turn had already fetched.
  virtual int AddWatch(Watch* watch) = 0;
  virtual int ChangeWatch(Watch* watch, uint32_t events) = 0;
  virtual void Unwatch(Watch* watch) = 0;

  // Runs `task` in the next turn, in the order of posting. A task that is
  // already queued keeps its place.
  virtual void Post(Task* task) = 0;

  // As Post, but only when a turn finds no file ready and no other task, or
  // after kBusyTurnsMax turns without such a gap: for work that gives way to
  // requests, like a merge, and yet must come to an end under steady load.
  virtual void PostIdle(Task* task) = 0;

  // Runs `task` when all else of this turn is done, before the loop may sleep:
  // for what gathers work over a turn and hands it on in one call.
  virtual void PostLast(Task* task) = 0;

  // Runs `task` in each turn whose sleep the kernel has interrupted, until it
  // is cancelled: that may have been for something that can be seen without
  // asking.
  virtual void OnInterrupt(Task* /*task*/) {}

  // Takes the one sleeper of the loop, until it is called with nullptr. Returns
  // the file that is readable while a watched one is ready, which stays the
  // loop's; -1 when there is a sleeper already, or the loop takes none.
  virtual int SetSleeper(Sleeper* /*sleeper*/) { return -1; }

  // A request was taken up in this turn.
  void CountRequest() { ++requests_; }
  // nullptr: nobody.
  virtual void SetRoundObserver(RoundObserver* /*observer*/) {}

  // Takes a queued task back; no effect on one that is not queued.
  virtual void Cancel(Task* task) = 0;

  // Posts the timer's task when delay_us have passed, never sooner. Arming it
  // again replaces what was: the task then runs once, at the new time. Timers
  // come in the order of their times, those of one time in the order of arming.
  // Allocates nothing and cannot fail.
  virtual void Arm(Timer* timer, uint64_t delay_us) = 0;

  // No effect on a timer that is not armed. The task will not run, not even one
  // that is already posted.
  virtual void Disarm(Timer* timer) = 0;

  // Time that only goes forward, from some point in the past. It stands still
  // while the machine sleeps, as the disks do.
  virtual uint64_t NowUs() const = 0;

  // NowUs when it was first asked for in this turn: as good a time as any for
  // when the events of the turn came, and one look at the clock for all of
  // them. Not the time of anything that was done in the turn.
  virtual uint64_t TurnUs() const { return NowUs(); }

  // Turns so far. Those of an idle loop are its wake-ups.
  virtual uint64_t turns() const { return 0; }

  // Turns until Stop.
  virtual void Run() = 0;
  virtual void Stop() = 0;

 protected:
  uint32_t requests_ = 0;  // since the last sleep
};

}  // namespace dmu

#endif  // DAEMON_IO_LOOP_H_
