// SPDX-License-Identifier: Apache-2.0
//
// undo_verb.cc - merge undo: flags, summary.
#include <cstdio>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/cow_undo.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/dmuserctl/pause_signal.h"
#include "tools/progress_bar.h"

ABSL_DECLARE_FLAG(std::string, base);
ABSL_DECLARE_FLAG(bool, dry_run);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, quiet);
ABSL_FLAG(std::string, undo_log, "",
          "keep what the merge overwrites in this file (made if there is none) "
          "or on this block device, so that \"merge undo\" can bring the old "
          "image back");

namespace dmu::tools {
namespace {

void PrintJson(const UndoSummary& summary, bool dry_run) {
  nlohmann::ordered_json json;
  json["finished"] = summary.finished;
  json["dry_run"] = dry_run;
  json["merged_ops"] = summary.merged_ops;
  json["total_ops"] = summary.total_ops;
  json["log_bytes"] = summary.log_bytes;
  json["old_bytes"] = summary.old_bytes;
  json["base_bytes"] = summary.base_bytes;
  json["cow_bytes"] = summary.cow_bytes;
  json["flushes"] = summary.flushes;
  json["seconds"] = summary.elapsed_s;
  std::printf("%s\n", json.dump(2).c_str());
}

}  // namespace

absl::Status MergeUndo(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("merge undo needs one COW file");
  }
  UndoOptions options;
  options.cow_path = arguments[0];
  options.base_path = absl::GetFlag(FLAGS_base);
  options.log_path = absl::GetFlag(FLAGS_undo_log);
  if (options.base_path.empty() || options.log_path.empty()) {
    return absl::InvalidArgumentError(
        "merge undo needs --base IMG, what was merged into, and --undo-log "
        "LOG, what the merge has kept");
  }
  options.dry_run = absl::GetFlag(FLAGS_dry_run);
  options.progress = !absl::GetFlag(FLAGS_quiet);
  options.stop = PauseOnSignal();
  const absl::StatusOr<UndoSummary> summary = UndoOffline(options);
  if (!summary.ok()) return summary.status();
  const std::string& base = options.base_path;
  if (absl::GetFlag(FLAGS_json)) {
    PrintJson(*summary, options.dry_run);
  } else if (options.dry_run && !absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s: all %s of the log are good; %llu of %llu ops are merged\n",
                options.log_path.c_str(),
                FormatBytes(summary->log_bytes).c_str(),
                static_cast<unsigned long long>(summary->merged_ops),
                static_cast<unsigned long long>(summary->total_ops));
  } else if (!absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s: %s, %s written in %.1f s\n", base.c_str(),
                summary->finished ? "is the old image again" : "undo paused",
                FormatBytes(summary->base_bytes).c_str(), summary->elapsed_s);
  }
  if (summary->finished || options.dry_run) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat(
      "undo paused, ", summary->merged_ops, " of ", summary->total_ops,
      " ops are still merged; the same command goes on"));
}

}  // namespace dmu::tools
