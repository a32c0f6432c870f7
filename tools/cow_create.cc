// SPDX-License-Identifier: Apache-2.0
//
// cow_create.cc - see cow_create.h: checks, plan, write, judge, rename.
#include "tools/cow_create.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/cow/writer.h"
#include "tools/cow_file.h"
#include "tools/diff.h"
#include "tools/file_io.h"
#include "tools/file_sink.h"
#include "tools/progress_bar.h"
#include "tools/unit_pipeline.h"

namespace dmu::tools {
namespace {

absl::StatusOr<File> OpenImage(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file;
  if (file->size_bytes() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is empty; an image has at least one block"));
  }
  if (file->size_bytes() % kBlockBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has ", file->size_bytes(),
        " bytes, which is not a multiple of 4096; pad it with: truncate -s %",
        kBlockBytes, " ", path));
  }
  if (file->size_bytes() / kBlockBytes >= UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->size_bytes(),
                     " bytes; the COW format ends at 16 TiB"));
  }
  return file;
}

DiffImage ImageOf(const File& file) {
  DiffImage image;
  image.blocks = static_cast<uint32_t>(file.size_bytes() / kBlockBytes);
  image.read = [&file](uint64_t offset, ByteSpan out) {
    return file.ReadAt(offset, out);
  };
  return image;
}

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

// A mistake in plan or writer must not get a name that says it is a COW file.
absl::Status Judge(const File& file, bool extension) {
  absl::StatusOr<std::unique_ptr<cow::Image>> image = LoadImage(file);
  if (!image.ok()) return image.status();
  DMU_CHECK((*image)->order_error.empty());
  DMU_CHECK((*image)->has_extension == extension);
  return absl::OkStatus();
}

absl::Status CheckNotAnInput(const std::string& output, const File& old_file,
                             const File& new_file) {
  for (const File* input : {&old_file, &new_file}) {
    if (!input->IsAt(output)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", output, " is the input ", input->path(),
                     "; choose another output"));
  }
  return absl::OkStatus();
}

cow::ImageFacts FactsOf(const DiffPlan& plan) {
  cow::ImageFacts facts;
  facts.base_digest = plan.base_digest;
  facts.target_digest = plan.target_digest;
  facts.target_checks = plan.target_checks;
  static_assert(DiffPlan::kSamplesMax <= cow::kSamplesMax);
  for (const DiffPlan::Sample& sample : plan.samples) {
    facts.samples.push_back({sample.block, sample.check});
  }
  return facts;
}

absl::StatusOr<DiffPlan> Plan(const File& old_file, const File& new_file,
                              const CreateOptions& options) {
  ProgressBar bar("comparing  ", options.progress,
                  old_file.size_bytes() + new_file.size_bytes());
  return PlanDiff(ImageOf(old_file), ImageOf(new_file), options.threads,
                  [&bar](uint64_t bytes) { bar.Add(bytes); });
}

UnitPipeline::Format FormatOf(const CreateOptions& options) {
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

// Plans the file and writes it to `sink`.
absl::StatusOr<CreateSummary> WriteCow(const CreateOptions& options,
                                       const File& old_file,
                                       const File& new_file, cow::Sink* sink) {
  absl::StatusOr<DiffPlan> plan = Plan(old_file, new_file, options);
  if (!plan.ok()) return plan.status();
  const UnitPipeline::Format format = FormatOf(options);
  cow::WriterOptions writer_options;
  writer_options.version = options.version;
  writer_options.compression = options.compression.compression;
  writer_options.max_unit_bytes = format.max_unit_bytes;
  writer_options.cluster_ops = options.cluster_ops;
  writer_options.extension = options.extension;
  writer_options.op_count_max = CountOps(*plan, format.max_unit_bytes);
  writer_options.base_bytes = old_file.size_bytes();
  writer_options.target_bytes = new_file.size_bytes();
  absl::StatusOr<std::unique_ptr<cow::Writer>> writer =
      cow::Writer::Create(sink, writer_options);
  if (!writer.ok()) return writer.status();
  absl::Status status;
  {
    ProgressBar bar("compressing", options.progress,
                    (plan->xor_blocks + plan->replace_blocks) * kBlockBytes);
    const DiffImage old_image = ImageOf(old_file);
    const DiffImage new_image = ImageOf(new_file);
    UnitPipeline pipeline(old_image, new_image, *plan, format, options.threads);
    status = WriteOps(*plan, &pipeline, writer->get(), &bar);
  }
  if (!status.ok()) return status;
  status = (*writer)->Finish(FactsOf(*plan));
  if (!status.ok()) return status;
  CreateSummary summary;
  summary.old_bytes = old_file.size_bytes();
  summary.new_bytes = new_file.size_bytes();
  summary.cow_bytes = (*writer)->file_bytes();
  summary.op_count = (*writer)->op_count();
  summary.op_count_max = (*writer)->op_count_max();
  summary.same_blocks = plan->same_blocks;
  summary.copy_blocks = plan->copy_blocks;
  summary.xor_blocks = plan->xor_blocks;
  summary.zero_blocks = plan->zero_blocks;
  summary.replace_blocks = plan->replace_blocks;
  return summary;
}

}  // namespace

absl::StatusOr<CreateSummary> CreateCow(const CreateOptions& options) {
  absl::StatusOr<File> old_file = OpenImage(options.old_path);
  if (!old_file.ok()) return old_file.status();
  absl::StatusOr<File> new_file = OpenImage(options.new_path);
  if (!new_file.ok()) return new_file.status();
  if (options.estimate) {
    cow::NullSink sink;
    return WriteCow(options, *old_file, *new_file, &sink);
  }
  absl::Status status =
      CheckNotAnInput(options.output_path, *old_file, *new_file);
  if (!status.ok()) return status;
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  FileSink sink(output->file());
  absl::StatusOr<CreateSummary> summary =
      WriteCow(options, *old_file, *new_file, &sink);
  if (!summary.ok()) return summary;
  status = Judge(output->file(), options.extension);
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return summary;
}

}  // namespace dmu::tools
