// SPDX-License-Identifier: Apache-2.0
//
// cow_merge_verb.cc - cow merge: flags, summary.
#include <cstdio>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/cow_merge.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/dmuserctl/pause_signal.h"
#include "tools/progress_bar.h"

ABSL_DECLARE_FLAG(std::string, base);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, quiet);
ABSL_DECLARE_FLAG(std::string, undo_log);
ABSL_FLAG(bool, dry_run, false,
          "change nothing: check all data, say what would be written");

namespace dmu::tools {
namespace {

void PrintJson(const MergeSummary& summary) {
  nlohmann::ordered_json json;
  json["finished"] = summary.finished;
  json["dry_run"] = absl::GetFlag(FLAGS_dry_run);
  json["merged_ops"] = summary.merged_ops;
  json["total_ops"] = summary.total_ops;
  json["base_bytes"] = summary.base_bytes;
  json["cow_bytes"] = summary.scratch_bytes;
  json["undo_bytes"] = summary.undo_bytes;
  json["windows"] = summary.windows;
  json["scratch_windows"] = summary.scratch_windows;
  json["flushes"] = summary.flushes;
  json["seconds"] = summary.elapsed_s;
  std::printf("%s\n", json.dump(2).c_str());
}

void PrintText(const std::string& base, const MergeSummary& summary) {
  const double rate =
      summary.elapsed_s > 0
          ? static_cast<double>(summary.base_bytes) / 1e6 / summary.elapsed_s
          : 0;
  if (absl::GetFlag(FLAGS_dry_run)) {
    std::printf(
        "%s: would write %s to the base and %s to the COW file, in "
        "%llu windows; all data is good\n",
        base.c_str(), FormatBytes(summary.base_bytes).c_str(),
        FormatBytes(summary.scratch_bytes).c_str(),
        static_cast<unsigned long long>(summary.windows));
    return;
  }
  std::printf("%s: %s, %s written in %.1f s (%.0f MB/s)\n", base.c_str(),
              summary.finished ? "is the target image now" : "merge paused",
              FormatBytes(summary.base_bytes).c_str(), summary.elapsed_s, rate);
}

}  // namespace

absl::Status CowMerge(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow merge needs one COW file");
  }
  MergeOptions options;
  options.cow_path = arguments[0];
  options.base_path = absl::GetFlag(FLAGS_base);
  if (options.base_path.empty()) {
    return absl::InvalidArgumentError(
        "no base: add --base IMG, the image to merge into");
  }
  options.dry_run = absl::GetFlag(FLAGS_dry_run);
  options.progress = !absl::GetFlag(FLAGS_quiet);
  options.undo_log_path = absl::GetFlag(FLAGS_undo_log);
  options.stop = PauseOnSignal();
  const absl::StatusOr<MergeSummary> summary = MergeOffline(options);
  if (!summary.ok()) return summary.status();
  if (absl::GetFlag(FLAGS_json)) {
    PrintJson(*summary);
  } else if (!absl::GetFlag(FLAGS_quiet)) {
    PrintText(options.base_path, *summary);
  }
  if (summary->finished) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat(
      "merge paused, ", summary->merged_ops, " of ", summary->total_ops,
      " ops are done; the same command goes on"));
}

}  // namespace dmu::tools
