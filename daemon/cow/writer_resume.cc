// SPDX-License-Identifier: Apache-2.0
//
// writer_resume.cc - a Writer that goes on behind a label of a file that
// exists.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/unit_check.h"
#include "daemon/cow/writer.h"

namespace dmu::cow {
namespace {

absl::StatusOr<std::unique_ptr<Image>> Load(Source* source, uint64_t label) {
  Loader loader(source->size_bytes(), label);
  std::vector<uint8_t> chunk(Loader::kChunkBytes);
  while (!loader.done()) {
    const Loader::Want want = loader.want();
    const ByteSpan bytes(chunk.data(), want.bytes);
    absl::Status status = source->ReadAt(want.offset, bytes);
    if (status.ok()) status = loader.Feed(bytes);
    if (!status.ok()) return status;
  }
  return loader.Take();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Writer>> Writer::Resume(
    Sink* sink, Source* source, uint64_t label, const WriterOptions& options) {
  absl::StatusOr<std::unique_ptr<Image>> image = Load(source, label);
  if (!image.ok()) return image.status();
  const Header& h = (*image)->header;
  if (h.major_version == 1) {
    return absl::UnimplementedError("version 1 is read, but not written");
  }
  if (h.num_merge_ops != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the merge of this file has begun (", h.num_merge_ops,
                     " ops are done); nothing can be added to it"));
  }
  WriterOptions own = options;
  own.version = h.major_version;
  own.scratch = h.has_scratch();
  own.cluster_ops = h.cluster_ops;
  own.max_unit_bytes = h.unit_bytes_max();
  own.op_count_max = h.op_count_max;
  if ((*image)->has_extension && options.target_bytes == 0) {
    own.base_bytes = (*image)->extension.base_bytes;
    own.target_bytes = (*image)->extension.target_bytes;
  }
  own.compression = h.compression;
  if (h.is_v3()) {
    // Room for the tables was made when the file was begun, if it was.
    own.extension = options.extension && (*image)->has_extension;
    if (own.extension) own.op_count_max = OpsBesideExtension(own);
  } else {
    // One compressor per file; it may be that no op has used it yet.
    own.compression = options.compression;
    for (const Compression c : {Compression::kGz, Compression::kBrotli,
                                Compression::kLz4, Compression::kZstd}) {
      if ((*image)->compressions & CompressionBit(c)) own.compression = c;
    }
  }
  std::unique_ptr<Writer> writer(new Writer(sink, own, h));
  writer->header_written_ = true;
  absl::Status status = writer->Restore(source, **image);
  if (!status.ok()) return status;
  return writer;
}

absl::Status Writer::Restore(Source* source, const Image& image) {
  for (const SequenceChunk& chunk : image.sequence) {
    std::vector<uint8_t> bytes(size_t{4} * chunk.count);
    absl::Status status = source->ReadAt(chunk.offset, bytes);
    if (!status.ok()) return status;
    for (size_t at = 0; at < bytes.size(); at += 4) {
      sequence_.push_back(LoadLe<uint32_t>(bytes.data() + at));
    }
  }
  std::vector<uint8_t> page_bytes(OpTable::kPageBytesMax);
  std::vector<Op> ops(OpTable::kPageOps);
  for (uint32_t n = 0; n < image.ops.page_count(); ++n) {
    const OpTable::Page page = image.ops.PageAt(n);
    const ByteSpan bytes(page_bytes.data(), page.bytes);
    absl::Status status = source->ReadAt(page.offset, bytes);
    if (status.ok() && !image.ops.DecodeAll(page, bytes.data(), ops.data())) {
      status = absl::DataLossError("the file changed while it was read");
    }
    for (uint32_t i = 0; i < page.ops && status.ok(); ++i) {
      status = RestoreOp(ops[i], source);
    }
    if (!status.ok()) return status;
  }
  if (is_v3()) {
    data_next_ = image.data_end;
    // Points behind this one would bring back what is dropped now.
    for (const ResumePoint& point : image.labels) {
      if (point.op_count <= op_count()) points_.push_back(point);
    }
    if (points_.size() > kResumePointMax) {
      points_.erase(points_.begin(), points_.end() - kResumePointMax);
    }
    header_.resume_point_count = static_cast<uint32_t>(points_.size());
    header_.op_count = op_count();
    if (has_extension_) {
      Extension unfinished;
      unfinished.base_bytes = options_.base_bytes;
      unfinished.target_bytes = options_.target_bytes;
      absl::Status status = WriteRecord(unfinished);
      if (status.ok()) status = sink_->Sync();
      if (!status.ok()) return status;
    }
    absl::Status status = WriteResumePoints();
    if (status.ok()) status = WriteHeader();
    if (status.ok()) status = sink_->Sync();
    return status;
  }
  DMU_CHECK(image.walk_end.has_value());
  walk_ = *image.walk_end;
  slots_ = image.slots;
  // What followed the label is gone from here on, a footer above all.
  absl::Status status = header_.cluster_ops != 0
                            ? ZeroRestOfCluster()
                            : WriteZeros(walk_->slot_offset(), kFooterBytes);
  if (status.ok()) status = sink_->Sync();
  if (status.ok() && walk_->cluster_is_full()) status = AddClusterOp();
  return status;
}

absl::Status Writer::RestoreOp(const Op& op, Source* source) {
  uint32_t check = 0;
  if (HasData(op.type) && has_extension_) {
    std::vector<uint8_t> stored(op.data_length);
    absl::Status status = source->ReadAt(op.data_offset, stored);
    if (!status.ok()) return status;
    check = UnitCheck(stored);
  }
  unit_checks_.push_back(check);
  hasher_.AddOp(op);
  const bool ordered = IsOrderedOp(op.type);
  unordered_seen_ |= !ordered;
  ordered_ops_ += ordered ? 1 : 0;
  return absl::OkStatus();
}

}  // namespace dmu::cow
