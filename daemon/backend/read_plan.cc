// SPDX-License-Identifier: Apache-2.0
//
// read_plan.cc - see read_plan.h.
#include "daemon/backend/read_plan.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

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
  if (status_ != IoStatus::kOk) request->cause = cause_;
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
    case Where::kXor:
      return FetchXor(piece, within, bytes);
    case Where::kUnit:
      return FetchUnit(piece, within, bytes);
  }
  return Fail(IoStatus::kCorrupt);
}

ReadPlan::Step ReadPlan::Fail(IoStatus status, const IoCause& cause) {
  if (status_ == IoStatus::kOk) {
    status_ = status;
    cause_ = cause;
  }
  return Step::kGoOn;
}

ReadPlan::PieceIo* ReadPlan::FreePiece() {
  for (PieceIo& piece : pieces_) {
    if (!piece.busy) return &piece;
  }
  return nullptr;
}

ReadPlan::Step ReadPlan::ReadDisk(Disk* disk, uint64_t offset, uint64_t bytes,
                                  const merge::Piece* leased) {
  PieceIo* piece = FreePiece();
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
  piece->op.done.run = OnPieceRead;
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
  if (piece->op.status != IoStatus::kOk) {
    self->Fail(piece->op.status, piece->op.cause);
  }
  if (piece->lease.held) {
    self->context_->leases->Release(&piece->lease);
    self->context_->lease_released(self->context_->owner);
  }
  self->Advance();
}

const uint8_t* ReadPlan::LoadPage(uint32_t key, uint64_t offset,
                                  uint32_t bytes) {
  if (const uint8_t* data = context_->pages->Find(key)) return data;
  waiting_ = true;
  waiter_.ready = OnPage;
  UnitCache::Source source;
  source.offset = offset;
  source.stored_bytes = source.unit_bytes = bytes;
  context_->pages->Load(key, source, &waiter_);
  return nullptr;
}

const uint8_t* ReadPlan::FindPage(const cow::OpTable::Page& page) {
  return LoadPage(page.number, page.offset, page.bytes);
}

const uint8_t* ReadPlan::FindChecks(const cow::OpTable::Page& page) {
  return LoadPage(
      page.number | ReadContext::kChecksKey,
      context_->image->unit_checks_offset + uint64_t{4} * page.first_op,
      4 * page.ops);
}

ReadPlan::Step ReadPlan::FindOp(const merge::Piece& piece, cow::Op* op,
                                UnitCache::Source* source) {
  const cow::Image& image = *context_->image;
  const cow::OpTable::Page page = image.ops.PageOf(piece.op);
  const uint8_t* checks = nullptr;
  if (image.unit_checks_offset != 0) {
    checks = FindChecks(page);
    if (checks == nullptr) return Step::kBlocked;
    source->has_check = true;
    source->check = LoadLe<uint32_t>(checks + 4 * (piece.op - page.first_op));
  }
  const uint8_t* bytes = FindPage(page);
  if (bytes == nullptr) return Step::kBlocked;
  // The loader has judged every op; this one must be the same still.
  const bool is_xor = piece.where == Where::kXor;
  if (!image.ops.Decode(page, bytes, piece.op, op) ||
      op->type != (is_xor ? cow::OpType::kXor : cow::OpType::kReplace) ||
      op->new_block != piece.new_block || op->span_log2 != piece.span_log2 ||
      op->data_length == 0 || op->data_length > image.stored_bytes_max) {
    return Fail(IoStatus::kCorrupt);
  }
  source->offset = op->data_offset;
  source->stored_bytes = op->data_length;
  source->unit_bytes = op->span_bytes();
  source->compression = op->compression;
  if (op->compression == cow::Compression::kNone &&
      op->data_length != op->span_bytes()) {
    return Fail(IoStatus::kCorrupt);
  }
  return Step::kGoOn;
}

void ReadPlan::OnPage(void* context, IoStatus status, const uint8_t*) {
  auto* self = static_cast<ReadPlan*>(context);
  self->waiting_ = false;
  if (status != IoStatus::kOk) {
    self->Fail(status, self->context_->pages->cause());
  }
  // The merge may have gone on: Advance asks the view again.
  self->Advance();
}

// Copies of adjacent sources become one read, as far as the page goes.
ReadPlan::Step ReadPlan::FetchCopies(const merge::Piece& piece, uint64_t within,
                                     uint64_t bytes) {
  const cow::OpTable& ops = context_->image->ops;
  const cow::OpTable::Page page = ops.PageOf(piece.op);
  const uint8_t* records = FindPage(page);
  if (records == nullptr) return Step::kBlocked;
  cow::Op first;
  if (!ops.Decode(page, records, piece.op, &first) ||
      first.type != cow::OpType::kCopy || first.new_block != piece.new_block) {
    return Fail(IoStatus::kCorrupt);
  }
  const uint32_t in_page = page.first_op + page.ops - piece.op;
  uint32_t blocks = 1;
  while (blocks < std::min(piece.blocks, in_page)) {
    cow::Op op;
    if (!ops.Decode(page, records, piece.op + blocks, &op) ||
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
  cow::Op op;
  UnitCache::Source source;
  if (FindOp(piece, &op, &source) == Step::kBlocked) return Step::kBlocked;
  if (status_ != IoStatus::kOk) return Step::kGoOn;
  // A unit that is stored raw need not be whole, unless it is to be checked.
  if (op.compression == cow::Compression::kNone && !source.has_check) {
    return ReadDisk(context_->cow, op.data_offset + skip, bytes, nullptr);
  }
  waiting_ = true;
  unit_skip_bytes_ = skip;
  unit_bytes_ = bytes;
  waiter_.ready = OnUnit;
  context_->units->Load(piece.op, source, &waiter_);
  return Step::kBlocked;
}

// One block: first what it reads of the source goes to the payload, under a
// lease, then the op's data is xored onto it, which never changes.
ReadPlan::Step ReadPlan::FetchXor(const merge::Piece& piece, uint64_t within,
                                  uint64_t bytes) {
  PieceIo* io = FreePiece();
  if (io == nullptr) return Step::kBlocked;
  cow::Op op;
  if (FindOp(piece, &op, &xor_source_) == Step::kBlocked) return Step::kBlocked;
  if (status_ != IoStatus::kOk) return Step::kGoOn;
  waiting_ = true;
  xor_op_ = piece.op;
  unit_skip_bytes_ = within;
  unit_bytes_ = bytes;
  io->busy = true;
  ++in_flight_;
  context_->leases->Take(&io->lease, piece.position);
  io->op.offset = op.source + within;
  io->op.length_bytes = bytes;
  io->op.buffer = At();
  io->op.done.run = OnXorSource;
  context_->source->Submit(&io->op);
  return Step::kBlocked;
}

void ReadPlan::OnXorSource(void* context) {
  auto* io = static_cast<PieceIo*>(context);
  ReadPlan* self = io->plan;
  DMU_CHECK(io->busy && self->in_flight_ > 0 && self->waiting_);
  io->busy = false;
  --self->in_flight_;
  const IoStatus status = io->op.status;
  self->context_->leases->Release(&io->lease);
  self->context_->lease_released(self->context_->owner);
  if (status != IoStatus::kOk) {
    self->FinishXor(status, io->op.cause, nullptr);
    return;
  }
  if (const uint8_t* data = self->context_->units->Find(self->xor_op_)) {
    self->FinishXor(IoStatus::kOk, {}, data);
    return;
  }
  self->waiter_.ready = OnXorUnit;
  self->context_->units->Load(self->xor_op_, self->xor_source_, &self->waiter_);
}

void ReadPlan::OnXorUnit(void* context, IoStatus status, const uint8_t* data) {
  auto* self = static_cast<ReadPlan*>(context);
  self->FinishXor(status, self->context_->units->cause(), data);
}

void ReadPlan::FinishXor(IoStatus status, const IoCause& cause,
                         const uint8_t* data) {
  waiting_ = false;
  if (status != IoStatus::kOk) {
    Fail(status, cause);
  } else {
    cow::XorOnto(data + unit_skip_bytes_, unit_bytes_, At());
    cursor_ += unit_bytes_;
  }
  Advance();
}

void ReadPlan::OnUnit(void* context, IoStatus status, const uint8_t* data) {
  auto* self = static_cast<ReadPlan*>(context);
  self->waiting_ = false;
  if (status != IoStatus::kOk) {
    self->Fail(status, self->context_->units->cause());
  } else {
    // Merged or not by now, the unit holds what these blocks read as.
    std::memcpy(self->At(), data + self->unit_skip_bytes_, self->unit_bytes_);
    self->cursor_ += self->unit_bytes_;
  }
  self->Advance();
}

}  // namespace dmu
