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
#include "tools/image_source.h"
#include "tools/progress_bar.h"

namespace dmu::tools {
namespace {

absl::StatusOr<ImageSource> OpenImage(const std::string& path) {
  absl::StatusOr<ImageSource> image = ImageSource::Open(path);
  if (!image.ok()) return image;
  if (image->size_bytes() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is empty; an image has at least one block"));
  }
  if (image->size_bytes() % kBlockBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, image->is_sparse() ? " is a sparse image of " : " has ",
        image->size_bytes(), " bytes, which is not a multiple of 4096",
        image->is_sparse() ? ""
                           : absl::StrCat("; pad it with: truncate -s %",
                                          kBlockBytes, " ", path)));
  }
  if (image->size_bytes() / kBlockBytes >= UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", image->size_bytes(),
                     " bytes; the COW format ends at 16 TiB"));
  }
  return image;
}

DiffImage ImageOf(const ImageSource& source) {
  DiffImage image;
  image.blocks = static_cast<uint32_t>(source.size_bytes() / kBlockBytes);
  image.read = [&source](uint64_t offset, ByteSpan out) {
    return source.ReadAt(offset, out);
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

absl::Status CheckNotAnInput(const std::string& output,
                             const ImageSource& old_image,
                             const ImageSource& new_image) {
  for (const ImageSource* input : {&old_image, &new_image}) {
    if (!input->file().IsAt(output)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", output, " is the input ",
                     input->file().path(), "; choose another output"));
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

absl::StatusOr<DiffPlan> Plan(const ImageSource& old_image,
                              const ImageSource& new_image,
                              const CreateOptions& options) {
  ProgressBar bar("comparing  ", options.progress,
                  old_image.size_bytes() + new_image.size_bytes());
  return PlanDiff(ImageOf(old_image), ImageOf(new_image), options.threads,
                  [&bar](uint64_t bytes) { bar.Add(bytes); });
}

// Plans the file and writes it to `sink`.
absl::StatusOr<CreateSummary> WriteCow(const CreateOptions& options,
                                       const ImageSource& old_image,
                                       const ImageSource& new_image,
                                       cow::Sink* sink) {
  absl::StatusOr<DiffPlan> plan = Plan(old_image, new_image, options);
  if (!plan.ok()) return plan.status();
  const cow::ImageFacts facts = FactsOf(*plan);
  return WritePlan({*plan, ImageOf(old_image), ImageOf(new_image),
                    old_image.size_bytes(), new_image.size_bytes(), facts},
                   options, sink);
}

}  // namespace

absl::StatusOr<CreateSummary> CreateCow(const CreateOptions& options) {
  absl::StatusOr<ImageSource> old_image = OpenImage(options.old_path);
  if (!old_image.ok()) return old_image.status();
  absl::StatusOr<ImageSource> new_image = OpenImage(options.new_path);
  if (!new_image.ok()) return new_image.status();
  if (options.estimate) {
    cow::NullSink sink;
    return WriteCow(options, *old_image, *new_image, &sink);
  }
  absl::Status status =
      CheckNotAnInput(options.output_path, *old_image, *new_image);
  if (!status.ok()) return status;
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();
  FileSink sink(output->file());
  absl::StatusOr<CreateSummary> summary =
      WriteCow(options, *old_image, *new_image, &sink);
  if (!summary.ok()) return summary;
  status = Judge(output->file(), options.extension);
  if (status.ok()) status = output->Commit();
  if (!status.ok()) return status;
  return summary;
}

}  // namespace dmu::tools
