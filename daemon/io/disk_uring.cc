// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/disk_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "daemon/base/check.h"

#ifndef FALLOC_FL_NO_HIDE_STALE
#define FALLOC_FL_NO_HIDE_STALE 0x04
#endif

namespace dmu {
namespace {

// BLOCK_URING_CMD_DISCARD of linux/blkdev.h, which Debian 12 does not have yet.
constexpr uint32_t kDiscardCommand = _IO(0x12, 0);

constexpr uint64_t kPageBytes = 4096;

// How far behind its end a read may have pages locked: more than a kernel reads
// ahead by itself.
constexpr uint64_t kReadAheadBytes = 1 << 20;

// The kernel makes writers wait when some ten or twenty per cent of the memory
// are dirty. So much of it may each disk have.
constexpr uint64_t kDirtyPart = 32;
constexpr uint64_t kDirtyBytesMin = 4 << 20;

uint64_t DirtyBytesMax() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return kDirtyBytesMin;
  return std::max(kDirtyBytesMin,
                  uint64_t{info.totalram} * info.mem_unit / kDirtyPart);
}

uint64_t PageOf(uint64_t offset) { return offset / kPageBytes * kPageBytes; }

bool Meet(uint64_t begin, uint64_t end, uint64_t other_begin,
          uint64_t other_end) {
  return begin < other_end && other_begin < end;
}

bool Overlaps(const DiskOp& write, uint64_t read_begin, uint64_t read_end) {
  return Meet(write.offset, write.offset + write.length_bytes,
              PageOf(read_begin), read_end + kReadAheadBytes);
}

}  // namespace

void UringDisk::OpList::Append(DiskOp* op) {
  op->next = nullptr;
  (tail != nullptr ? tail->next : head) = op;
  tail = op;
}

DiskOp* UringDisk::OpList::Pop() {
  DiskOp* op = head;
  if (op == nullptr) return nullptr;
  head = op->next;
  if (head == nullptr) tail = nullptr;
  op->next = nullptr;
  return op;
}

absl::StatusOr<std::unique_ptr<UringDisk>> UringDisk::Open(
    const std::string& path, const DiskOptions& options, Ring* ring,
    Flusher* flusher, Loop* loop) {
  absl::StatusOr<DiskFile> file = OpenDiskFile(path, options);
  if (!file.ok()) return file.status();
  return std::make_unique<UringDisk>(std::move(*file), ring, flusher, loop);
}

UringDisk::UringDisk(DiskFile file, Ring* ring, Flusher* flusher, Loop* loop)
    : file_(std::move(file)),
      ring_(ring),
      flusher_(flusher),
      loop_(loop),
      runs_(file_.direct ? std::min(kDirectRuns, file_.limits.depth) : kRuns),
      flush_(std::make_unique<Flush>()),
      dirty_bytes_max_(DirtyBytesMax()) {
  flush_->fd = file_.fd.get();
  flush_->done = OnFlushed;
  flush_->disk = this;
  if (file_.block_device) discard_ = Discard::kCommand;

  struct statfs info = {};
  uint8_t byte = 0;
  iovec to = {&byte, 1};
  if (file_.direct) {
    cache_ = Cache::kPassed;
  } else if (!file_.block_device && fstatfs(file_.fd.get(), &info) == 0 &&
             (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC)) {
    cache_ = Cache::kMemory;
  } else if (preadv2(file_.fd.get(), &to, 1, 0, RWF_NOWAIT) < 0 &&
             errno == EOPNOTSUPP) {
    cache_ = Cache::kOpaque;
  }
}

UringDisk::~UringDisk() {
  DMU_CHECK(running_ == 0 && waiting_.head == nullptr &&
            flushing_ops_.head == nullptr && flush_next_.head == nullptr);
  if (!flushing_) return;
  flush_->disk = nullptr;
  flush_->fd_kept = std::move(file_.fd);
  flush_.release();  // OnFlushed deletes it
}

void UringDisk::Submit(DiskOp* op) {
  if (op->kind == DiskOp::Kind::kFlush) {
    BeginFlush(op);
  } else if (!IsInside(file_, *op)) {
    Finish(op, kEnded);
  } else if (!Begin(op)) {
    waiting_.Append(op);
  }
}

bool UringDisk::Begin(DiskOp* op) {
  switch (op->kind) {
    case DiskOp::Kind::kRead:
      return BeginRead(op);
    case DiskOp::Kind::kWrite:
      return BeginWrite(op);
    default:
      return BeginRange(op);
  }
}

// After something has ended. While one is looked at, waiting_ has those that
// are before it and have to go on waiting.
void UringDisk::Resume() {
  OpList all = std::exchange(waiting_, OpList());
  while (DiskOp* op = all.Pop()) {
    // It was not in the cache a moment ago.
    const bool hopeless = op->kind == DiskOp::Kind::kRead && !HasRun();
    if (hopeless || !Begin(op)) waiting_.Append(op);
  }
}

bool UringDisk::BeginDirect(DiskOp* op) {
  if (!HasRun()) return false;
  StartRun(op, 0);
  return true;
}

bool UringDisk::BeginRead(DiskOp* op) {
  if (cache_ == Cache::kPassed) return BeginDirect(op);
  uint64_t done_bytes = 0;
  int error = 0;
  if (cache_ != Cache::kOpaque && ReadCached(*op, &done_bytes, &error)) {
    Finish(op, error);
    return true;
  }
  if (!HasRun() || MeetsWaitingWrite(*op) || IsStuck()) {
    return false;
  }
  StartRun(op, done_bytes);
  return true;
}

bool UringDisk::ReadCached(const DiskOp& op, uint64_t* done_bytes, int* error) {
  if (cache_ == Cache::kMemory) {
    *error = ReadRange(file_.fd.get(), op.buffer, op.offset, op.length_bytes);
    return true;
  }
  while (*done_bytes < op.length_bytes) {
    iovec to = {op.buffer + *done_bytes,
                std::min(op.length_bytes - *done_bytes, kTransferBytesMax)};
    const ssize_t got =
        preadv2(file_.fd.get(), &to, 1,
                static_cast<off_t>(op.offset + *done_bytes), RWF_NOWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) {
      // Nothing: the file was cut since it was opened.
      *error = got < 0 ? errno : kEnded;
      return true;
    }
    *done_bytes += static_cast<uint64_t>(got);
  }
  return true;
}

bool UringDisk::IsCached(uint64_t offset) {
  uint8_t byte = 0;
  iovec to = {&byte, 1};
  ssize_t got = 0;
  do {
    got =
        preadv2(file_.fd.get(), &to, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  } while (got < 0 && errno == EINTR);
  return got >= 0 || errno != EAGAIN;
}

bool UringDisk::LacksPage(const DiskOp& write, uint64_t* offset) {
  const uint64_t end = write.offset + write.length_bytes;
  for (const uint64_t edge : {write.offset, end}) {
    *offset = PageOf(edge);
    if (edge % kPageBytes != 0 && !IsCached(*offset)) return true;
  }
  return false;
}

bool UringDisk::BeginWrite(DiskOp* op) {
  if (cache_ == Cache::kPassed) return BeginDirect(op);
  if (cache_ == Cache::kOpaque) {
    if (!HasRun() || IsStuck()) return false;
    StartRun(op, 0);
    return true;
  }
  if (flushing_ || range_under_way_ || MeetsRead(*op) || IsStuck()) {
    return false;
  }
  if (cache_ == Cache::kAsks) {
    uint64_t page_offset = 0;
    if (LacksPage(*op, &page_offset)) {
      if (!HasRun()) return false;
      StartPage(op, page_offset);
      return true;
    }
    if (dirty_bytes_ >= dirty_bytes_max_) {
      StartFlush();
      return false;
    }
    dirty_bytes_ += op->length_bytes;
  }
  Finish(op,
         WriteRange(file_.fd.get(), op->buffer, op->offset, op->length_bytes));
  return true;
}

// One at a time, and none before a write that waits for one.
bool UringDisk::BeginRange(DiskOp* op) {
  if (op->kind == DiskOp::Kind::kDiscard && discard_ == Discard::kNone) {
    Finish(op, 0);
    return true;
  }
  if (range_under_way_ || !HasRun() || waiting_.head != nullptr) {
    return false;
  }
  range_under_way_ = true;
  StartRun(op, 0);
  return true;
}

bool UringDisk::IsStuck() const {
  if (running_ == 0) return false;
  const uint64_t now_us = loop_->NowUs();
  for (const Run& run : runs_) {
    if (run.op == nullptr || run.begun_us + kStuckUs > now_us) continue;
    if (run.op->kind == DiskOp::Kind::kRead ||
        run.op->kind == DiskOp::Kind::kWrite) {
      return true;
    }
  }
  return false;
}

bool UringDisk::MeetsRead(const DiskOp& write) const {
  if (running_ == 0) return false;
  for (const Run& run : runs_) {
    if (run.op == nullptr) continue;
    if (run.is_page) {
      if (Overlaps(write, run.page_offset, run.page_offset + kPageBytes)) {
        return true;
      }
    } else if (run.op->kind == DiskOp::Kind::kRead &&
               Overlaps(write, run.op->offset,
                        run.op->offset + run.op->length_bytes)) {
      return true;
    }
  }
  return false;
}

bool UringDisk::MeetsWaitingWrite(const DiskOp& read) const {
  for (const DiskOp* op = waiting_.head; op != nullptr; op = op->next) {
    if (op->kind == DiskOp::Kind::kWrite &&
        Overlaps(*op, read.offset, read.offset + read.length_bytes)) {
      return true;
    }
  }
  return false;
}

void UringDisk::StartRun(DiskOp* op, uint64_t done_bytes) {
  Run* run = free_runs_;
  free_runs_ = run->next_run;
  ++running_;
  run->op = op;
  run->done_bytes = done_bytes;
  run->is_page = false;
  run->begun_us = loop_->NowUs();
  ring_->Submit(run);
}

void UringDisk::StartPage(DiskOp* op, uint64_t page_offset) {
  Run* run = free_runs_;
  free_runs_ = run->next_run;
  ++running_;
  run->op = op;
  run->is_page = true;
  run->page_offset = page_offset;
  run->begun_us = loop_->NowUs();
  ring_->Submit(run);
}

bool UringDisk::HasRun() {
  if (free_runs_ != nullptr) return true;
  Run* run = runs_.Grow();
  if (run == nullptr) return false;
  run->prepare = Prepare;
  run->done = OnDone;
  run->disk = this;
  free_runs_ = run;
  return true;
}

void UringDisk::FreeRun(Run* run) {
  run->op = nullptr;
  run->next_run = free_runs_;
  free_runs_ = run;
  --running_;
}

void UringDisk::Prepare(RingOp* op, io_uring_sqe* entry) {
  Run* run = static_cast<Run*>(op);
  const int fd = run->disk->file_.fd.get();
  const DiskOp& disk_op = *run->op;
  if (run->is_page) {
    io_uring_prep_read(entry, fd, &run->byte, 1, run->page_offset);
    return;
  }
  const uint64_t left = disk_op.length_bytes - run->done_bytes;
  const auto bytes = static_cast<uint32_t>(std::min(
      {left, kTransferBytesMax, run->disk->file_.limits.transfer_bytes_max}));
  switch (disk_op.kind) {
    case DiskOp::Kind::kRead:
      io_uring_prep_read(entry, fd, disk_op.buffer + run->done_bytes, bytes,
                         disk_op.offset + run->done_bytes);
      return;
    case DiskOp::Kind::kWrite:
      io_uring_prep_write(entry, fd, disk_op.buffer + run->done_bytes, bytes,
                          disk_op.offset + run->done_bytes);
      return;
    default:
      run->disk->PrepareRange(disk_op, entry);
  }
}

void UringDisk::PrepareRange(const DiskOp& op, io_uring_sqe* entry) const {
  const int fd = file_.fd.get();
  const bool zeroes = op.kind == DiskOp::Kind::kWriteZeroes;
  if (!zeroes && discard_ == Discard::kCommand) {
    entry->opcode = IORING_OP_URING_CMD;
    entry->fd = fd;
    entry->cmd_op = kDiscardCommand;
    entry->addr = op.offset;
    entry->addr3 = op.length_bytes;
    return;
  }
  int mode = FALLOC_FL_KEEP_SIZE;
  if (!file_.block_device) {
    // Punched holes read as zeros, so one mode serves both.
    mode |= FALLOC_FL_PUNCH_HOLE;
  } else if (zeroes) {
    mode |= FALLOC_FL_ZERO_RANGE;
  } else {
    mode |= FALLOC_FL_PUNCH_HOLE | FALLOC_FL_NO_HIDE_STALE;
  }
  io_uring_prep_fallocate(entry, fd, mode, static_cast<off_t>(op.offset),
                          static_cast<off_t>(op.length_bytes));
}

bool UringDisk::TryOtherDiscard(const DiskOp& op, int32_t result) {
  if (op.kind != DiskOp::Kind::kDiscard ||
      (result != -EOPNOTSUPP && result != -EINVAL)) {
    return false;
  }
  if (discard_ == Discard::kCommand) {
    discard_ = Discard::kStale;
    return true;
  }
  if (result == -EOPNOTSUPP) discard_ = Discard::kNone;
  return false;
}

void UringDisk::OnDone(RingOp* ring_op, int32_t result) {
  Run* run = static_cast<Run*>(ring_op);
  UringDisk* self = run->disk;
  DiskOp* op = run->op;
  if (result == -EINTR || result == -EAGAIN) {
    self->ring_->Submit(run);
    return;
  }
  if (run->is_page) {
    self->FreeRun(run);
    if (result < 0) {
      self->Finish(op, -result);
    } else {
      // First of those that wait: it has had its turn.
      op->next = self->waiting_.head;
      self->waiting_.head = op;
      if (self->waiting_.tail == nullptr) self->waiting_.tail = op;
    }
    self->Resume();
    return;
  }
  const bool transfer =
      op->kind == DiskOp::Kind::kRead || op->kind == DiskOp::Kind::kWrite;
  if (!transfer && self->TryOtherDiscard(*op, result)) {
    self->ring_->Submit(run);
    return;
  }
  int error = 0;
  if (result < 0) {
    error = -result;
    // A discard is a hint: storage that cannot forget has done its duty.
    if (op->kind == DiskOp::Kind::kDiscard && error == EOPNOTSUPP) error = 0;
  } else if (transfer && result == 0 && op->length_bytes > 0) {
    // The file was cut since it was opened.
    error = op->kind == DiskOp::Kind::kRead ? kEnded : EIO;
  } else if (transfer) {
    run->done_bytes += static_cast<uint64_t>(result);
    if (run->done_bytes < op->length_bytes) {
      self->ring_->Submit(run);
      return;
    }
  }
  if (!transfer) self->range_under_way_ = false;
  self->FreeRun(run);
  self->Finish(op, error);
  self->Resume();
}

void UringDisk::BeginFlush(DiskOp* op) {
  if (cache_ == Cache::kMemory) {
    Finish(op, FlushFile(file_.fd.get()));
    return;
  }
  flush_next_.Append(op);
  if (!flushing_) StartFlush();
}

void UringDisk::StartFlush() {
  flushing_ = true;
  flushing_ops_ = std::exchange(flush_next_, OpList());
  dirty_bytes_ = 0;
  flusher_->Submit(flush_.get());
}

void UringDisk::OnFlushed(FlushOp* op, int error) {
  auto* flush = static_cast<Flush*>(op);
  UringDisk* self = flush->disk;
  if (self == nullptr) {
    delete flush;
    return;
  }
  self->flushing_ = false;
  // The kernel tells of a failed write-out once.
  if (error != 0) self->flush_error_ = error;
  if (self->flushing_ops_.head != nullptr) {
    const int known = std::exchange(self->flush_error_, 0);
    while (DiskOp* at = self->flushing_ops_.Pop()) self->Finish(at, known);
  }
  // Writes get their turn between two flushes.
  self->Resume();
  if (!self->flushing_ && self->flush_next_.head != nullptr) {
    self->StartFlush();
  }
}

void UringDisk::Finish(DiskOp* op, int error) {
  SetResult(file_, error, op);
  loop_->Post(&op->done);
}

}  // namespace dmu
