// SPDX-License-Identifier: Apache-2.0
//
// task.h - a piece of work that waits for its turn, without an allocation.
//
// A Task is a member of whatever it works for. It is linked into at most one
// list at a time and is not owned by that list: its owner must not go away
// while it is linked.
#ifndef DAEMON_BASE_TASK_H_
#define DAEMON_BASE_TASK_H_

namespace dmu {

struct Task {
  using Function = void (*)(void* context);

  constexpr Task() = default;
  constexpr Task(Function run_in, void* context_in)
      : run(run_in), context(context_in) {}
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  Function run = nullptr;
  void* context = nullptr;

  // Owned by the queue that holds the task.
  Task* next = nullptr;
  bool queued = false;
};

}  // namespace dmu

#endif  // DAEMON_BASE_TASK_H_
