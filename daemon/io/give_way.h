// SPDX-License-Identifier: Apache-2.0
//
// give_way.h - whether the daemon's wake-up takes the processor from who asks.
//
// On a processor that both share, who sends many requests loses it to the
// daemon with the first one, gets it back when that is answered, and so on: two
// switches and a call for each request, though the daemon could have had all of
// them at once. As a batch task (sched(7), SCHED_BATCH) it waits until the
// sender has none left to send. But whatever else keeps the processor busy then
// keeps the daemon waiting too; and where the storage is what is waited for, or
// the sender has a processor of its own, it only comes later.
//
// So it is tried, when rounds come faster than kBusyUs on the average and bring
// few requests each, and kept while more requests come through in a time than
// without it; what that is is measured again every kProbeUs. As soon as it is
// kPauseUs behind what would have come without it, for whatever reason, it
// ends: a long round that brings many is none. The clock is read for each round
// only while it is tried: that is a part of what a round costs.
#ifndef DAEMON_IO_GIVE_WAY_H_
#define DAEMON_IO_GIVE_WAY_H_

#include <cstdint>

#include "daemon/io/loop.h"

namespace dmu {

class GiveWay : public RoundObserver {
 public:
  static constexpr uint32_t kRequests = 256;  // that are judged together
  static constexpr uint32_t kFew = 8;         // a round brings enough anyway
  // Of a try: if they bring one request each, so will those that follow.
  static constexpr uint32_t kFirstRounds = 16;
  static constexpr uint64_t kBusyUs = 100;
  static constexpr uint64_t kPauseUs = 1000;
  static constexpr uint64_t kProbeUs = 500'000;
  // After a try that brought nothing; doubled for each.
  static constexpr uint64_t kBackOffUs = 20'000;
  static constexpr uint64_t kBackOffMaxUs = 160'000;

  // Sets what the calling thread is; false: it may not. nullptr: the thread is
  // left alone.
  using SetBatch = bool (*)(void* context, bool batch);

  GiveWay(SetBatch set, void* context) : set_(set), context_(context) {}
  ~GiveWay() { Set(false); }
  GiveWay(const GiveWay&) = delete;
  GiveWay& operator=(const GiveWay&) = delete;

  // Of the calling thread. Does nothing to one that was given another policy
  // than the usual one, nor where the kernel does not allow it.
  static SetBatch ForThisThread();

  void OnRound(const Loop& loop, uint32_t requests) override;

 private:
  void Begin(uint64_t now_us);
  bool IsBehind(uint64_t now_us) const;
  void Judge(uint64_t now_us);
  void Leave(uint64_t now_us);
  void Set(bool batch);

  SetBatch set_;
  void* const context_;
  bool batch_ = false;
  // What is judged next: since began_us_, the end of a round.
  bool begun_ = false;
  uint64_t began_us_ = 0;
  uint32_t rounds_ = 0;
  uint32_t requests_ = 0;
  uint64_t batch_us_ = 0;    // since when
  bool gains_ = false;       // its first rounds brought more than one each
  uint64_t without_us_ = 0;  // for kRequests, before it was tried
  uint64_t not_before_us_ = 0;
  uint64_t back_off_us_ = kBackOffUs;
};

}  // namespace dmu

#endif  // DAEMON_IO_GIVE_WAY_H_
