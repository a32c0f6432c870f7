// SPDX-License-Identifier: Apache-2.0
//
// executor.cc - see executor.h.
#include "tools/ota/executor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dmu::ota {
namespace {

std::string SentenceOf(const absl::Status& status) {
  return std::string(status.message());
}

// The last failure, and what led to it.
absl::Status Explained(const std::vector<std::string>& warnings,
                       const absl::Status& status) {
  if (warnings.empty()) return status;
  return absl::Status(status.code(), absl::StrCat(absl::StrJoin(warnings, "; "),
                                                  "; ", status.message()));
}

}  // namespace

absl::StatusOr<Outcome> RunCommand(World* world, Command command,
                                   const Facts& facts) {
  absl::StatusOr<OtaState> loaded = world->Load();
  if (!loaded.ok()) return loaded.status();
  Outcome outcome;
  outcome.state = *std::move(loaded);
  Plan plan = MakePlan(outcome.state, command, facts);
  if (plan.verdict == Plan::Verdict::kRefused) {
    return absl::OutOfRangeError(plan.sentence);
  }
  // What the images are before the first save says so.
  const bool is_first_stage =
      command == Command::kStage && outcome.state.phase() == OtaState::NONE;
  int failures = 0;
  size_t at = 0;
  while (at < plan.steps.size()) {
    const Step step = plan.steps[at++];
    absl::Status status;
    if (step.kind == Step::Kind::kSave) {
      status = world->Save(step.state);
      if (status.ok()) outcome.state = step.state;
    } else {
      const bool unknown =
          is_first_stage && outcome.state.phase() == OtaState::NONE;
      status = world->Take(step, unknown ? facts.wanted : outcome.state);
    }
    outcome.changed = outcome.changed || status.ok();
    if (status.ok()) continue;
    if (step.may_fail) {
      outcome.warnings.push_back(SentenceOf(status));
      continue;
    }
    Plan other =
        PlanAfterFailure(outcome.state, command, step, SentenceOf(status),
                         absl::IsAborted(status), failures++);
    if (other.verdict == Plan::Verdict::kRefused) {
      return Explained(outcome.warnings, status);
    }
    outcome.warnings.push_back(SentenceOf(status));
    plan = std::move(other);
    at = 0;
  }
  outcome.boot = plan.boot;
  outcome.sentence = plan.sentence;
  return outcome;
}

}  // namespace dmu::ota
