// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/file.h"

#include "daemon/base/check.h"

namespace dmu {

FileBackend::FileBackend(std::unique_ptr<Disk> disk, bool read_only, Loop* loop)
    : disk_(std::move(disk)),
      read_only_(read_only),
      depth_(disk_->depth()),
      loop_(loop),
      runs_(depth_) {}

FileBackend::~FileBackend() {
  DMU_CHECK(running_ == 0 && waiting_head_ == nullptr);
}

bool FileBackend::HasRun() {
  if (free_runs_ != nullptr) return true;
  Run* run = runs_.Grow();
  if (run == nullptr) return false;
  run->backend = this;
  run->op.done.run = OnDone;
  run->op.done.context = run;
  free_runs_ = run;
  return true;
}

Geometry FileBackend::geometry() const {
  return {.size_bytes = disk_->size_bytes() / kSectorBytes * kSectorBytes,
          .read_only = read_only_,
          .depth = depth_,
          .direct_io = disk_->direct_io()};
}

void FileBackend::Submit(Request* request) {
  if (request->op == Request::Op::kUnknown ||
      request->op == Request::Op::kSecureErase) {
    // Neither files nor most devices can promise that nothing is left.
    request->Complete(IoStatus::kUnsupported);
    return;
  }
  if (HasRun()) {
    Run* run = free_runs_;
    free_runs_ = run->next;
    Begin(run, request);
    return;
  }
  request->next = nullptr;
  (waiting_tail_ != nullptr ? waiting_tail_->next : waiting_head_) = request;
  waiting_tail_ = request;
}

void FileBackend::Drain(Task* done) {
  DMU_CHECK(drained_ == nullptr);
  drained_ = done;
  if (running_ == 0) loop_->Post(done);
}

void FileBackend::Begin(Run* run, Request* request) {
  ++running_;
  run->request = request;
  run->stage = Stage::kPreflush;
  Advance(run);
}

bool FileBackend::Prepare(Run* run) {
  const Request& request = *run->request;
  DiskOp& op = run->op;
  const bool flush = request.op == Request::Op::kFlush;
  switch (run->stage) {
    case Stage::kPreflush:
      op.kind = DiskOp::Kind::kFlush;
      return flush || request.preflush;
    case Stage::kPostflush:
      op.kind = DiskOp::Kind::kFlush;
      return !flush && request.fua;
    case Stage::kData:
      break;
  }
  op.offset = request.offset();
  op.length_bytes = request.length_bytes;
  op.buffer = request.payload.data();
  switch (request.op) {
    case Request::Op::kRead:
      op.kind = DiskOp::Kind::kRead;
      return true;
    case Request::Op::kWrite:
      op.kind = DiskOp::Kind::kWrite;
      return true;
    case Request::Op::kDiscard:
      op.kind = DiskOp::Kind::kDiscard;
      return true;
    case Request::Op::kWriteZeroes:
      op.kind = DiskOp::Kind::kWriteZeroes;
      return true;
    default:
      return false;
  }
}

// Submits the next stage that has work, from run->stage on.
void FileBackend::Advance(Run* run) {
  while (!Prepare(run)) {
    if (run->stage == Stage::kPostflush) {
      Finish(run, IoStatus::kOk);
      return;
    }
    NextStage(run);
  }
  disk_->Submit(&run->op);
}

void FileBackend::NextStage(Run* run) {
  run->stage =
      run->stage == Stage::kPreflush ? Stage::kData : Stage::kPostflush;
}

void FileBackend::OnDone(void* context) {
  Run* run = static_cast<Run*>(context);
  FileBackend* self = run->backend;
  if (run->op.status != IoStatus::kOk || run->stage == Stage::kPostflush) {
    self->Finish(run, run->op.status);
    return;
  }
  NextStage(run);
  self->Advance(run);
}

void FileBackend::Finish(Run* run, IoStatus status) {
  Request* request = run->request;
  if (status != IoStatus::kOk) request->cause = run->op.cause;
  run->request = nullptr;
  --running_;
  if (Request* waiting = waiting_head_) {
    waiting_head_ = waiting->next;
    if (waiting_head_ == nullptr) waiting_tail_ = nullptr;
    Begin(run, waiting);
  } else {
    run->next = free_runs_;
    free_runs_ = run;
  }
  request->Complete(status);
  if (drained_ != nullptr && running_ == 0) loop_->Post(drained_);
}

}  // namespace dmu
