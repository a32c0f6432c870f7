// SPDX-License-Identifier: Apache-2.0
//
// flusher.h - fdatasync that the kernel does while the loop goes on.
//
// By the older of the kernel's two ways (io_submit), and not by the ring: there
// a flush takes a thread of the process's own, of which the last one stays and
// wakes up every five seconds. Here it is a work item of the kernel's. A
// process that dies waits for its flushes before it closes its files.
#ifndef DAEMON_IO_FLUSHER_H_
#define DAEMON_IO_FLUSHER_H_

#include <linux/aio_abi.h>

#include <cstdint>
#include <memory>

#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

// One flush. Owned by the caller; it and the file stay from Submit to `done`.
struct FlushOp {
  int fd = -1;
  // `error`: 0 or an errno value; ECANCELED when the flusher went away first.
  // Runs from a turn of the loop or from the flusher's destructor, never from
  // inside Submit; may end the operation's life.
  void (*done)(FlushOp* op, int error) = nullptr;

  // Owned by the flusher.
  int error = 0;  // the kernel would not have it
  iocb control = {};
  FlushOp* next = nullptr;
  FlushOp* previous = nullptr;
};

class Flusher {
 public:
  // nullptr, with errno set, where the kernel does not offer it.
  static std::unique_ptr<Flusher> Create(Loop* loop);

  // Waits for what is with the kernel.
  ~Flusher();
  Flusher(const Flusher&) = delete;
  Flusher& operator=(const Flusher&) = delete;

  // Begins now or later: all that was written before is covered. Never fails by
  // itself.
  void Submit(FlushOp* op);

 private:
  // With the kernel at a time; more wait.
  static constexpr uint32_t kUnderWayMax = 128;

  struct List {
    FlushOp* head = nullptr;
    FlushOp* tail = nullptr;
    void Append(FlushOp* op);
    void Remove(FlushOp* op);
  };

  Flusher(UniqueFd event_fd, Loop* loop);
  static void OnReadable(void* context, uint32_t events);
  static void OnRetry(void* context);
  static void OnRefused(void* context);
  bool Begin(FlushOp* op);
  void BeginWaiting();
  void Reap();

  aio_context_t context_ = 0;
  UniqueFd event_fd_;  // counts completions
  Loop* const loop_;
  Watch watch_;
  bool watching_ = false;
  Timer retry_;  // the kernel was short of memory
  uint32_t under_way_count_ = 0;
  List under_way_;
  List waiting_;
  List refused_;
  Task refused_task_;
};

}  // namespace dmu

#endif  // DAEMON_IO_FLUSHER_H_
