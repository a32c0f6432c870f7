// SPDX-License-Identifier: Apache-2.0
//
// cow_verbs.cc - create and extract: flags in, summary out. Also the flags that
// verbs of several files share.
#include "tools/dmuserctl/cow_verbs.h"

#include <cstdio>
#include <optional>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tools/cow_convert.h"
#include "tools/cow_create.h"
#include "tools/cow_extract.h"
#include "tools/file_io.h"
#include "tools/parallel.h"
#include "tools/progress_bar.h"

ABSL_DECLARE_FLAG(bool, json);

ABSL_FLAG(std::string, o, "", "output file");
ABSL_FLAG(std::string, base, "", "base image: file or block device");
ABSL_FLAG(bool, force, false, "replace the output file if it exists");
ABSL_FLAG(bool, quiet, false, "print nothing but errors, draw no progress bar");
ABSL_FLAG(std::string, compression, "zstd",
          "none, gz[,1-9], brotli[,0-11], lz4 or zstd[,LEVEL]");
ABSL_FLAG(uint32_t, unit, 16,
          "KiB that are compressed together, a power of two from 4 to 256; "
          "larger is smaller on disk and slower to read in small pieces; "
          "version 2 has 4");
ABSL_FLAG(uint32_t, version, 3,
          "COW version: 3 (Android 15 and later), or 2 (12 and later; with xor "
          "ops 13, with lz4 14)");
ABSL_FLAG(uint32_t, cluster_ops, 1024,
          "version 2: ops that stand together, 0 or at least 2");
ABSL_FLAG(bool, no_extension, false,
          "leave out checks, sizes and digests, which Android does not read");

ABSL_FLAG(std::string, source, "",
          "the untouched old image, when the base is not or no longer that");
ABSL_FLAG(std::string, label, "",
          "read the file as it was when this label was written");
ABSL_FLAG(std::string, range, "",
          "FIRST_SECTOR,SECTORS: only this part of the image, in sectors of "
          "512 bytes");

namespace dmu::tools {
namespace {

absl::Status ParseRange(const std::string& text, ExtractOptions* options) {
  if (text.empty()) return absl::OkStatus();
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  if (parts.size() != 2 ||
      !absl::SimpleAtoi(parts[0], &options->first_sector) ||
      !absl::SimpleAtoi(parts[1], &options->sectors) || options->sectors == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--range ", text, ": expected FIRST_SECTOR,SECTORS, two numbers"));
  }
  return absl::OkStatus();
}

absl::Status NeedOutput() {
  if (!absl::GetFlag(FLAGS_o).empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("no output file: add -o FILE");
}

void PrintShare(const char* what, uint64_t blocks, uint64_t all_blocks) {
  std::printf(
      "  %-9s %10llu blocks  %5.1f %%\n", what,
      static_cast<unsigned long long>(blocks),
      100.0 * static_cast<double>(blocks) / static_cast<double>(all_blocks));
}

void PrintSummary(const std::string& path, const CreateSummary& summary) {
  const uint64_t blocks = summary.new_bytes / kBlockBytes;
  std::printf("%s: %s, %.1f %% of the new image\n", path.c_str(),
              FormatBytes(summary.cow_bytes).c_str(),
              100.0 * static_cast<double>(summary.cow_bytes) /
                  static_cast<double>(summary.new_bytes));
  PrintShare("unchanged", summary.same_blocks, blocks);
  PrintShare("copied", summary.copy_blocks, blocks);
  PrintShare("xor", summary.xor_blocks, blocks);
  PrintShare("zero", summary.zero_blocks, blocks);
  PrintShare("replaced", summary.replace_blocks, blocks);
}

}  // namespace

absl::Status ParseLabelFlag(std::optional<uint64_t>* label) {
  const std::string text = absl::GetFlag(FLAGS_label);
  if (text.empty()) return absl::OkStatus();
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--label ", text, ": expected a number"));
  }
  *label = number;
  return absl::OkStatus();
}

// How the file is to be; also for convert.
absl::Status TakeCreateFlags(WriteFormat* options) {
  const absl::StatusOr<cow::CompressionSpec> compression =
      cow::ParseCompression(absl::GetFlag(FLAGS_compression));
  if (!compression.ok()) return compression.status();
  options->compression = *compression;
  const uint32_t unit_kib = absl::GetFlag(FLAGS_unit);
  if (unit_kib < 4 || unit_kib > 256 || (unit_kib & (unit_kib - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--unit ", unit_kib, ": expected 4, 8, 16, 32, 64, 128 or 256 KiB"));
  }
  options->max_unit_bytes = unit_kib * 1024;
  const uint32_t version = absl::GetFlag(FLAGS_version);
  if (version != 2 && version != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("--version ", version, ": expected 2 or 3"));
  }
  options->version = static_cast<uint16_t>(version);
  options->cluster_ops = absl::GetFlag(FLAGS_cluster_ops);
  if (options->cluster_ops == 1) {
    return absl::InvalidArgumentError(
        "--cluster-ops 1: a cluster of one op has no room; expected 0 (none) "
        "or 2 and more");
  }
  options->extension = !absl::GetFlag(FLAGS_no_extension);
  options->threads = DefaultThreads();
  options->progress = !absl::GetFlag(FLAGS_quiet);
  return absl::OkStatus();
}

absl::Status CowCreate(const std::vector<std::string>& arguments) {
  if (arguments.size() != 2) {
    return absl::InvalidArgumentError(
        "cow create needs two images: the old one and the new one");
  }
  if (absl::Status status = NeedOutput(); !status.ok()) return status;
  CreateOptions options;
  absl::Status status = TakeCreateFlags(&options);
  if (!status.ok()) return status;
  options.old_path = arguments[0];
  options.new_path = arguments[1];
  options.output_path = absl::GetFlag(FLAGS_o);
  options.force = absl::GetFlag(FLAGS_force);
  options.progress = !absl::GetFlag(FLAGS_quiet);
  RemoveTemporariesOnSignal();
  const absl::StatusOr<CreateSummary> summary = CreateCow(options);
  if (!summary.ok()) return summary.status();
  if (!absl::GetFlag(FLAGS_quiet)) PrintSummary(options.output_path, *summary);
  return absl::OkStatus();
}

absl::Status CowConvert(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow convert needs one COW file");
  }
  if (absl::Status status = NeedOutput(); !status.ok()) return status;
  ConvertOptions options;
  absl::Status status = TakeCreateFlags(&options);
  if (!status.ok()) return status;
  options.input_path = arguments[0];
  options.output_path = absl::GetFlag(FLAGS_o);
  options.force = absl::GetFlag(FLAGS_force);
  RemoveTemporariesOnSignal();
  const absl::StatusOr<CreateSummary> summary = ConvertCow(options);
  if (!summary.ok()) return summary.status();
  if (!absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s: %s, %llu ops\n", options.output_path.c_str(),
                FormatBytes(summary->cow_bytes).c_str(),
                static_cast<unsigned long long>(summary->op_count));
  }
  return absl::OkStatus();
}

absl::Status CowEstimate(const std::vector<std::string>& arguments) {
  if (arguments.size() != 2) {
    return absl::InvalidArgumentError(
        "cow estimate needs two images: the old one and the new one");
  }
  CreateOptions options;
  absl::Status status = TakeCreateFlags(&options);
  if (!status.ok()) return status;
  options.old_path = arguments[0];
  options.new_path = arguments[1];
  options.estimate = true;
  options.progress = !absl::GetFlag(FLAGS_quiet);
  const absl::StatusOr<CreateSummary> summary = CreateCow(options);
  if (!summary.ok()) return summary.status();
  if (!absl::GetFlag(FLAGS_json)) {
    PrintSummary("estimate", *summary);
    std::printf("  %-9s %10llu, room for %llu\n", "ops",
                static_cast<unsigned long long>(summary->op_count),
                static_cast<unsigned long long>(summary->op_count_max));
    return absl::OkStatus();
  }
  nlohmann::ordered_json json;
  json["cow_bytes"] = summary->cow_bytes;
  json["op_count"] = summary->op_count;
  json["op_count_max"] = summary->op_count_max;
  json["base_bytes"] = summary->old_bytes;
  json["target_bytes"] = summary->new_bytes;
  json["unchanged_blocks"] = summary->same_blocks;
  json["copy_blocks"] = summary->copy_blocks;
  json["xor_blocks"] = summary->xor_blocks;
  json["zero_blocks"] = summary->zero_blocks;
  json["replace_blocks"] = summary->replace_blocks;
  std::printf("%s\n", json.dump(2).c_str());
  return absl::OkStatus();
}

absl::Status CowExtract(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow extract needs one COW file");
  }
  if (absl::GetFlag(FLAGS_base).empty()) {
    return absl::InvalidArgumentError(
        "no base: add --base IMG, the image the COW file was made from");
  }
  if (absl::Status status = NeedOutput(); !status.ok()) return status;
  ExtractOptions options;
  options.cow_path = arguments[0];
  options.base_path = absl::GetFlag(FLAGS_base);
  options.output_path = absl::GetFlag(FLAGS_o);
  options.source_path = absl::GetFlag(FLAGS_source);
  options.force = absl::GetFlag(FLAGS_force);
  options.progress = !absl::GetFlag(FLAGS_quiet);
  absl::Status status = ParseLabelFlag(&options.label);
  if (status.ok()) status = ParseRange(absl::GetFlag(FLAGS_range), &options);
  if (!status.ok()) return status;
  RemoveTemporariesOnSignal();
  const absl::StatusOr<uint64_t> bytes = ExtractTarget(options);
  if (!bytes.ok()) return bytes.status();
  if (!absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s: %s\n", options.output_path.c_str(),
                FormatBytes(*bytes).c_str());
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
