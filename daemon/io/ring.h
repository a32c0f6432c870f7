// SPDX-License-Identifier: Apache-2.0
//
// ring.h - an io_uring of the loop's: I/O that the kernel does while the loop
// goes on.
//
// What a turn submits goes to the kernel in one call at the end of the turn;
// completions make the ring's file readable, which ends the loop's sleep. A
// ring with nothing under way costs nothing, and nobody is woken for it.
//
// The ring never holds more operations than its completion queue has room for,
// so no completion is ever lost or needs memory. What is above that waits in a
// list, in the order of Submit.
#ifndef DAEMON_IO_RING_H_
#define DAEMON_IO_RING_H_

#include <liburing.h>

#include <cstdint>
#include <memory>

#include "daemon/io/loop.h"

namespace dmu {

// One operation. Owned by the caller, most often as the base of what it needs
// to know beside it; stays alive, with all memory that its entry names, from
// Submit until `done` runs.
struct RingOp {
  // Fills the entry, which is zeroed (all 128 bytes of a big one). `user_data`
  // belongs to the ring; one completion ends it, so none of the multi-shot
  // kind. Called from Submit or, when the ring is full, later.
  void (*prepare)(RingOp* op, io_uring_sqe* entry) = nullptr;

  // Runs when the kernel has the entry, which it has looked at by then, and
  // before `done`; from inside the end of a turn. May be nullptr.
  void (*issued)(RingOp* op) = nullptr;

  // `result`: that of the system call it stands for, or a negative errno value.
  // Runs from a turn of the loop, never from inside Submit; may submit again,
  // this same operation too, and may end the operation's life.
  void (*done)(RingOp* op, int32_t result) = nullptr;

  RingOp* next = nullptr;  // owned by the ring until it is issued
};

class Ring {
 public:
  struct Options {
    // Of one call to the kernel; a power of two. 64 bytes of the kernel's
    // memory each.
    uint32_t entries = 64;
    // Operations with the kernel at a time; a power of two, at least `entries`.
    // 16 bytes of the kernel's memory each. One that waits in the kernel for
    // long, as a request of a block driver's server does, counts all the time:
    // see ReservePlace.
    uint32_t under_way_max = 256;
    // Entries of 128 bytes, for commands of drivers (IORING_OP_URING_CMD).
    bool big_entries = false;
  };

  // nullptr, with errno set, where the kernel has no io_uring of the kind that
  // is needed (Linux 6.1), or does not allow it: ENOSYS, EPERM, EINVAL, ENOMEM.
  // The loop outlives the ring; the thread that creates it must be the one that
  // submits.
  static std::unique_ptr<Ring> Create(const Options& options, Loop* loop);

  // Nothing may be under way or waiting.
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Begins the operation. Never fails by itself; errors arrive at `done`.
  void Submit(RingOp* op);

  // As Submit, but `prepare` is called when all else of the turn is done.
  void SubmitLast(RingOp* op);

  // For an operation that waits in the kernel for as long as it likes, one at a
  // time. Half of the places are for such ones at most, so that the others
  // never wait for them; false when these are given away. FreePlace gives it
  // back.
  bool ReservePlace();
  void FreePlace() { --places_; }

  // With the kernel or waiting for it.
  uint32_t under_way() const {
    return under_way_ + waiting_.count + last_.count;
  }

 private:
  struct OpQueue {
    void Push(RingOp* op);
    RingOp* Pop();  // nullptr when it is empty
    RingOp* head = nullptr;
    RingOp* tail = nullptr;
    uint32_t count = 0;
  };

  Ring(const Options& options, Loop* loop);

  static void OnReadable(void* context, uint32_t events);
  static void OnInterrupted(void* context);
  static void OnEndOfTurn(void* context);
  static void OnRetry(void* context);
  bool Init();
  bool HasRoom() const;
  void Prepare(RingOp* op);
  void PrepareWaiting();
  void Enter();
  void Reap();

  const Options options_;
  Loop* const loop_;
  io_uring ring_ = {};
  bool ring_ready_ = false;
  Watch watch_;
  bool watching_ = false;
  Task interrupted_;  // the kernel interrupts a sleep to complete something
  Task end_of_turn_;
  Timer retry_;             // the kernel was short of memory
  uint32_t under_way_ = 0;  // entries filled whose completion was not reaped
  uint32_t places_ = 0;     // reserved
  OpQueue waiting_;         // there was no room for them
  OpQueue last_;            // for the end of the turn
  OpQueue prepared_;        // in the order of their entries, not issued yet
};

}  // namespace dmu

#endif  // DAEMON_IO_RING_H_
