// SPDX-License-Identifier: Apache-2.0
//
// verify_log.h - the findings of a verification, from several threads: counted,
// and the first ones of them kept.
#ifndef TOOLS_VERIFY_LOG_H_
#define TOOLS_VERIFY_LOG_H_

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "tools/cow_verify.h"

namespace dmu::tools {

class VerifyLog {
 public:
  explicit VerifyLog(VerifyReport* report) : report_(report) {}

  void Add(Verdict verdict, Finding finding) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++report_->finding_count;
    // Damage says more than that the base does not fit.
    if (report_->verdict != Verdict::kCorrupt) report_->verdict = verdict;
    findings_.push_back(std::move(finding));
    if (findings_.size() >= 2 * VerifyReport::kFindingsMax) Cut();
  }

  // Hands over what was kept, in order.
  void Finish() {
    Cut();
    report_->findings = std::move(findings_);
  }

 private:
  void Cut() {
    std::stable_sort(
        findings_.begin(), findings_.end(),
        [](const Finding& a, const Finding& b) { return Rank(a) < Rank(b); });
    if (findings_.size() > VerifyReport::kFindingsMax) {
      findings_.resize(VerifyReport::kFindingsMax);
    }
  }

  // As they were looked for: structure, tables, units, base, target.
  static std::pair<int, int64_t> Rank(const Finding& finding) {
    if (finding.kind == "unit") return {1, finding.op};
    if (finding.kind == "base") return {2, finding.block};
    if (finding.kind == "target") return {3, finding.block};
    return {0, 0};
  }

  VerifyReport* const report_;
  std::mutex mutex_;  // guards the report's counters and what follows
  std::vector<Finding> findings_;
};

}  // namespace dmu::tools

#endif  // TOOLS_VERIFY_LOG_H_
