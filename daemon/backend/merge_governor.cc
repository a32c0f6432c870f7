// SPDX-License-Identifier: Apache-2.0
//
// merge_governor.cc - see merge_governor.h.
#include "daemon/backend/merge_governor.h"

#include <algorithm>

namespace dmu {
namespace {

uint64_t Grown(uint64_t from, uint64_t to) { return to > from ? to - from : 0; }

}  // namespace

MergeGovernor::MergeGovernor(Loop* loop, PressureSource* source)
    : loop_(loop), source_(source), timer_(OnTimer, this) {}

MergeGovernor::~MergeGovernor() {
  DMU_CHECK(members_ == nullptr);
  loop_->Disarm(&timer_);
}

void MergeGovernor::SetLimits(const Limits& limits) {
  const uint64_t now_us = loop_->NowUs();
  if (limits.rate_bytes_per_s != limits_.rate_bytes_per_s) {
    for (Member* at = members_; at != nullptr; at = at->next_) ReturnGrant(at);
    bucket_.SetRate(limits.rate_bytes_per_s, now_us);
  }
  limits_ = limits;
  limits_.active_max = std::max(limits.active_max, uint32_t{1});
  if (!limits_pressure()) {
    if (holding_) EndHold(now_us);
    probe_us_ = kProbeMinUs;
  }
  Update(now_us, nullptr);
}

void MergeGovernor::SetRate(Member* member, uint64_t rate_bytes_per_s) {
  const uint64_t now_us = loop_->NowUs();
  member->own_.SetRate(rate_bytes_per_s, now_us);
  Update(now_us, nullptr);
}

bool MergeGovernor::MayStep(Member* member) {
  const uint64_t now_us = loop_->NowUs();
  if (member->place_ == Place::kOut) {
    if (members_ == nullptr && listener_ != nullptr) {
      listener_(listener_context_, /*merging=*/true);
    }
    Append(member);
    StandInLine(member);
  }
  if (!member->asked_) {
    member->asked_ = true;
    member->asked_number_ = ++asks_;
  }
  if (limits_pressure() && !holding_ && now_us >= merge_until_us_ &&
      stepped_since_hold_) {
    held_since_us_ = now_us;
    BeginProbe(now_us);
  }
  return Update(now_us, member);
}

void MergeGovernor::Charge(Member* member, uint64_t bytes) {
  member->slice_bytes_ += bytes;
  if (member->own_.limited()) member->own_.Take(bytes);
  if (!bucket_.limited()) return;
  if (member->place_ == Place::kActive) {
    member->granted_bytes_ -= static_cast<int64_t>(bytes);
  } else {
    bucket_.Take(bytes);
  }
}

void MergeGovernor::Leave(Member* member) {
  if (member->place_ == Place::kOut) return;
  const uint64_t now_us = loop_->NowUs();
  TakeOut(member);
  member->asked_ = false;
  if (members_ == nullptr && listener_ != nullptr) {
    listener_(listener_context_, /*merging=*/false);
  }
  if (members_ == nullptr && holding_) {
    EndHold(now_us);
    // Who comes next begins with a probe again.
    merge_until_us_ = now_us;
    stepped_since_hold_ = true;
  }
  Update(now_us, nullptr);
}

MergeGovernor::Held MergeGovernor::held(const Member& member) const {
  if (!member.asked_) return Held::kNo;
  if (holding_) return Held::kPressure;
  return member.place_ == Place::kWaiting ? Held::kTurn : Held::kRate;
}

const char* MergeGovernor::HeldName(const Member& member) const {
  switch (held(member)) {
    case Held::kNo:
      return "";
    case Held::kTurn:
      return "its turn";
    case Held::kRate:
      return "its rate";
    case Held::kPressure:
      return "the machine to be less busy";
  }
  return "";
}

void MergeGovernor::OnTimer(void* context) {
  auto* self = static_cast<MergeGovernor*>(context);
  self->Update(self->loop_->NowUs(), nullptr);
}

bool MergeGovernor::limits_pressure() const {
  return source_ != nullptr && limits_.pressure_percent != 0 &&
         limits_.pressure_percent < 100;
}

// What merges have in flight still counts in the probe's first moments. That is
// on the safe side, and the next probe is longer.
// When nothing is known the next step is let go, and it is tried again later.
void MergeGovernor::BeginProbe(uint64_t now_us) {
  holding_ = source_->Read(&probe_begin_);
  probe_begin_us_ = now_us;
  if (!holding_) EndHold(now_us);
}

void MergeGovernor::EndProbe(uint64_t now_us) {
  PressureSource::Totals now;
  if (!source_->Read(&now)) {
    EndHold(now_us);
    return;
  }
  const uint64_t stalled_us =
      std::max(Grown(probe_begin_.io_us, now.io_us),
               Grown(probe_begin_.memory_us, now.memory_us));
  // The timer may have come late; the pressure was measured until now.
  const uint64_t share_of_us = now_us - probe_begin_us_;
  if (stalled_us * 100 <= share_of_us * limits_.pressure_percent) {
    probe_us_ = kProbeMinUs;
    EndHold(now_us);
    return;
  }
  probe_us_ = std::min(2 * probe_us_, kProbeMaxUs);
  if (now_us - held_since_us_ >= kHeldMaxUs) {
    EndHold(now_us);
    return;
  }
  probe_begin_ = now;
  probe_begin_us_ = now_us;
}

void MergeGovernor::EndHold(uint64_t now_us) {
  holding_ = false;
  merge_until_us_ = now_us + kMergeUs;
  stepped_since_hold_ = false;
}

bool MergeGovernor::Update(uint64_t now_us, const Member* caller) {
  if (holding_ && now_us >= probe_begin_us_ + probe_us_) EndProbe(now_us);
  bool caller_may_step = false;
  if (!holding_) {
    RestAndReturn(now_us);
    GivePlaces(now_us);
    bucket_.Refill(now_us);
    caller_may_step = Release(caller);
  }
  ArmTimer(now_us);
  return caller_may_step;
}

// Members whose own rate keeps them back give up their places, and come back
// when there is enough for a command: not for each byte.
void MergeGovernor::RestAndReturn(uint64_t now_us) {
  Member* next = nullptr;
  for (Member* at = members_; at != nullptr; at = next) {
    next = at->next_;
    if (!at->asked_) continue;
    at->own_.Refill(now_us);
    const bool limited = at->own_.limited();
    if (at->place_ == Place::kResting) {
      if (!limited || at->own_.Has(kGrantBytes)) StandInLine(at);
    } else if (limited && at->own_.in_debt()) {
      GiveUpPlace(at);
      at->place_ = Place::kResting;
    }
  }
}

void MergeGovernor::GivePlaces(uint64_t now_us) {
  uint32_t active = 0;
  Member* next = nullptr;
  for (Member* at = members_; at != nullptr; at = next) {
    next = at->next_;
    if (at->place_ != Place::kActive) continue;
    if (active == limits_.active_max) {
      GiveUpPlace(at);
    } else {
      ++active;
    }
  }
  while (Member* first = FirstWaiting()) {
    if (active < limits_.active_max) {
      turns_now_ = std::max(turns_now_, first->turns_);
      first->place_ = Place::kActive;
      BeginSlice(first, now_us);
      ++active;
      continue;
    }
    Member* done = members_;
    while (done != nullptr && !SliceOver(*done, now_us)) done = done->next_;
    if (done == nullptr) return;
    // Of two merges whose slices end together, the one that is a step ahead
    // would else be given the other's place, each time.
    if (Silent(*done) || done->turns_ + 1 >= first->turns_) {
      GiveUpPlace(done);
      --active;
    } else {
      ++done->turns_;
      BeginSlice(done, now_us);
    }
  }
}

void MergeGovernor::BeginSlice(Member* member, uint64_t now_us) {
  member->slice_bytes_ = 0;
  member->slice_end_us_ = now_us + kSliceUs;
  member->slice_used_ = false;
}

// A slice has a step at least, unless the member is silent: a merge might else
// have all its slices between two grants of a low rate, or lose its place while
// its task waits for a busy loop.
bool MergeGovernor::SliceOver(const Member& member, uint64_t now_us) const {
  if (member.place_ != Place::kActive) return false;
  if (member.slice_bytes_ >= kSliceBytes) return true;
  return now_us >= member.slice_end_us_ &&
         (member.slice_used_ || Silent(member));
}

bool MergeGovernor::Silent(const Member& member) {
  return !member.asked_ && !member.go_on_->queued;
}

// In the order of asking, so that none takes what another waits for.
bool MergeGovernor::Release(const Member* caller) {
  bool caller_may_step = false;
  uint64_t turn = 0;
  while (Member* member = NextAsking(turn)) {
    turn = member->asked_number_;
    if (!MayMove(member)) continue;
    member->asked_ = false;
    if (member == caller) {
      caller_may_step = true;
      member->slice_used_ = true;
      stepped_since_hold_ = true;
    } else {
      loop_->PostIdle(member->go_on_);
    }
  }
  return caller_may_step;
}

// A grant is taken from the bucket when it is given, not when it is used: a
// member that was posted but has not run yet cannot be robbed of it.
bool MergeGovernor::MayMove(Member* member) {
  if (!bucket_.limited()) return true;
  while (member->granted_bytes_ <= 0) {
    if (!bucket_.Has(kGrantBytes)) return false;
    bucket_.Take(kGrantBytes);
    member->granted_bytes_ += kGrantBytes;
  }
  return true;
}

// For the first moment at which Update could release a member that asked.
void MergeGovernor::ArmTimer(uint64_t now_us) {
  uint64_t due_us = UINT64_MAX;
  if (holding_) {
    due_us = probe_begin_us_ + probe_us_;
  } else {
    const bool line = FirstWaiting() != nullptr;
    for (Member* at = members_; at != nullptr; at = at->next_) {
      if (at->place_ == Place::kResting) {
        due_us = std::min(due_us, at->own_.ReadyUs(kGrantBytes));
      } else if (at->place_ == Place::kActive) {
        if (at->asked_) due_us = std::min(due_us, bucket_.ReadyUs(kGrantBytes));
        // One that is over and yet not given up has its step before it: it asks
        // or its task is posted. Looks again in case that task never asks.
        if (line) {
          due_us =
              std::min(due_us, at->slice_end_us_ > now_us ? at->slice_end_us_
                                                          : now_us + kSliceUs);
        }
      }
    }
  }
  if (due_us == UINT64_MAX) {
    loop_->Disarm(&timer_);
  } else if (!timer_.armed || timer_due_us_ != due_us) {
    timer_due_us_ = due_us;
    loop_->Arm(&timer_, due_us - std::min(now_us, due_us));
  }
}

void MergeGovernor::Append(Member* member) {
  Member** at = &members_;
  while (*at != nullptr) at = &(*at)->next_;
  *at = member;
  member->next_ = nullptr;
}

void MergeGovernor::Remove(Member* member) {
  Member** at = &members_;
  while (*at != member) at = &(*at)->next_;
  *at = member->next_;
  member->next_ = nullptr;
}

// To the end of the line, or out of it: one that is silent may be so for long,
// and comes to the end of the line when it asks.
void MergeGovernor::GiveUpPlace(Member* member) {
  TakeOut(member);
  if (Silent(*member)) return;
  Append(member);
  StandInLine(member);
}

// Who was away has not saved up turns.
void MergeGovernor::StandInLine(Member* member) {
  member->place_ = Place::kWaiting;
  member->turns_ = std::max(member->turns_, turns_now_);
  // No newcomer can keep it out for longer than a turn.
  DMU_CHECK(member->turns_ <= turns_now_ + 1);
}

// A place that was left early counts as a turn, or two merges that leave by
// turns would keep a third one out.
void MergeGovernor::TakeOut(Member* member) {
  ReturnGrant(member);
  Remove(member);
  if (member->place_ == Place::kActive) ++member->turns_;
  member->place_ = Place::kOut;
}

void MergeGovernor::ReturnGrant(Member* member) {
  if (bucket_.limited()) bucket_.Give(member->granted_bytes_);
  member->granted_bytes_ = 0;
}

MergeGovernor::Member* MergeGovernor::FirstWaiting() const {
  Member* at = members_;
  while (at != nullptr && at->place_ != Place::kWaiting) at = at->next_;
  return at;
}

// The active member that asked first after `after_number`.
MergeGovernor::Member* MergeGovernor::NextAsking(uint64_t after_number) const {
  Member* found = nullptr;
  for (Member* at = members_; at != nullptr; at = at->next_) {
    if (at->place_ != Place::kActive || !at->asked_) continue;
    if (at->asked_number_ <= after_number) continue;
    if (found == nullptr || at->asked_number_ < found->asked_number_)
      found = at;
  }
  return found;
}

}  // namespace dmu
