// SPDX-License-Identifier: Apache-2.0
//
// timer_list.h - armed timers, the first to fall due first. A list in order and
// not a heap: a daemon has few, and needs no memory for them.
#ifndef DAEMON_IO_TIMER_LIST_H_
#define DAEMON_IO_TIMER_LIST_H_

#include <cstdint>

#include "daemon/base/check.h"
#include "daemon/io/loop.h"

namespace dmu {

class TimerList {
 public:
  // Behind those of the same time.
  void Insert(Timer* timer, uint64_t now_us, uint64_t delay_us) {
    DMU_CHECK(!timer->armed);
    const uint64_t due_us = now_us + delay_us;
    timer->due_us = due_us < now_us ? UINT64_MAX : due_us;
    Timer** at = &first_;
    while (*at != nullptr && (*at)->due_us <= timer->due_us) at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    timer->armed = true;
  }

  // false when the timer is not armed.
  bool Remove(Timer* timer) {
    if (!timer->armed) return false;
    Timer** at = &first_;
    while (*at != timer) at = &(*at)->next;
    *at = timer->next;
    timer->next = nullptr;
    timer->armed = false;
    return true;
  }

  // Takes out the first timer that is due; nullptr when none is.
  Timer* PopDue(uint64_t now_us) {
    Timer* timer = first_;
    if (timer == nullptr || timer->due_us > now_us) return nullptr;
    Remove(timer);
    return timer;
  }

  const Timer* first() const { return first_; }

 private:
  Timer* first_ = nullptr;
};

}  // namespace dmu

#endif  // DAEMON_IO_TIMER_LIST_H_
