// SPDX-License-Identifier: Apache-2.0
//
// snapshot_open.cc - loads a COW file in turns of the loop, 64 KiB at a time.
#include <cstdio>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "daemon/backend/mapped_memory.h"
#include "daemon/backend/snapshot.h"
#include "daemon/base/cause_text.h"
#include "daemon/base/check.h"
#include "daemon/cow/base_check.h"
#include "daemon/merge/merged_bytes.h"

namespace dmu {
namespace {

using Done = std::function<void(absl::StatusOr<std::unique_ptr<Backend>>)>;

// Index entries looked at in one turn, about a millisecond.
constexpr uint32_t kOpsPerTurn = 8192;

// Owns itself: ends by calling `done` and deleting itself.
class SnapshotOpener {
 public:
  SnapshotOpener(std::unique_ptr<Disk> base, std::unique_ptr<Disk> cow,
                 std::unique_ptr<Disk> source, Loop* loop,
                 MergeGovernor* governor, Done done)
      : base_(std::move(base)),
        cow_(std::move(cow)),
        source_(std::move(source)),
        loop_(loop),
        governor_(governor),
        done_(std::move(done)),
        loader_(cow_->size_bytes()),
        step_(OnStep, this) {
    op_.kind = DiskOp::Kind::kRead;
    op_.done.run = OnRead;
    op_.done.context = this;
  }

  // Not from inside the caller: `done` must not run before it has returned.
  void Begin() { loop_->Post(&step_); }

 private:
  static void OnStep(void* context) {
    static_cast<SnapshotOpener*>(context)->Step();
  }

  static void OnRead(void* context) {
    static_cast<SnapshotOpener*>(context)->Feed();
  }

  void Step() {
    if (buffer_.empty()) {
      buffer_ = MappedMemory::Map(cow::Loader::kChunkBytes);
      if (buffer_.empty()) {
        Finish(absl::ResourceExhaustedError(
            "there is no memory to load the COW file"));
        return;
      }
    }
    if (image_ != nullptr) {
      if (samples_left()) {
        ReadSamples();
      } else {
        CountMerged();
      }
      return;
    }
    if (loader_.done()) {
      Loaded();
      return;
    }
    const cow::Loader::Want want = loader_.want();
    DMU_CHECK(want.bytes <= cow::Loader::kChunkBytes);
    wanted_ = want;
    if (want.bytes == 0) {
      // An empty file: there is nothing to read, and the loader says so.
      Feed();
      return;
    }
    op_.offset = want.offset;
    op_.length_bytes = want.bytes;
    op_.buffer = buffer_.span().data();
    cow_->Submit(&op_);
  }

  // Whether the base is the one the file was made from: a few blocks of it are
  // compared. First what the file says of them is read, then block by block.
  bool samples_left() const {
    return next_sample_ < image_->extension.sample_count &&
           image_->samples_offset != 0;
  }

  void ReadSamples() {
    op_.done.run = OnSample;
    if (!samples_read_) {
      op_.offset = image_->samples_offset;
      op_.length_bytes = cow::SamplesBytes(*image_);
      op_.buffer = buffer_.span().data();
      cow_->Submit(&op_);
      return;
    }
    while (samples_left() && !cow::SampleCounts(*image_, buffer_.span().data(),
                                                next_sample_, &sample_)) {
      ++next_sample_;
    }
    if (!samples_left()) {
      CountMerged();
      return;
    }
    op_.offset = uint64_t{sample_.block} * kBlockBytes;
    op_.length_bytes = kBlockBytes;
    op_.buffer = SampleBlock().data();
    base_->Submit(&op_);
  }

  // Behind the samples, which stay in the buffer.
  ByteSpan SampleBlock() const {
    static_assert(cow::kSamplesMax * cow::kSampleBytes + kBlockBytes <=
                  cow::Loader::kChunkBytes);
    return buffer_.span().subspan(cow::kSamplesMax * cow::kSampleBytes,
                                  kBlockBytes);
  }

  static void OnSample(void* context) {
    static_cast<SnapshotOpener*>(context)->TakeSample();
  }

  void TakeSample() {
    if (op_.status != IoStatus::kOk) {
      Finish(absl::InternalError(
          std::string("reading the ") + (samples_read_ ? "base" : "COW file") +
          " to compare them failed: " + IoStatusName(op_.status) +
          CauseText(op_.cause).text()));
      return;
    }
    if (samples_read_) {
      absl::Status status = cow::CheckSample(sample_, SampleBlock());
      if (!status.ok()) {
        Finish(std::move(status));
        return;
      }
      ++next_sample_;
    }
    samples_read_ = true;
    loop_->Post(&step_);
  }

  void Feed() {
    if (wanted_.bytes > 0 && op_.status != IoStatus::kOk) {
      char text[384];
      std::snprintf(text, sizeof(text),
                    "reading %u bytes at offset %llu of the COW file failed: "
                    "%s%s",
                    wanted_.bytes,
                    static_cast<unsigned long long>(wanted_.offset),
                    IoStatusName(op_.status), CauseText(op_.cause).text());
      Finish(absl::InternalError(text));
      return;
    }
    absl::Status status = loader_.Feed(buffer_.span().first(wanted_.bytes));
    if (!status.ok()) {
      Finish(std::move(status));
      return;
    }
    loop_->Post(&step_);
  }

  void Loaded() {
    image_ = loader_.Take();
    const Disk& old_image = source_ != nullptr ? *source_ : *base_;
    absl::Status status =
        cow::CheckBase(*image_, old_image.size_bytes(), /*for_merge=*/false);
    if (!status.ok()) {
      Finish(std::move(status));
      return;
    }
    merged_ = std::make_unique<merge::MergedBytes>(image_->index,
                                                   image_->progress.merged_ops);
    loop_->Post(&step_);
  }

  void CountMerged() {
    if (!merged_->Step(kOpsPerTurn)) {
      loop_->Post(&step_);
      return;
    }
    SnapshotBackend::Parts parts;
    parts.loop = loop_;
    parts.governor = governor_;
    parts.base = std::move(base_);
    parts.cow = std::move(cow_);
    parts.source = std::move(source_);
    parts.merged_bytes = merged_->bytes();
    merged_.reset();  // it looks into the image
    parts.image = std::move(image_);
    Finish(SnapshotBackend::Create(std::move(parts)));
  }

  void Finish(absl::StatusOr<std::unique_ptr<Backend>> result) {
    const Done done = std::move(done_);
    delete this;
    done(std::move(result));
  }

  std::unique_ptr<Disk> base_;
  std::unique_ptr<Disk> cow_;
  std::unique_ptr<Disk> source_;
  Loop* const loop_;
  MergeGovernor* const governor_;
  Done done_;
  cow::Loader loader_;
  cow::Loader::Want wanted_;
  MappedMemory buffer_;
  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<merge::MergedBytes> merged_;
  bool samples_read_ = false;
  uint32_t next_sample_ = 0;
  cow::Sample sample_;
  DiskOp op_;
  Task step_;
};

}  // namespace

void OpenSnapshotBackend(std::unique_ptr<Disk> base, std::unique_ptr<Disk> cow,
                         std::unique_ptr<Disk> source, Loop* loop,
                         MergeGovernor* governor, Done done) {
  (new SnapshotOpener(std::move(base), std::move(cow), std::move(source), loop,
                      governor, std::move(done)))
      ->Begin();
}

}  // namespace dmu
