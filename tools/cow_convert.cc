// SPDX-License-Identifier: Apache-2.0
//
// cow_convert.cc - see cow_convert.h: the ops become a plan, as a comparison of
// images would have made it, and their data an image to read it from.
#include "tools/cow_convert.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/file_sink.h"
#include "tools/reader_pool.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

// Reads the data of ops by the blocks they give; from several threads.
class OpData {
 public:
  explicit OpData(const CowFile& cow)
      : cow_(cow),
        readers_([&cow] { return TargetReader::CreateForUnits(cow); }) {}

  absl::Status Read(uint64_t offset, ByteSpan out) {
    absl::StatusOr<std::unique_ptr<TargetReader>> reader = readers_.Take();
    if (!reader.ok()) return reader.status();
    absl::Status status;
    while (status.ok() && !out.empty()) {
      status = ReadFirst(reader->get(), &offset, &out);
    }
    readers_.Return(*std::move(reader));
    return status;
  }

 private:
  absl::Status ReadFirst(TargetReader* reader, uint64_t* offset,
                         ByteSpan* out) {
    const auto block = static_cast<uint32_t>(*offset / kBlockBytes);
    const auto found = cow_.image->index.Find(block);
    DMU_CHECK(found.has_value() && *offset % kBlockBytes == 0);
    const absl::StatusOr<TargetReader::Unit> unit = reader->ReadUnit(found->op);
    if (!unit.ok()) return unit.status();
    const size_t skip = size_t{block - found->new_block} * kBlockBytes;
    const size_t bytes = std::min(out->size(), unit->bytes.size() - skip);
    std::memcpy(out->data(), unit->bytes.data() + skip, bytes);
    *offset += bytes;
    *out = out->subspan(bytes);
    return absl::OkStatus();
  }

  const CowFile& cow_;
  ReaderPool readers_;
};

// The ops as a plan. Moving every zero and replace behind the ordered ops is
// safe: an ordered op reads the old image only, in an order that can be merged
// no earlier op has overwritten what it reads, and overwriting later what is
// overwritten anyway takes nothing from it.
absl::StatusOr<DiffPlan> PlanOf(const CowFile& cow) {
  const cow::Index& index = cow.image->index;
  DiffPlan plan;
  // By place in the merge order; what is not ordered stays empty.
  std::vector<std::optional<DiffPlan::Ordered>> ordered(index.merge_count());
  absl::Status status = ForEachOp(cow, [&](uint32_t number, const cow::Op& op) {
    const auto found = index.Find(op.new_block);
    if (!found.has_value() || found->op != number ||
        !cow::IsOrderedOp(op.type)) {
      return absl::OkStatus();
    }
    const bool is_xor = op.type == cow::OpType::kXor;
    ordered[found->position] = {op.new_block, is_xor, op.source_bytes()};
    ++(is_xor ? plan.xor_blocks : plan.copy_blocks);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  for (const std::optional<DiffPlan::Ordered>& op : ordered) {
    if (op.has_value()) plan.ordered.push_back(*op);
  }
  for (uint32_t rank = 0; rank < index.op_count(); ++rank) {
    const cow::Index::Found found = index.AtRank(rank);
    if (cow::IsOrderedOp(found.type) ||
        index.Find(found.new_block)->op != found.op) {
      continue;
    }
    const bool zero = found.type == cow::OpType::kZero;
    (zero ? plan.zero_blocks : plan.replace_blocks) += found.span_blocks();
    if (!plan.rest.empty()) {
      DiffPlan::Run& last = plan.rest.back();
      if (last.zero == zero &&
          last.new_block + last.blocks == found.new_block) {
        last.blocks += found.span_blocks();
        continue;
      }
    }
    plan.rest.push_back({found.new_block, found.span_blocks(), zero});
  }
  return plan;
}

absl::StatusOr<cow::ImageFacts> FactsOf(const CowFile& cow) {
  const cow::Image& image = *cow.image;
  cow::ImageFacts facts;
  if (!image.has_extension) return facts;
  const cow::Extension& ext = image.extension;
  facts.base_digest = ext.base_digest;
  facts.target_digest = ext.target_digest;
  std::vector<uint8_t> checks(size_t{4} * ext.target_check_count);
  std::vector<uint8_t> samples(size_t{cow::kSampleBytes} * ext.sample_count);
  absl::Status status;
  if (image.target_checks_offset != 0) {
    status = cow.file.ReadAt(image.target_checks_offset, checks);
  }
  if (status.ok() && image.samples_offset != 0) {
    status = cow.file.ReadAt(image.samples_offset, samples);
  }
  if (!status.ok()) return status;
  for (size_t at = 0; at < checks.size(); at += 4) {
    facts.target_checks.push_back(LoadLe<uint32_t>(checks.data() + at));
  }
  for (size_t at = 0; at < samples.size(); at += cow::kSampleBytes) {
    facts.samples.push_back(cow::DecodeSample(samples.data() + at));
  }
  return facts;
}

absl::Status CheckConvertible(const CowFile& cow) {
  const cow::Image& image = *cow.image;
  if (image.progress.merged_ops != 0 ||
      image.progress.verdict != cow::Progress::Verdict::kIdle) {
    return absl::FailedPreconditionError(absl::StrCat(
        cow.file.path(), ": its merge has begun (", image.progress.merged_ops,
        " of ", image.index.merge_count(),
        " ops are done), and a converted file would not know; finish it with "
        "\"cow merge\""));
  }
  if (!image.order_error.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(cow.file.path(), ": ", image.order_error));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CreateSummary> ConvertCow(const ConvertOptions& options) {
  const absl::StatusOr<CowFile> cow = OpenCowFile(options.input_path);
  if (!cow.ok()) return cow.status();
  absl::Status status = CheckConvertible(*cow);
  if (!status.ok()) return status;
  if (cow->file.IsAt(options.output_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", options.output_path,
                     " is the input itself; choose "
                     "another output"));
  }
  const absl::StatusOr<DiffPlan> plan = PlanOf(*cow);
  if (!plan.ok()) return plan.status();
  const absl::StatusOr<cow::ImageFacts> facts = FactsOf(*cow);
  if (!facts.ok()) return facts.status();
  absl::StatusOr<OutputFile> output =
      OutputFile::Create(options.output_path, options.force);
  if (!output.ok()) return output.status();

  OpData data(*cow);
  PlannedFile file = {*plan, {}, {}, 0, 0, *facts};
  // What an xor has to do with the old image is in its data already.
  file.old_image.read = [](uint64_t, ByteSpan out) {
    std::memset(out.data(), 0, out.size());
    return absl::OkStatus();
  };
  file.new_image.read = [&data](uint64_t offset, ByteSpan out) {
    return data.Read(offset, out);
  };
  const cow::Image& image = *cow->image;
  WriteFormat format = options;
  format.extension = options.extension && image.has_extension;
  file.base_bytes = image.extension.base_bytes;
  file.target_bytes = image.extension.target_bytes;
  FileSink sink(output->file());
  absl::StatusOr<CreateSummary> summary = WritePlan(file, format, &sink);
  if (!summary.ok()) return summary;
  // A mistake here must not get a name that says it is a COW file.
  const auto judged = LoadImage(output->file());
  if (!judged.ok()) return judged.status();
  DMU_CHECK((*judged)->order_error.empty());
  status = output->Commit();
  if (!status.ok()) return status;
  return summary;
}

}  // namespace dmu::tools
