// SPDX-License-Identifier: Apache-2.0
//
// disk.h - everything a back end reads and writes is a Disk.
//
// A file, a block device, a remote export and the simulator's disk look the
// same from here. Short transfers, EINTR and EAGAIN are resolved below this
// line; what comes up is the whole range or an error.
#ifndef DAEMON_IO_DISK_H_
#define DAEMON_IO_DISK_H_

#include <cstdint>

#include "daemon/base/task.h"
#include "daemon/base/types.h"

namespace dmu {

// One I/O. Owned by the caller, who keeps it and its buffer alive and untouched
// from Submit until `done` runs.
struct DiskOp {
  enum class Kind : uint8_t {
    kRead,     // fills `buffer` from `offset`; beyond the end is an error
    kWrite,    // writes `write_bytes` from `buffer`
    kFlush,    // all writes completed before this one was submitted are durable
    kDiscard,  // [offset, offset + length_bytes) may read as anything
    kWriteZeroes,  // [offset, offset + length_bytes) reads as zeros
  };

  Kind kind = Kind::kRead;
  uint64_t offset = 0;        // bytes
  uint8_t* buffer = nullptr;  // kRead, kWrite: at least length_bytes long
  uint64_t length_bytes = 0;  // kFlush: unused

  // Set before `done` runs; `cause` only where the disk knows it, and of use
  // only when `status` is an error.
  IoStatus status = IoStatus::kOk;
  IoCause cause;

  DiskOp* next = nullptr;  // owned by the disk that has the operation

  // Runs from a turn of the loop, never from inside Submit, so that a caller
  // need not expect its own state to change under it.
  Task done;
};

class Disk {
 public:
  virtual ~Disk() = default;

  // Size when it was opened. A block device may grow later; that is not seen.
  virtual uint64_t size_bytes() const = 0;

  // For messages: its path, or whatever people know it by.
  virtual const char* name() const { return ""; }
  // Device number of a block device; 0 for anything else.
  virtual uint64_t device_number() const { return 0; }
  // How many operations are worth having under way at a time.
  virtual uint32_t depth() const { return 16; }
  // Past the page cache: buffers have to begin at a multiple of 512 then.
  virtual bool direct_io() const { return false; }

  // Begins the I/O. Never fails by itself: errors arrive in op->status.
  // Operations submitted together may run in any order; who needs an order
  // waits for `done`.
  virtual void Submit(DiskOp* op) = 0;
};

}  // namespace dmu

#endif  // DAEMON_IO_DISK_H_
