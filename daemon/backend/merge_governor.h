// SPDX-License-Identifier: Apache-2.0
//
// merge_governor.h - which merge may do its next step, and when. One for all
// merges of the process.
//
// A step is what a merge does at a turn of the loop: commands of about
// merge::kCommandBytesMax together. Between any two commands is a good place to
// hold a merge: what is durable does not depend on when the next one comes.
//
// What it promises:
// - Turns: at most active_max merges go on, the others wait in line. While one
//   waits, a place is given up after a slice of kSliceBytes or kSliceUs to the
//   first in line, unless that one had more slices: all get as many. A place is
//   also taken from a merge that has stopped asking without a Leave, when its
//   slice is over.
// - Rate: in any second no more than 110 % of rate_bytes_per_s, or the rate and
//   one grant if that is more, and for each active merge a grant and a step.
//   Over longer times no more than the rate, and no less while merges are quick
//   enough for it. Active merges get it in turn. A merge's own limit is as
//   strict, but a merge that it has kept back stands in line for a place again,
//   so in company it may get less.
// - Pressure: under a limit, merges are held while other work waits for I/O or
//   memory more of the time than that. Stalls that merges cause count in the
//   kernel's sums like any other, so it measures only while all are held: for
//   kProbeMinUs, after kMergeUs of merging at the most. Over the limit they
//   stay held and the next probe is twice as long, up to kProbeMaxUs. However
//   long that lasts, kMergeUs are let through after kHeldMaxUs: a merge on a
//   machine that is never quiet must come to an end too. Without a source, or
//   when it cannot tell, there is no such limit.
// - No starvation: a member that was told to wait has its task posted, by a
//   timer which is armed or by a member that gives up its place. Nothing is
//   armed when no member waits: merges that are not, or go on, cost no wake-up.
//
// Pauses are not its business: a merge that is to come to its next window's
// edge soon may step without asking, if it still says what it moves.
//
// Allocates nothing.
#ifndef DAEMON_BACKEND_MERGE_GOVERNOR_H_
#define DAEMON_BACKEND_MERGE_GOVERNOR_H_

#include <cstdint>

#include "daemon/backend/pressure.h"
#include "daemon/backend/token_bucket.h"
#include "daemon/base/check.h"
#include "daemon/base/task.h"
#include "daemon/io/loop.h"
#include "daemon/merge/command.h"

namespace dmu {

class MergeGovernor {
 public:
  static constexpr uint64_t kSliceBytes = 32 << 20;
  static constexpr uint64_t kSliceUs = 1'000'000;
  // What a merge gets of the rate at a time.
  static constexpr uint64_t kGrantBytes = merge::kCommandBytesMax;
  static constexpr uint64_t kMergeUs = 200'000;
  static constexpr uint64_t kProbeMinUs = 20'000;
  static constexpr uint64_t kProbeMaxUs = 1'000'000;
  static constexpr uint64_t kHeldMaxUs = 10'000'000;

  struct Limits {
    uint64_t rate_bytes_per_s = 0;  // of all merges together; 0: none
    // Of the time, in which some other task waits; 0, or 100 and more: none.
    uint32_t pressure_percent = 0;
    uint32_t active_max = 2;  // at least 1 is taken
  };

  // Why a merge does not go on, for who wants to know.
  enum class Held { kNo, kTurn, kRate, kPressure };

  // A merge, part of its runner. Leave before it goes away.
  class Member {
   public:
    // `go_on` is posted, as idle work, after MayStep said no.
    explicit Member(Task* go_on) : go_on_(go_on) {}
    ~Member() { DMU_CHECK(place_ == Place::kOut); }
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

   private:
    friend class MergeGovernor;
    enum class Place {
      kOut,      // not in the list
      kResting,  // its own rate keeps it back
      kWaiting,  // for a place among the active
      kActive,
    };

    Task* const go_on_;
    Place place_ = Place::kOut;
    Member* next_ = nullptr;
    // Was told to wait and `go_on` is not posted since. One that has not asked
    // is going to, if its task is queued; else it waits for its I/O, or is
    // silent. Who rests always has asked.
    bool asked_ = false;
    uint64_t asked_number_ = 0;  // when, in the order of asking
    // What it may move of the common rate; below 0, what it did beyond that.
    int64_t granted_bytes_ = 0;
    TokenBucket own_{kGrantBytes};
    uint64_t turns_ = 0;  // slices it had
    uint64_t slice_bytes_ = 0;
    uint64_t slice_end_us_ = 0;
    bool slice_used_ = false;  // it had a step of this slice
  };

  // Both must outlive the governor; `source` may be nullptr.
  MergeGovernor(Loop* loop, PressureSource* source);
  ~MergeGovernor();
  MergeGovernor(const MergeGovernor&) = delete;
  MergeGovernor& operator=(const MergeGovernor&) = delete;

  // Is told when the first merge takes part, and when the last has left; from
  // inside MayStep and Leave. nullptr: nobody.
  using Listener = void (*)(void* context, bool merging);
  void SetListener(Listener listener, void* context) {
    listener_ = listener;
    listener_context_ = context;
  }

  // Take effect at once, also for those that are held.
  void SetLimits(const Limits& limits);
  const Limits& limits() const { return limits_; }
  // 0: none of its own. May be called whether the member takes part or not.
  void SetRate(Member* member, uint64_t rate_bytes_per_s);

  // Asked before each step. true: go on, and Charge what it moves. false: the
  // member's task will be posted when it is worth asking again. The first one
  // makes it take part.
  bool MayStep(Member* member);

  // What was moved, before the next step. No effect on what is held already.
  void Charge(Member* member, uint64_t bytes);

  // The member wants nothing now: it is paused, done, or waits for something
  // else than its own I/O. Its place goes to the next. No effect on one that
  // does not take part; MayStep makes it take part again.
  void Leave(Member* member);

  Held held(const Member& member) const;
  // The same for people; "" when it goes on.
  const char* HeldName(const Member& member) const;

 private:
  using Place = Member::Place;

  static void OnTimer(void* context);

  bool limits_pressure() const;
  void BeginProbe(uint64_t now_us);
  void EndProbe(uint64_t now_us);
  void EndHold(uint64_t now_us);

  // Does all that is due; `caller`, if any, is told by the result whether it
  // may go on, all others by their tasks.
  bool Update(uint64_t now_us, const Member* caller);
  void RestAndReturn(uint64_t now_us);
  void GivePlaces(uint64_t now_us);
  void BeginSlice(Member* member, uint64_t now_us);
  bool Release(const Member* caller);
  bool MayMove(Member* member);
  void ArmTimer(uint64_t now_us);

  void Append(Member* member);
  void Remove(Member* member);
  void GiveUpPlace(Member* member);
  void StandInLine(Member* member);
  void TakeOut(Member* member);
  static bool Silent(const Member& member);
  void ReturnGrant(Member* member);
  bool SliceOver(const Member& member, uint64_t now_us) const;
  Member* FirstWaiting() const;
  Member* NextAsking(uint64_t after_number) const;

  Loop* const loop_;
  Listener listener_ = nullptr;
  void* listener_context_ = nullptr;
  PressureSource* const source_;
  Limits limits_;
  TokenBucket bucket_{kGrantBytes};
  Timer timer_;
  uint64_t timer_due_us_ = 0;  // what timer_ was armed for
  Member* members_ = nullptr;  // the longest in line first
  uint64_t turns_now_ = 0;     // the most turns of any that was given a place
  uint64_t asks_ = 0;

  // Held for pressure: since when, the probe that runs, and how long one is.
  bool holding_ = false;
  uint64_t held_since_us_ = 0;
  uint64_t probe_begin_us_ = 0;
  PressureSource::Totals probe_begin_;
  uint64_t probe_us_ = kProbeMinUs;
  // Merging goes on without a probe until then, and until it had a step: a busy
  // loop may take that long to run the task of who was let go.
  uint64_t merge_until_us_ = 0;
  bool stepped_since_hold_ = true;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_MERGE_GOVERNOR_H_
