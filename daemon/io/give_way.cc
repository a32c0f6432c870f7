// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/give_way.h"

#include <sched.h>

#include <algorithm>

namespace dmu {

GiveWay::SetBatch GiveWay::ForThisThread() {
  if (sched_getscheduler(0) != SCHED_OTHER) return nullptr;
  return [](void*, bool batch) {
    const sched_param none = {};
    return sched_setscheduler(0, batch ? SCHED_BATCH : SCHED_OTHER, &none) == 0;
  };
}

void GiveWay::OnRound(const Loop& loop, uint32_t requests) {
  if (set_ == nullptr) return;
  if (!begun_) {
    Begin(loop.TurnUs());
    return;
  }
  ++rounds_;
  requests_ += requests;
  if (batch_ && IsBehind(loop.TurnUs())) {
    Set(false);
    begun_ = false;
    return;
  }
  if (batch_ && !gains_ && rounds_ == kFirstRounds) {
    gains_ = requests_ >= kFirstRounds + kFirstRounds / 4;
    if (!gains_) {
      Leave(loop.TurnUs());
      return;
    }
  }
  if (requests_ >= kRequests) Judge(loop.TurnUs());
}

void GiveWay::Begin(uint64_t now_us) {
  begun_ = true;
  began_us_ = now_us;
  rounds_ = requests_ = 0;
}

bool GiveWay::IsBehind(uint64_t now_us) const {
  return now_us - began_us_ >= kPauseUs + requests_ * without_us_ / kRequests;
}

void GiveWay::Leave(uint64_t now_us) {
  Set(false);
  begun_ = false;
  not_before_us_ = now_us + back_off_us_;
  back_off_us_ = std::min(2 * back_off_us_, kBackOffMaxUs);
}

void GiveWay::Judge(uint64_t now_us) {
  begun_ = false;
  const uint64_t took_us = now_us - began_us_;
  const uint64_t each_us = took_us * kRequests / requests_;
  if (batch_) {
    // A sixteenth is no accident.
    if (each_us + each_us / 16 > without_us_) {
      Leave(now_us);
      return;
    }
    back_off_us_ = kBackOffUs;
    if (now_us - batch_us_ >= kProbeUs) Set(false);
  } else if (requests_ < kFew * rounds_ && took_us < kBusyUs * rounds_ &&
             now_us >= not_before_us_) {
    without_us_ = each_us;
    batch_us_ = now_us;
    gains_ = false;
    Set(true);
  }
  // No time between two rounds is left out: that is where it would be late.
  if (batch_) Begin(now_us);
}

void GiveWay::Set(bool batch) {
  if (batch == batch_ || set_ == nullptr) return;
  if (set_(context_, batch)) {
    batch_ = batch;
  } else {
    set_ = nullptr;
  }
}

}  // namespace dmu
