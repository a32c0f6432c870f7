// SPDX-License-Identifier: Apache-2.0
//
// verify_verb.cc - cow verify: flags in, findings out.
#include <cstdio>
#include <string>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/cow_verify.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/file_io.h"
#include "tools/parallel.h"

ABSL_DECLARE_FLAG(std::string, base);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, quiet);

namespace dmu::tools {
namespace {

using Json = nlohmann::ordered_json;

void PrintJson(const VerifyReport& report) {
  Json json;
  json["verdict"] = VerdictName(report.verdict);
  json["finding_count"] = report.finding_count;
  Json& findings = json["findings"] = Json::array();
  for (const Finding& finding : report.findings) {
    Json entry = {{"kind", finding.kind}, {"message", finding.message}};
    if (finding.op >= 0) entry["op"] = finding.op;
    if (finding.block >= 0) entry["block"] = finding.block;
    if (finding.offset >= 0) entry["offset"] = finding.offset;
    findings.push_back(entry);
  }
  json["warnings"] = report.warnings;
  json["checked"] = {
      {"ops", report.ops},           {"units", report.units},
      {"bytes", report.unit_bytes},  {"has_checks", report.has_checks},
      {"base", report.base_checked}, {"target", report.target_checked}};
  std::printf("%s\n",
              json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

void PrintText(const std::string& path, const VerifyReport& report) {
  for (const Finding& finding : report.findings) {
    std::printf("%s: %s\n", finding.kind.c_str(), finding.message.c_str());
  }
  if (report.finding_count > report.findings.size()) {
    std::printf("and %llu more\n",
                static_cast<unsigned long long>(report.finding_count -
                                                report.findings.size()));
  }
  for (const std::string& warning : report.warnings) {
    std::printf("note: %s\n", warning.c_str());
  }
  std::printf("%s: %s; %llu ops, %llu units%s%s\n", path.c_str(),
              VerdictName(report.verdict),
              static_cast<unsigned long long>(report.ops),
              static_cast<unsigned long long>(report.units),
              report.base_checked ? ", the base" : "",
              report.target_checked ? " and the whole target" : "");
}

}  // namespace

absl::Status CowVerify(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow verify needs one COW file");
  }
  absl::StatusOr<File> file = File::OpenForRead(arguments[0]);
  if (!file.ok()) return file.status();
  VerifyOptions options;
  options.threads = DefaultThreads();
  options.progress = !absl::GetFlag(FLAGS_quiet);
  absl::StatusOr<File> base;
  if (const std::string path = absl::GetFlag(FLAGS_base); !path.empty()) {
    base = File::OpenForRead(path);
    if (!base.ok()) return base.status();
    options.base = &*base;
  }
  const absl::StatusOr<VerifyReport> report = VerifyCow(*file, options);
  if (!report.ok()) return report.status();
  if (absl::GetFlag(FLAGS_json)) {
    PrintJson(*report);
  } else if (!absl::GetFlag(FLAGS_quiet)) {
    PrintText(arguments[0], *report);
  }
  switch (report->verdict) {
    case Verdict::kGood:
      break;
    case Verdict::kCorrupt:
      return absl::DataLossError(absl::StrCat(
          arguments[0], " is corrupt: ", report->findings[0].message));
    case Verdict::kWrongBase:
      return absl::FailedPreconditionError(
          absl::StrCat("wrong base: ", report->findings[0].message));
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
