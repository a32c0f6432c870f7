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
#include "tools/cow_write.h"
#include "tools/diff.h"
#include "tools/file_io.h"
#include "tools/file_sink.h"
#include "tools/progress_bar.h"

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

// Plans the file and writes it to `sink`.
absl::StatusOr<CreateSummary> WriteCow(const CreateOptions& options,
                                       const File& old_file,
                                       const File& new_file, cow::Sink* sink) {
  absl::StatusOr<DiffPlan> plan = Plan(old_file, new_file, options);
  if (!plan.ok()) return plan.status();
  const cow::ImageFacts facts = FactsOf(*plan);
  return WritePlan({*plan, ImageOf(old_file), ImageOf(new_file),
                    old_file.size_bytes(), new_file.size_bytes(), facts},
                   options, sink);
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
