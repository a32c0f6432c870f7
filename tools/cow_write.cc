// SPDX-License-Identifier: Apache-2.0
//
// cow_write.cc - see cow_write.h.
#include "tools/cow_write.h"

#include <memory>

#include "daemon/base/types.h"
#include "tools/progress_bar.h"
#include "tools/unit_pipeline.h"

namespace dmu::tools {
namespace {

uint64_t CountOps(const DiffPlan& plan, uint32_t max_unit_bytes) {
  uint64_t ops = plan.ordered.size() + plan.zero_blocks;
  UnitCutter cutter(plan.rest, max_unit_bytes);
  for (UnitCutter::Unit unit; cutter.Next(&unit);) ++ops;
  return ops;
}

absl::Status AddOrdered(const DiffPlan::Ordered& op, UnitPipeline* pipeline,
                        cow::Writer* writer, ProgressBar* bar) {
  if (!op.is_xor) {
    return writer->AddCopy(
        op.new_block, static_cast<uint32_t>(op.source_bytes / kBlockBytes));
  }
  absl::StatusOr<UnitPipeline::Stored> stored = pipeline->Next();
  if (!stored.ok()) return stored.status();
  bar->Add(kBlockBytes);
  return writer->AddXor(op.new_block, op.source_bytes, stored->bytes);
}

absl::Status AddZeros(const DiffPlan::Run& run, cow::Writer* writer) {
  for (uint32_t i = 0; i < run.blocks; ++i) {
    absl::Status status = writer->AddZero(run.new_block + i);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status AddData(const DiffPlan::Run& run, UnitPipeline* pipeline,
                     cow::Writer* writer, ProgressBar* bar) {
  for (uint64_t done = 0; done < uint64_t{run.blocks} * kBlockBytes;) {
    absl::StatusOr<UnitPipeline::Stored> stored = pipeline->Next();
    if (!stored.ok()) return stored.status();
    absl::Status status = writer->AddReplace(
        stored->unit.new_block, stored->unit.span_log2, stored->bytes);
    if (!status.ok()) return status;
    done += stored->unit.bytes();
    bar->Add(stored->unit.bytes());
  }
  return absl::OkStatus();
}

absl::Status WriteOps(const DiffPlan& plan, UnitPipeline* pipeline,
                      cow::Writer* writer, ProgressBar* bar) {
  for (const DiffPlan::Ordered& op : plan.ordered) {
    absl::Status status = AddOrdered(op, pipeline, writer, bar);
    if (!status.ok()) return status;
  }
  for (const DiffPlan::Run& run : plan.rest) {
    absl::Status status =
        run.zero ? AddZeros(run, writer) : AddData(run, pipeline, writer, bar);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

UnitPipeline::Format FormatOf(const WriteFormat& options) {
  UnitPipeline::Format format;
  format.compression = options.compression;
  format.max_unit_bytes =
      options.version == 3 ? options.max_unit_bytes : kBlockBytes;
  // Version 2 has no raw form of these.
  format.always =
      options.version == 2 &&
      (options.compression.compression == cow::Compression::kGz ||
       options.compression.compression == cow::Compression::kBrotli);
  return format;
}

}  // namespace

absl::StatusOr<CreateSummary> WritePlan(const PlannedFile& file,
                                        const WriteFormat& format,
                                        cow::Sink* sink) {
  const DiffPlan& plan = file.plan;
  const UnitPipeline::Format units = FormatOf(format);
  cow::WriterOptions options;
  options.version = format.version;
  options.compression = format.compression.compression;
  options.max_unit_bytes = units.max_unit_bytes;
  options.cluster_ops = format.cluster_ops;
  options.extension = format.extension;
  options.op_count_max = CountOps(plan, units.max_unit_bytes);
  options.base_bytes = file.base_bytes;
  options.target_bytes = file.target_bytes;
  absl::StatusOr<std::unique_ptr<cow::Writer>> writer =
      cow::Writer::Create(sink, options);
  if (!writer.ok()) return writer.status();
  absl::Status status;
  {
    ProgressBar bar("compressing", format.progress,
                    (plan.xor_blocks + plan.replace_blocks) * kBlockBytes);
    UnitPipeline pipeline(file.old_image, file.new_image, plan, units,
                          format.threads);
    status = WriteOps(plan, &pipeline, writer->get(), &bar);
  }
  if (status.ok()) status = (*writer)->Finish(file.facts);
  if (!status.ok()) return status;
  CreateSummary summary;
  summary.old_bytes = file.base_bytes;
  summary.new_bytes = file.target_bytes;
  summary.cow_bytes = (*writer)->file_bytes();
  summary.op_count = (*writer)->op_count();
  summary.op_count_max = (*writer)->op_count_max();
  summary.same_blocks = plan.same_blocks;
  summary.copy_blocks = plan.copy_blocks;
  summary.xor_blocks = plan.xor_blocks;
  summary.zero_blocks = plan.zero_blocks;
  summary.replace_blocks = plan.replace_blocks;
  return summary;
}

}  // namespace dmu::tools
