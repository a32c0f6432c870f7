// SPDX-License-Identifier: Apache-2.0
//
// sim_loop.cc - see sim_loop.h.
#include "test/sim/sim_loop.h"

#include <cerrno>

#include "daemon/base/check.h"

namespace dmu::sim {
namespace {

// A fault for one in n, never for n == 0.
bool Strikes(uint32_t n, Rng* rng) { return n != 0 && rng->OneIn(n); }

}  // namespace

int SimLoop::AddWatch(Watch*) { return EBADF; }
int SimLoop::ChangeWatch(Watch*, uint32_t) { return EBADF; }

void SimLoop::Post(Task* task) {
  if (task->queued) return;
  task->queued = true;
  tasks_.push_back(task);
}

void SimLoop::PostIdle(Task* task) {
  if (task->queued) return;
  task->queued = true;
  idle_tasks_.push_back(task);
}

void SimLoop::Cancel(Task* task) {
  if (!task->queued) return;
  task->queued = false;
  std::erase(tasks_, task);
  std::erase(running_, task);
  std::erase(idle_tasks_, task);
}

void SimLoop::Arm(Timer* timer, uint64_t delay_us) {
  Disarm(timer);
  timers_.Insert(timer, now_us_, delay_us);
}

void SimLoop::Disarm(Timer* timer) {
  Cancel(&timer->task);
  timers_.Remove(timer);
}

void SimLoop::PostDue() {
  while (Timer* timer = timers_.PopDue(now_us_)) Post(&timer->task);
}

bool SimLoop::Turn() {
  PostDue();
  if (tasks_.empty() && idle_tasks_.empty() && timers_.first() != nullptr) {
    now_us_ = timers_.first()->due_us;
    PostDue();
  }
  const bool was_idle = tasks_.empty();
  if (was_idle && idle_tasks_.empty()) return false;
  running_.swap(tasks_);
  while (!running_.empty()) {
    Task* task = running_.front();
    running_.pop_front();
    task->queued = false;
    task->run(task->context);
  }
  if (!idle_tasks_.empty() && (was_idle || rng_.OneIn(3))) {
    Task* task = idle_tasks_.front();
    idle_tasks_.pop_front();
    task->queued = false;
    task->run(task->context);
  }
  return true;
}

bool SimLoop::TurnUntil(const std::function<bool()>& condition,
                        uint32_t turns_max) {
  for (uint32_t i = 0; i < turns_max; ++i) {
    if (condition()) return true;
    if (!Turn()) return condition();
  }
  return condition();
}

void SimLoop::Run() {
  stopped_ = false;
  while (!stopped_ && Turn()) {
  }
}

SimLoopDisk::SimLoopDisk(SimDisk* model, SimLoop* loop)
    : model_(model), loop_(loop), work_(OnWork, this) {}

SimLoopDisk::~SimLoopDisk() {
  DMU_CHECK(queue_.empty());
  loop_->Cancel(&work_);
}

void SimLoopDisk::Submit(DiskOp* op) {
  queue_.push_back(op);
  loop_->Post(&work_);
}

void SimLoopDisk::OnWork(void* context) {
  static_cast<SimLoopDisk*>(context)->Work();
}

void SimLoopDisk::Work() {
  if (queue_.empty()) return;
  DiskOp* op = nullptr;
  if (!loop_->rng()->OneIn(3)) {
    const uint32_t pick = loop_->rng()->Below(queue_.size());
    op = queue_[pick];
    queue_.erase(queue_.begin() + pick);
    op->status = Execute(*op);
  }
  if (!queue_.empty()) loop_->Post(&work_);
  // Last: it may submit more, or delete this disk.
  if (op != nullptr) op->done.run(op->done.context);
}

IoStatus SimLoopDisk::Execute(const DiskOp& op) {
  Rng* rng = loop_->rng();
  const std::vector<uint8_t> zeros(
      op.kind == DiskOp::Kind::kWriteZeroes ? op.length_bytes : 0);
  switch (op.kind) {
    case DiskOp::Kind::kRead:
      if (Strikes(faults_.read_one_in, rng)) return IoStatus::kIoError;
      return model_->Read(op.offset, {op.buffer, op.length_bytes}) ==
                     IoStatus::kOk
                 ? IoStatus::kOk
                 : IoStatus::kIoError;
    case DiskOp::Kind::kFlush:
      if (Strikes(faults_.flush_one_in, rng)) {
        model_->FailFlush(rng);
        return IoStatus::kIoError;
      }
      model_->Flush();
      return IoStatus::kOk;
    case DiskOp::Kind::kWrite:
    case DiskOp::Kind::kWriteZeroes: {
      uint32_t ticket = 0;
      const ConstByteSpan bytes =
          op.kind == DiskOp::Kind::kWrite
              ? ConstByteSpan(op.buffer, op.length_bytes)
              : ConstByteSpan(zeros);
      if (!model_->SubmitWrite(op.offset, bytes, &ticket)) {
        return IoStatus::kIoError;
      }
      if (Strikes(faults_.write_one_in, rng)) return IoStatus::kIoError;
      model_->Complete(ticket);
      return IoStatus::kOk;
    }
    case DiskOp::Kind::kDiscard:
      return IoStatus::kUnsupported;
  }
  return IoStatus::kUnsupported;
}

}  // namespace dmu::sim
