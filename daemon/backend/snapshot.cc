// SPDX-License-Identifier: Apache-2.0
//
// snapshot.cc - see snapshot.h. Opening one is in snapshot_open.cc.
#include "daemon/backend/snapshot.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "daemon/base/check.h"

namespace dmu {
namespace {

// Pages kept, of ops and of checks: reads come in runs, and a few runs come at
// a time.
constexpr uint32_t kPageEntries = 8;

// Units kept: four of the largest, and not less than 64 KiB of small ones.
uint32_t UnitEntries(uint32_t unit_bytes) {
  return std::max<uint32_t>(4, 64 * 1024 / unit_bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotBackend>> SnapshotBackend::Create(
    Parts parts) {
  const cow::Header& header = parts.image->header;
  const cow::Image& image = *parts.image;
  std::unique_ptr<cow::Codec> codec = cow::Codec::Create(image.compressions);
  if (codec == nullptr) {
    return absl::ResourceExhaustedError("there is no memory to decompress");
  }
  const uint32_t unit_bytes = header.unit_bytes_max();
  auto units = UnitCache::Create(parts.cow.get(), codec.get(), unit_bytes,
                                 std::max(image.stored_bytes_max, 1u),
                                 UnitEntries(unit_bytes));
  auto pages = UnitCache::Create(parts.cow.get(), nullptr,
                                 ReadContext::kPageBytes, 0, kPageEntries);
  if (units == nullptr || pages == nullptr) {
    return absl::ResourceExhaustedError(
        "there is no memory for the snapshot's cache");
  }
  return std::unique_ptr<SnapshotBackend>(new SnapshotBackend(
      std::move(parts), std::move(codec), std::move(units), std::move(pages)));
}

std::string SnapshotBackend::MergeRefusal(const cow::Image& image,
                                          const Disk& base,
                                          const Disk* source) {
  if (source == nullptr) {
    return std::string(
        cow::CheckBase(image, base.size_bytes(), /*for_merge=*/true).message());
  }
  // The old image has been judged; the base is only written, and the engine
  // sees that it is large enough for the ops.
  if (image.has_extension && base.size_bytes() < image.extension.target_bytes) {
    return "the base is smaller than the target image; grow it before merging";
  }
  return "";
}

SnapshotBackend::SnapshotBackend(Parts parts, std::unique_ptr<cow::Codec> codec,
                                 std::unique_ptr<UnitCache> units,
                                 std::unique_ptr<UnitCache> pages)
    : loop_(parts.loop),
      base_(std::move(parts.base)),
      cow_(std::move(parts.cow)),
      source_(std::move(parts.source)),
      image_(std::move(parts.image)),
      codec_(std::move(codec)),
      units_(std::move(units)),
      pages_(std::move(pages)),
      refusal_(MergeRefusal(*image_, *base_, source_.get())),
      engine_(
          *image_, base_->size_bytes(), cow_->size_bytes(),
          {.merged_bytes = parts.merged_bytes, .refusal = refusal_.c_str()}),
      view_(*image_, engine_),
      runner_({loop_, &engine_, image_.get(), base_.get(),
               source_ != nullptr ? source_.get() : base_.get(), cow_.get(),
               codec_.get(), parts.governor, &merged_}),
      runner_stopped_(OnRunnerStopped, this),
      extents_({loop_, base_.get(), image_.get(), &view_}),
      extents_stopped_(OnExtentsStopped, this),
      merged_(OnMerged, this) {
  engine_.SetOnCommit(OnCommitted, this);
  context_.image = image_.get();
  context_.view = &view_;
  context_.leases = engine_.leases();
  context_.base = base_.get();
  context_.source = source_ != nullptr ? source_.get() : base_.get();
  context_.cow = cow_.get();
  context_.units = units_.get();
  context_.pages = pages_.get();
  context_.owner = this;
  context_.lease_released = OnLeaseReleased;
  context_.finished = OnPlanFinished;
  for (ReadPlan& plan : plans_) {
    plan.Init(&context_);
    plan.next_free = free_plans_;
    free_plans_ = &plan;
  }
}

SnapshotBackend::~SnapshotBackend() {
  DMU_CHECK(running_ == 0 && waiting_head_ == nullptr);
}

Geometry SnapshotBackend::geometry() const {
  return {cow::TargetBytes(*image_, base_->size_bytes()) / kSectorBytes *
              kSectorBytes,
          /*read_only=*/true, base_->device_number()};
}

void SnapshotBackend::OfferRedirect(Redirect* redirect) {
  extents_.Begin(redirect, geometry().size_bytes);
}

void SnapshotBackend::OnCommitted(void* context, const merge::Window* window) {
  static_cast<SnapshotBackend*>(context)->extents_.OnCommitted(window);
}

void SnapshotBackend::OnMerged(void* context) {
  static_cast<SnapshotBackend*>(context)->extents_.OnMerged();
}

void SnapshotBackend::Submit(Request* request) {
  switch (request->op) {
    case Request::Op::kRead:
      break;
    case Request::Op::kFlush:
      // Nothing was written.
      request->Complete(IoStatus::kOk);
      return;
    case Request::Op::kWrite:
      request->Complete(IoStatus::kIoError);
      return;
    default:
      request->Complete(IoStatus::kUnsupported);
      return;
  }
  if (request->length_bytes == 0) {
    request->Complete(IoStatus::kOk);
    return;
  }
  request->next = nullptr;
  (waiting_tail_ != nullptr ? waiting_tail_->next : waiting_head_) = request;
  waiting_tail_ = request;
  Pump();
}

// Starts waiting requests while there are plans. A request that is over at once
// may bring the next one from inside its completion: that one is taken by the
// outermost call, so that the stack does not grow with the requests.
void SnapshotBackend::Pump() {
  if (pumping_) return;
  pumping_ = true;
  while (waiting_head_ != nullptr && free_plans_ != nullptr) {
    Request* request = waiting_head_;
    waiting_head_ = request->next;
    if (waiting_head_ == nullptr) waiting_tail_ = nullptr;
    ReadPlan* plan = free_plans_;
    free_plans_ = plan->next_free;
    ++running_;
    plan->Start(request);
  }
  pumping_ = false;
}

void SnapshotBackend::OnPlanFinished(void* owner, ReadPlan* plan,
                                     Request* request, IoStatus status) {
  auto* self = static_cast<SnapshotBackend*>(owner);
  plan->next_free = self->free_plans_;
  self->free_plans_ = plan;
  --self->running_;
  request->Complete(status);
  self->Pump();
  self->FinishDrain();
}

void SnapshotBackend::OnLeaseReleased(void* owner) {
  static_cast<SnapshotBackend*>(owner)->runner_.OnLeaseReleased();
}

void SnapshotBackend::Drain(Task* done) {
  DMU_CHECK(drained_ == nullptr);
  drained_ = done;
  extents_.Stop(&extents_stopped_);
  runner_.Stop(&runner_stopped_);
}

void SnapshotBackend::OnRunnerStopped(void* context) {
  auto* self = static_cast<SnapshotBackend*>(context);
  self->runner_is_stopped_ = true;
  self->FinishDrain();
}

void SnapshotBackend::OnExtentsStopped(void* context) {
  auto* self = static_cast<SnapshotBackend*>(context);
  self->extents_are_stopped_ = true;
  self->FinishDrain();
}

void SnapshotBackend::FinishDrain() {
  if (drained_ == nullptr || !runner_is_stopped_ || !extents_are_stopped_)
    return;
  loop_->Cancel(&merged_);
  if (running_ == 0 && waiting_head_ == nullptr) loop_->Post(drained_);
}

}  // namespace dmu
