// SPDX-License-Identifier: Apache-2.0
//
// inspect_verb.cc - cow inspect: what a COW file says about itself, for people
// or as one JSON object whose keys stay as they are.
#include <cstdio>

#include "absl/flags/flag.h"
#include "nlohmann/json.hpp"
#include "tools/cow_file.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/progress_bar.h"

ABSL_FLAG(bool, json, false, "print JSON");
ABSL_FLAG(bool, ops, false, "list every op");

namespace dmu::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Totals {
  uint64_t copy_ops = 0;
  uint64_t zero_ops = 0;
  uint64_t replace_ops = 0;
  uint64_t replace_blocks = 0;
};

const char* VerdictName(cow::Progress::Verdict verdict) {
  switch (verdict) {
    case cow::Progress::Verdict::kIdle:
      return "idle";
    case cow::Progress::Verdict::kReplay:
      return "window staged";
    case cow::Progress::Verdict::kCommitted:
      return "window committed";
    case cow::Progress::Verdict::kCorrupt:
      return "corrupt";
  }
  return "?";
}

Json OpToJson(uint32_t number, const cow::Op& op) {
  Json json;
  json["op"] = number;
  json["type"] = cow::OpTypeName(op.type);
  json["new_block"] = op.new_block;
  json["blocks"] = op.span_blocks();
  if (op.type == cow::OpType::kCopy) json["source_block"] = op.source;
  if (op.type == cow::OpType::kReplace) {
    json["data_offset"] = op.source;
    json["data_bytes"] = op.data_length;
  }
  return json;
}

void PrintOp(uint32_t number, const cow::Op& op) {
  std::printf("op %u: %s %u", number, cow::OpTypeName(op.type), op.new_block);
  if (op.span_log2 != 0) {
    std::printf("..%u", op.new_block + op.span_blocks() - 1);
  }
  if (op.type == cow::OpType::kCopy) {
    std::printf(" from %llu", static_cast<unsigned long long>(op.source));
  }
  if (op.type == cow::OpType::kReplace) {
    std::printf(", %u bytes at %llu", op.data_length,
                static_cast<unsigned long long>(op.source));
  }
  std::printf("\n");
}

absl::StatusOr<Totals> CountOps(const CowFile& cow) {
  Totals totals;
  absl::Status status = ForEachOp(cow, [&](uint32_t, const cow::Op& op) {
    if (op.type == cow::OpType::kCopy) ++totals.copy_ops;
    if (op.type == cow::OpType::kZero) ++totals.zero_ops;
    if (op.type == cow::OpType::kReplace) {
      ++totals.replace_ops;
      totals.replace_blocks += op.span_blocks();
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return totals;
}

Json MergeToJson(const cow::Image& image) {
  Json merge;
  merge["merged_ops"] = image.progress.merged_ops;
  merge["total_ops"] = image.index.op_count();
  merge["total_bytes"] = image.merge_bytes;
  merge["state"] = VerdictName(image.progress.verdict);
  merge["staged_blocks"] = image.progress.scratch.size();
  if (!image.order_error.empty()) merge["order_error"] = image.order_error;
  return merge;
}

Json ToJson(const CowFile& cow, const Totals& totals) {
  const cow::Image& image = *cow.image;
  const cow::Header& header = image.header;
  Json json;
  json["path"] = cow.file.path();
  json["file_bytes"] = cow.file.size_bytes();
  json["version"] = header.major_version;
  json["block_bytes"] = header.block_size;
  json["compression"] = cow::CompressionName(header.compression);
  json["max_unit_bytes"] = header.unit_bytes_max();
  json["scratch_bytes"] = header.buffer_size;
  // Only files with the extension record can say that they are complete.
  json["known_complete"] = image.has_extension;
  if (image.has_extension) {
    json["base_bytes"] = image.extension.base_bytes;
    json["target_bytes"] = image.extension.target_bytes;
  }
  json["op_count"] = image.index.op_count();
  json["op_count_max"] = header.op_count_max;
  json["duplicate_ops"] = image.index.duplicate_count();
  json["sequence_entries"] = header.sequence_data_count;
  json["resume_points"] = header.resume_point_count;
  json["copy"] = {{"ops", totals.copy_ops}};
  json["zero"] = {{"ops", totals.zero_ops}};
  json["replace"] = {{"ops", totals.replace_ops},
                     {"blocks", totals.replace_blocks},
                     {"data_bytes", image.data_bytes}};
  json["merge"] = MergeToJson(image);
  json["index_bytes"] = image.index.resident_bytes();
  return json;
}

// printf's %llu and uint64_t are two types where both have 64 bits.
unsigned long long Ull(uint64_t value) { return value; }

void PrintText(const CowFile& cow, const Totals& totals) {
  const cow::Image& image = *cow.image;
  const cow::Header& header = image.header;
  std::printf("%s: COW file version %u, %s, compression %s, units up to %s\n",
              cow.file.path().c_str(), header.major_version,
              FormatBytes(cow.file.size_bytes()).c_str(),
              cow::CompressionName(header.compression),
              FormatBytes(header.unit_bytes_max()).c_str());
  if (image.has_extension) {
    std::printf("  base      %llu bytes\n  target    %llu bytes\n",
                Ull(image.extension.base_bytes),
                Ull(image.extension.target_bytes));
  } else {
    std::printf(
        "  base      at least %llu blocks\n"
        "  target    at least %llu blocks\n",
        Ull((image.source_end_bytes + kBlockBytes - 1) / kBlockBytes),
        Ull(image.span_blocks));
  }
  std::printf("  copy      %llu ops\n  zero      %llu ops\n",
              Ull(totals.copy_ops), Ull(totals.zero_ops));
  std::printf("  replace   %llu ops, %llu blocks, %s stored\n",
              Ull(totals.replace_ops), Ull(totals.replace_blocks),
              FormatBytes(image.data_bytes).c_str());
  std::printf("  complete  %s\n",
              image.has_extension
                  ? "yes"
                  : "not recorded (made by a writer that does not record it)");
  std::printf("  scratch   %s\n", FormatBytes(header.buffer_size).c_str());
  std::printf("  merge     %llu of %u ops done, %s",
              Ull(image.progress.merged_ops), image.index.op_count(),
              VerdictName(image.progress.verdict));
  if (!image.progress.scratch.empty()) {
    std::printf(" (%zu blocks)", image.progress.scratch.size());
  }
  std::printf("\n");
  if (!image.order_error.empty()) {
    std::printf("  order     cannot be merged: %s\n",
                image.order_error.c_str());
  }
}

absl::Status InspectJson(const CowFile& cow, const Totals& totals) {
  Json json = ToJson(cow, totals);
  if (absl::GetFlag(FLAGS_ops)) {
    Json& ops = json["ops"] = Json::array();
    absl::Status status =
        ForEachOp(cow, [&ops](uint32_t number, const cow::Op& op) {
          ops.push_back(OpToJson(number, op));
          return absl::OkStatus();
        });
    if (!status.ok()) return status;
  }
  // A path need not be UTF-8; JSON must be.
  std::printf("%s\n",
              json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  return absl::OkStatus();
}

}  // namespace

absl::Status CowInspect(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow inspect needs one COW file");
  }
  const absl::StatusOr<CowFile> cow = OpenCowFile(arguments[0]);
  if (!cow.ok()) return cow.status();
  const absl::StatusOr<Totals> totals = CountOps(*cow);
  if (!totals.ok()) return totals.status();
  if (absl::GetFlag(FLAGS_json)) return InspectJson(*cow, *totals);
  PrintText(*cow, *totals);
  if (!absl::GetFlag(FLAGS_ops)) return absl::OkStatus();
  return ForEachOp(*cow, [](uint32_t number, const cow::Op& op) {
    PrintOp(number, op);
    return absl::OkStatus();
  });
}

}  // namespace dmu::tools
