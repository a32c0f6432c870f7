// SPDX-License-Identifier: Apache-2.0
//
// read_plan.cc - see read_plan.h.
#include "daemon/backend/read_plan.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/check.h"

namespace dmu {

using Where = merge::Piece::Where;

ReadPlan::ReadPlan() {
  waiter_.context = this;
  for (PieceIo& piece : pieces_) {
    piece.plan = this;
    piece.op.kind = DiskOp::Kind::kRead;
    piece.op.done.run = OnPieceRead;
    piece.op.done.context = &piece;
  }
}

void ReadPlan::Start(Request* request) {
  DMU_CHECK(request_ == nullptr && request->length_bytes >= 1);
  DMU_CHECK(request->payload.size() >= request->length_bytes);
  request_ = request;
  status_ = IoStatus::kOk;
  cursor_ = 0;
  Advance();
}

void ReadPlan::Advance() {
  if (waiting_) return;
  while (status_ == IoStatus::kOk && left() > 0) {
    if (FetchNext() == Step::kBlocked) return;
  }
  if (in_flight_ > 0) return;
  Request* request = request_;
  request_ = nullptr;
  context_->finished(context_->owner, this, request, status_);
}

ReadPlan::Step ReadPlan::FetchNext() {
  const uint64_t offset = request_->offset() + cursor_;
  const uint32_t block = static_cast<uint32_t>(offset / kBlockBytes);
  const uint64_t within = offset % kBlockBytes;
  const uint64_t blocks_max = (within + left() + kBlockBytes - 1) / kBlockBytes;
  const merge::Piece piece =
      context_->view->Lookup(block, static_cast<uint32_t>(blocks_max));
  const uint64_t bytes =
      std::min(uint64_t{piece.blocks} * kBlockBytes - within, left());
  switch (piece.where) {
    case Where::kZero:
      std::memset(At(), 0, bytes);
      cursor_ += bytes;
      return Step::kGoOn;
    case Where::kStaged:
      std::memcpy(At(), piece.data + within, bytes);
      cursor_ += bytes;
      return Step::kGoOn;
    case Where::kBase:
      return ReadDisk(context_->base, piece.offset + within, bytes, nullptr);
    case Where::kScratch:
      return ReadDisk(context_->cow, piece.offset + within, bytes, &piece);
    case Where::kCopy:
      return FetchCopies(piece, within, bytes);
    case Where::kUnit:
      return FetchUnit(piece, within, bytes);
  }
  return Fail(IoStatus::kCorrupt);
}

ReadPlan::Step ReadPlan::Fail(IoStatus status) {
  if (status_ == IoStatus::kOk) status_ = status;
  return Step::kGoOn;
}

ReadPlan::Step ReadPlan::ReadDisk(Disk* disk, uint64_t offset, uint64_t bytes,
                                  const merge::Piece* leased) {
  PieceIo* piece = nullptr;
  for (PieceIo& candidate : pieces_) {
    if (!candidate.busy) piece = &candidate;
  }
  // All under way: the next completion comes back to this place, and asks the
  // view again.
  if (piece == nullptr) return Step::kBlocked;
  piece->busy = true;
  ++in_flight_;
  if (leased != nullptr) {
    context_->leases->Take(&piece->lease, leased->position);
  }
  piece->op.offset = offset;
  piece->op.length_bytes = bytes;
  piece->op.buffer = At();
  cursor_ += bytes;
  disk->Submit(&piece->op);
  return Step::kGoOn;
}

void ReadPlan::OnPieceRead(void* context) {
  auto* piece = static_cast<PieceIo*>(context);
  ReadPlan* self = piece->plan;
  DMU_CHECK(piece->busy && self->in_flight_ > 0);
  piece->busy = false;
  --self->in_flight_;
  if (piece->op.status != IoStatus::kOk) self->Fail(piece->op.status);
  if (piece->lease.held) {
    self->context_->leases->Release(&piece->lease);
    self->context_->lease_released(self->context_->owner);
  }
  self->Advance();
}

const uint8_t* ReadPlan::FindRecord(uint32_t op_number) {
  const uint32_t page = op_number / ReadContext::kPageOps;
  const uint32_t first = page * ReadContext::kPageOps;
  if (const uint8_t* data = context_->pages->Find(page)) {
    return data + size_t{op_number - first} * cow::kOpBytes;
  }
  const uint32_t records = std::min(ReadContext::kPageOps,
                                    context_->image->index.op_count() - first);
  const uint32_t bytes = records * cow::kOpBytes;
  waiting_ = true;
  waiter_.ready = OnPage;
  context_->pages->Load(
      page,
      {context_->image->header.OpsOffset() + uint64_t{first} * cow::kOpBytes,
       bytes, bytes},
      &waiter_);
  return nullptr;
}

void ReadPlan::OnPage(void* context, IoStatus status, const uint8_t*) {
  auto* self = static_cast<ReadPlan*>(context);
  self->waiting_ = false;
  if (status != IoStatus::kOk) self->Fail(status);
  // The merge may have gone on: Advance asks the view again.
  self->Advance();
}

// Copies of adjacent sources become one read, as far as the page goes.
ReadPlan::Step ReadPlan::FetchCopies(const merge::Piece& piece, uint64_t within,
                                     uint64_t bytes) {
  const uint8_t* record = FindRecord(piece.op);
  if (record == nullptr) return Step::kBlocked;
  cow::Op first;
  if (!cow::DecodeOp(record, &first) || first.type != cow::OpType::kCopy ||
      first.new_block != piece.new_block) {
    return Fail(IoStatus::kCorrupt);
  }
  const uint32_t in_page =
      ReadContext::kPageOps - piece.op % ReadContext::kPageOps;
  uint32_t blocks = 1;
  while (blocks < std::min(piece.blocks, in_page)) {
    cow::Op op;
    if (!cow::DecodeOp(record + size_t{blocks} * cow::kOpBytes, &op) ||
        op.type != cow::OpType::kCopy ||
        op.new_block != first.new_block + blocks ||
        op.source != first.source + blocks) {
      break;
    }
    ++blocks;
  }
  bytes = std::min(bytes, uint64_t{blocks} * kBlockBytes - within);
  return ReadDisk(context_->source, first.source * kBlockBytes + within, bytes,
                  &piece);
}

ReadPlan::Step ReadPlan::FetchUnit(const merge::Piece& piece, uint64_t within,
                                   uint64_t bytes) {
  const uint64_t skip = uint64_t{piece.unit_block} * kBlockBytes + within;
  if (const uint8_t* unit = context_->units->Find(piece.op)) {
    std::memcpy(At(), unit + skip, bytes);
    cursor_ += bytes;
    return Step::kGoOn;
  }
  const uint8_t* record = FindRecord(piece.op);
  if (record == nullptr) return Step::kBlocked;
  cow::Op op;
  if (!cow::DecodeOp(record, &op) || op.type != cow::OpType::kReplace ||
      op.new_block != piece.new_block || op.span_log2 != piece.span_log2 ||
      op.data_length == 0 || op.data_length > op.span_bytes()) {
    return Fail(IoStatus::kCorrupt);
  }
  // A unit that is stored raw need not be whole.
  if (op.data_length == op.span_bytes()) {
    return ReadDisk(context_->cow, op.source + skip, bytes, nullptr);
  }
  waiting_ = true;
  unit_skip_bytes_ = skip;
  unit_bytes_ = bytes;
  waiter_.ready = OnUnit;
  context_->units->Load(piece.op, {op.source, op.data_length, op.span_bytes()},
                        &waiter_);
  return Step::kBlocked;
}

void ReadPlan::OnUnit(void* context, IoStatus status, const uint8_t* data) {
  auto* self = static_cast<ReadPlan*>(context);
  self->waiting_ = false;
  if (status != IoStatus::kOk) {
    self->Fail(status);
  } else {
    // Merged or not by now, the unit holds what these blocks read as.
    std::memcpy(self->At(), data + self->unit_skip_bytes_, self->unit_bytes_);
    self->cursor_ += self->unit_bytes_;
  }
  self->Advance();
}

}  // namespace dmu
