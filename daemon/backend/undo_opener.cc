// SPDX-License-Identifier: Apache-2.0
//
// undo_opener.cc - see undo_opener.h.
#include "daemon/backend/undo_opener.h"

#include "daemon/base/cause_text.h"

namespace dmu {

UndoOpener::UndoOpener(std::unique_ptr<Disk> log, const cow::Image& image,
                       Loop* loop, Done done)
    : log_(std::move(log)),
      loop_(loop),
      done_(std::move(done)),
      loader_(image, log_->size_bytes(), merge::UndoLoader::Purpose::kAppend),
      step_(OnStep, this) {
  op_.kind = DiskOp::Kind::kRead;
  op_.done.run = OnRead;
  op_.done.context = this;
}

UndoOpener::~UndoOpener() { loop_->Cancel(&step_); }

void UndoOpener::OnStep(void* context) {
  static_cast<UndoOpener*>(context)->Step();
}

void UndoOpener::Step() {
  if (cancelled_) {
    Finish(absl::CancelledError("the device goes away"));
    return;
  }
  if (loader_.done()) {
    // Whoever asks for the merge makes the log: it knows the old size.
    Finish(loader_.fresh() ? absl::InvalidArgumentError(
                                 "the undo log is empty; let dmuserctl make it")
                           : absl::OkStatus());
    return;
  }
  if (buffer_.empty()) {
    buffer_ = MappedMemory::Map(merge::UndoLoader::kChunkBytes);
    if (buffer_.empty()) {
      Finish(absl::ResourceExhaustedError(
          "there is no memory to load the undo log"));
      return;
    }
  }
  const merge::UndoLoader::Want want = loader_.want();
  op_.offset = want.offset;
  op_.length_bytes = want.bytes;
  op_.buffer = buffer_.span().data();
  log_->Submit(&op_);
}

void UndoOpener::OnRead(void* context) {
  auto* self = static_cast<UndoOpener*>(context);
  if (self->op_.status != IoStatus::kOk) {
    self->Finish(absl::InternalError(
        std::string("reading the undo log failed: ") +
        IoStatusName(self->op_.status) + CauseText(self->op_.cause).text()));
    return;
  }
  absl::Status status =
      self->loader_.Feed({self->buffer_.span().data(),
                          static_cast<size_t>(self->op_.length_bytes)});
  if (!status.ok()) {
    self->Finish(absl::Status(status.code(),
                              "undo log: " + std::string(status.message())));
    return;
  }
  self->loop_->Post(&self->step_);
}

void UndoOpener::Finish(absl::Status status) {
  const Done done = std::move(done_);
  done(std::move(status));
}

}  // namespace dmu
