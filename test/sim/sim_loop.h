// SPDX-License-Identifier: Apache-2.0
//
// sim_loop.h - a Loop without files, with a clock of its own, and a SimDisk
// behind the Disk interface. The same seed gives the same order of everything.
//
// Tasks run in the order of posting. Idle tasks run when there is nothing else,
// as the contract has it, and now and then although there is, which a real
// machine does too: work may arrive right after the loop has looked.
//
// Time stands still while there is something to do and jumps to the next timer
// when there is nothing; work that takes time says so by Advance.
#ifndef TEST_SIM_SIM_LOOP_H_
#define TEST_SIM_SIM_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "daemon/io/disk.h"
#include "daemon/io/loop.h"
#include "daemon/io/timer_list.h"
#include "test/sim/rng.h"
#include "test/sim/sim_disk.h"

namespace dmu::sim {

class SimLoop : public Loop {
 public:
  explicit SimLoop(uint64_t seed) : rng_(seed) {}

  // There are no files here: EBADF.
  int AddWatch(Watch* watch) override;
  int ChangeWatch(Watch* watch, uint32_t events) override;
  void Unwatch(Watch*) override {}
  void Post(Task* task) override;
  void PostIdle(Task* task) override;
  void PostLast(Task* task) override { Post(task); }
  void Cancel(Task* task) override;
  void Arm(Timer* timer, uint64_t delay_us) override;
  void Disarm(Timer* timer) override;
  uint64_t NowUs() const override { return now_us_; }
  // Until Stop, or until there is nothing to do.
  void Run() override;
  void Stop() override { stopped_ = true; }

  // One turn; false when there was nothing to do and no timer to wait for.
  bool Turn();
  // Turns until `condition`; false when that takes more than turns_max, or
  // there is nothing left to do.
  bool TurnUntil(const std::function<bool()>& condition, uint32_t turns_max);

  // Lets time pass within a turn. What falls due runs in the next one.
  void Advance(uint64_t us) { now_us_ += us; }

  Rng* rng() { return &rng_; }

 private:
  void PostDue();

  Rng rng_;
  TimerList timers_;
  uint64_t now_us_ = 1'000'000;
  std::deque<Task*> tasks_;
  std::deque<Task*> running_;
  std::deque<Task*> idle_tasks_;
  bool stopped_ = false;
};

// Completes operations in random order, some turns after they were submitted.
class SimLoopDisk : public Disk {
 public:
  struct Faults {
    uint32_t read_one_in = 0;  // a read fails with this chance; 0: never
    uint32_t write_one_in = 0;
    uint32_t flush_one_in = 0;
  };

  // Both must outlive the disk; the model may be shared by several in turn.
  SimLoopDisk(SimDisk* model, SimLoop* loop);
  ~SimLoopDisk() override;

  uint64_t size_bytes() const override { return model_->size_bytes(); }
  void Submit(DiskOp* op) override;

  void set_faults(const Faults& faults) { faults_ = faults; }

 private:
  static void OnWork(void* context);
  void Work();
  IoStatus Execute(const DiskOp& op);

  SimDisk* const model_;
  SimLoop* const loop_;
  Faults faults_;
  std::vector<DiskOp*> queue_;
  Task work_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_SIM_LOOP_H_
