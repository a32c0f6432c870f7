// SPDX-License-Identifier: Apache-2.0
//
// machine.cc - see machine.h. One function per command, one case per phase.
#include "tools/ota/machine.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu::ota {
namespace {

using Kind = Step::Kind;
using Verdict = Plan::Verdict;

constexpr char kNoUpdate[] =
    "there is no update; \"ota stage MANIFEST\" begins one";
constexpr char kNotStaged[] =
    "the update is not staged to its end; give \"ota stage\" again";
constexpr char kBeingCleaned[] =
    "the update is being removed; finish that with \"ota clean\"";

Plan Refused(std::string sentence) {
  Plan plan;
  plan.verdict = Verdict::kRefused;
  plan.sentence = std::move(sentence);
  return plan;
}

Plan Nothing(std::string sentence) {
  Plan plan;
  plan.verdict = Verdict::kNothing;
  plan.sentence = std::move(sentence);
  return plan;
}

// Puts a plan together, step by step.
class Builder {
 public:
  explicit Builder(const OtaState& state) : state_(state), last_(state) {}

  // The step for every image.
  Builder& Each(Kind kind, bool may_fail = false) {
    for (int i = 0; i < state_.image_size(); ++i) {
      Add({.kind = kind, .image = i, .may_fail = may_fail});
    }
    return *this;
  }

  // The step for every image that has a hash tree.
  Builder& EachTree(Kind kind, bool may_fail = false) {
    for (int i = 0; i < state_.image_size(); ++i) {
      if (state_.image(i).has_verity()) {
        Add({.kind = kind, .image = i, .may_fail = may_fail});
      }
    }
    return *this;
  }

  // All devices of the new system: a tree may be in another image.
  Builder& Map() { return Each(Kind::kMap).EachTree(Kind::kMapVerity); }
  Builder& Unmap(bool may_fail = false) {
    return EachTree(Kind::kUnmapVerity, may_fail).Each(Kind::kUnmap, may_fail);
  }

  // Only for images that have an undo log.
  Builder& PrepareUndoLogs() {
    for (int i = 0; i < state_.image_size(); ++i) {
      if (!state_.image(i).undo_log().empty()) {
        Add({.kind = Kind::kPrepareUndoLog, .image = i});
      }
    }
    return *this;
  }

  Builder& Once(Kind kind) { return Add({.kind = kind}); }

  Builder& Save(OtaState state, bool may_fail = false) {
    state.set_version(kStateVersion);
    return Add(
        {.kind = Kind::kSave, .may_fail = may_fail, .state = std::move(state)});
  }

  Builder& Enter(Phase phase, const std::string& reason = "",
                 bool may_fail = false) {
    OtaState next = last_;
    next.set_phase(phase);
    next.set_reason(reason);
    next.clear_boot_id();
    // How many boots were tried says something of these.
    if (phase != OtaState::TRIAL && phase != OtaState::REJECTED) {
      next.clear_boots();
    }
    // Not the log that made one want to go forward again.
    if (phase == OtaState::MERGING && last_.phase() == OtaState::UNDOING) {
      next.set_forward_only(true);
    }
    return Save(std::move(next), may_fail);
  }

  Plan Done(Boot boot = Boot::kPlain, std::string sentence = "") {
    plan_.boot = boot;
    plan_.sentence = std::move(sentence);
    return std::move(plan_);
  }

 private:
  Builder& Add(Step step) {
    plan_.steps.push_back(std::move(step));
    return *this;
  }

  const OtaState& state_;
  OtaState last_;  // as the steps so far leave it
  Plan plan_;
};

Plan PlanStage(const OtaState& state, const OtaState& wanted) {
  const bool same = state.manifest_sha256() == wanted.manifest_sha256();
  switch (state.phase()) {
    case OtaState::NONE:
      return Builder(wanted)
          .Each(Kind::kCheckSource)
          .Once(Kind::kCheckSpace)
          .Save(wanted)
          .Each(Kind::kPlace)
          .Each(Kind::kVerify)
          .EachTree(Kind::kCheckTree)
          .Enter(OtaState::STAGED)
          .Done();
    case OtaState::STAGING:
      if (!same) break;
      return Builder(wanted)
          .Each(Kind::kCheckSource)
          .Once(Kind::kCheckSpace)
          .Each(Kind::kPlace)
          .Each(Kind::kVerify)
          .EachTree(Kind::kCheckTree)
          .Enter(OtaState::STAGED)
          .Done();
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    default:
      if (same) return Nothing("this update is staged already");
      break;
  }
  return Refused(absl::StrCat(
      "another update, ", state.update(), ", is ", PhaseName(state.phase()),
      state.phase() == OtaState::STAGING || state.phase() == OtaState::STAGED ||
              state.phase() == OtaState::MERGED ||
              state.phase() == OtaState::REJECTED
          ? "; remove it first with \"ota clean\""
          : "; finish it with \"ota merge\", or give it up with \"ota "
            "rollback\" or \"ota undo\""));
}

Plan PlanActivate(const OtaState& state) {
  switch (state.phase()) {
    case OtaState::NONE:
      return Refused(kNoUpdate);
    case OtaState::STAGING:
      return Refused(kNotStaged);
    case OtaState::STAGED:
    case OtaState::REJECTED: {
      OtaState next = state;
      next.clear_boots();
      return Builder(next)
          .Each(Kind::kCheckBase)
          .Enter(OtaState::TRIAL)
          .Done(Boot::kPlain, "the next boot tries the new system");
    }
    case OtaState::UNDOING:
      return Refused(
          "the update is being undone; reboot, or finish that with \"ota "
          "undo\", first");
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    default:
      return Nothing("the update is active already");
  }
}

Plan PlanTrialBoot(const OtaState& state, const Facts& facts) {
  OtaState mapped = state;
  mapped.set_boot_id(facts.boot_id);
  if (state.boot_id() == facts.boot_id) {
    // Counted, and mapped, before in this very boot.
    return Builder(state).Map().Done(Boot::kMapped);
  }
  if (state.boots() >= state.boots_max()) {
    const std::string reason =
        absl::StrCat("not blessed within ", state.boots_max(), " boots");
    return Builder(state)
        .Enter(OtaState::REJECTED, reason, /*may_fail=*/true)
        .Unmap()
        .Done(Boot::kPlain, absl::StrCat("the update is given up: ", reason));
  }
  OtaState counted = state;
  counted.set_boots(state.boots() + 1);
  counted.clear_boot_id();
  mapped.set_boots(counted.boots());
  return Builder(state).Save(counted).Map().Save(mapped).Done(Boot::kMapped);
}

Plan PlanBoot(const OtaState& state, const Facts& facts) {
  switch (state.phase()) {
    case OtaState::TRIAL:
      return PlanTrialBoot(state, facts);
    case OtaState::GOOD:
    case OtaState::MERGING:
      return Builder(state).Map().Done(Boot::kMapped);
    case OtaState::UNDOING:
      return Builder(state)
          .Each(Kind::kUndo)
          .Enter(OtaState::REJECTED, "undone", /*may_fail=*/true)
          .Done();
    default:
      return facts.is_mapped ? Builder(state).Unmap().Done() : Nothing("");
  }
}

Plan PlanBless(const OtaState& state, const Facts& facts) {
  switch (state.phase()) {
    case OtaState::NONE:
      return Refused(kNoUpdate);
    case OtaState::STAGING:
      return Refused(kNotStaged);
    case OtaState::STAGED:
      if (facts.untried) {
        return Builder(state)
            .Each(Kind::kCheckBase)
            .Enter(OtaState::GOOD)
            .Done();
      }
      return Refused(
          "the new system was not tried; \"ota activate\" has the next boot "
          "try it, --untried trusts it without");
    case OtaState::TRIAL:
      if (facts.untried) return Builder(state).Enter(OtaState::GOOD).Done();
      if (!facts.boot_id.empty() && state.boot_id() == facts.boot_id) {
        // The boot id alone says that they were mapped once.
        return Builder(state)
            .Each(Kind::kCheckMapped)
            .EachTree(Kind::kCheckVerified)
            .Enter(OtaState::GOOD)
            .Done();
      }
      return Refused(
          "what runs now is not the new system; reboot into it, then bless it");
    case OtaState::UNDOING:
      return Refused("the update is being undone; there is nothing to bless");
    case OtaState::REJECTED:
      return Refused(
          absl::StrCat("the update was given up (", state.reason(),
                       "); \"ota activate\" has the next boot try it again"));
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    default:
      return Nothing("the new system is blessed already");
  }
}

// Devices are finished when the phase says that nothing needs them any more:
// before, an undo or the rest of a merge could want them served. One that
// cannot be finished is served until the next boot, which is plain.
Plan PlanMerge(const OtaState& state) {
  switch (state.phase()) {
    case OtaState::GOOD:
      return Builder(state)
          .Each(Kind::kCheckMergeable)
          .PrepareUndoLogs()
          .Enter(OtaState::MERGING)
          .Each(Kind::kMerge)
          .Enter(OtaState::MERGED)
          .Each(Kind::kFinish, /*may_fail=*/true)
          .Done();
    case OtaState::MERGING:
      return Builder(state)
          .Each(Kind::kMerge)
          .Enter(OtaState::MERGED)
          .Each(Kind::kFinish, /*may_fail=*/true)
          .Done();
    case OtaState::MERGED:
      return Nothing("the update is merged already");
    case OtaState::UNDOING:
      // A change of mind, and the way out when a log is damaged; for good.
      return Builder(state)
          .Each(Kind::kCheckMergeable)
          .Enter(OtaState::MERGING)
          .Each(Kind::kMerge)
          .Enter(OtaState::MERGED)
          .Each(Kind::kFinish, /*may_fail=*/true)
          .Done();
    case OtaState::NONE:
      return Refused(kNoUpdate);
    case OtaState::STAGING:
      return Refused(kNotStaged);
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    default:
      return Refused(
          absl::StrCat("the update is ", PhaseName(state.phase()),
                       "; only one that was blessed is merged: \"ota bless\""));
  }
}

Plan PlanRollback(const OtaState& state) {
  switch (state.phase()) {
    case OtaState::NONE:
      return Refused(kNoUpdate);
    case OtaState::TRIAL:
    case OtaState::GOOD:
      return Builder(state)
          .Enter(OtaState::REJECTED, "rolled back")
          .Done(Boot::kPlain, "the next boot is of the old system");
    case OtaState::MERGING:
    case OtaState::MERGED:
      return Refused(
          HasUndoLogs(state)
              ? "the merge has begun; \"ota undo\" takes it back"
              : "the merge has begun, and no undo log is kept: the old system "
                "is gone, go on with \"ota merge\"");
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    default:
      return Nothing("the next boot is of the old system already");
  }
}

Plan PlanUndo(const OtaState& state) {
  Builder builder(state);
  switch (state.phase()) {
    case OtaState::MERGING:
    case OtaState::MERGED:
      if (!HasUndoLogs(state)) {
        return Refused(
            state.forward_only()
                ? "the undo was given up; go on with \"ota merge\""
                : "no undo log is kept: the manifest names none, so the old "
                  "system cannot be brought back");
      }
      builder.Enter(OtaState::UNDOING);
      break;
    case OtaState::UNDOING:
      break;
    case OtaState::REJECTED:
      return Nothing("the bases are the old system already");
    case OtaState::TRIAL:
    case OtaState::GOOD:
      return Refused("no merge has begun; \"ota rollback\" is enough");
    case OtaState::CLEANING:
      return Refused(kBeingCleaned);
    case OtaState::NONE:
      return Refused(kNoUpdate);
    default:
      return Refused("no merge has begun; there is nothing to undo");
  }
  // All of them or none: a system is not to see some old and some new.
  return builder.Each(Kind::kPauseMerge, /*may_fail=*/true)
      .Each(Kind::kCheckUnused)
      .Each(Kind::kUndo)
      .Enter(OtaState::REJECTED, "undone")
      .Done();
}

Plan PlanClean(const OtaState& state) {
  Builder builder(state);
  switch (state.phase()) {
    case OtaState::NONE:
      return Nothing("there is no update");
    case OtaState::STAGING:
    case OtaState::STAGED:
    case OtaState::MERGED:
    case OtaState::REJECTED:
      builder.Each(Kind::kCheckIdle).Enter(OtaState::CLEANING);
      break;
    case OtaState::CLEANING:
      break;
    case OtaState::MERGING:
    case OtaState::UNDOING:
      return Refused(absl::StrCat(
          "the update is ", PhaseName(state.phase()),
          ": neither system is whole without its COW files; finish it with "
          "\"ota merge\" or \"ota undo\""));
    default:
      return Refused(
          "the update is active; \"ota rollback\" or \"ota merge\" comes "
          "before \"ota clean\"");
  }
  return builder.Each(Kind::kRemove).Save(OtaState()).Done();
}

// Given up first: what cannot be unmapped ends this boot, and the next one is
// to know.
Plan BackToOld(const OtaState& state, const std::string& why) {
  return Builder(state)
      .Enter(OtaState::REJECTED, why, /*may_fail=*/true)
      .Unmap()
      .Done(
          Boot::kPlain,
          absl::StrCat("the update is given up, the old system boots: ", why));
}

Plan MergeBeforeBoot(const OtaState& state, const std::string& why) {
  Builder builder(state);
  // What is served still is merged by the daemon.
  builder.Unmap(/*may_fail=*/true);
  if (state.phase() != OtaState::MERGING) builder.Enter(OtaState::MERGING);
  return builder.Each(Kind::kMerge)
      .Enter(OtaState::MERGED, "", /*may_fail=*/true)
      .Unmap()
      .Done(Boot::kPlain,
            absl::StrCat("merged before the boot instead: ", why));
}

bool IsMap(const Step& step) {
  return step.kind == Kind::kMap || step.kind == Kind::kMapVerity;
}

bool IsUnmap(const Step& step) {
  return step.kind == Kind::kUnmap || step.kind == Kind::kUnmapVerity;
}

// Before the merge the old system is always there; then whatever of map, merge
// and undo works makes one of the two whole. But no base is mounted that is
// served, too: another boot it is, in which nothing is mapped at first.
Plan AfterBootFailure(const OtaState& state, const Step& failed,
                      const std::string& why, int earlier_failures) {
  if (IsUnmap(failed)) return Refused("");
  switch (state.phase()) {
    case OtaState::TRIAL:
      if (failed.kind == Kind::kSave && failed.state.boot_id().empty()) {
        return Builder(state).Unmap().Done(
            Boot::kPlain,
            absl::StrCat("the boot cannot be counted, the old system boots: ",
                         why));
      }
      return BackToOld(state, why);
    case OtaState::GOOD:
      return BackToOld(state, why);
    case OtaState::MERGING:
      if (IsMap(failed)) return MergeBeforeBoot(state, why);
      if (failed.kind == Kind::kMerge && HasUndoLogs(state) &&
          earlier_failures > 0) {
        return Builder(state)
            .Enter(OtaState::UNDOING)
            .Each(Kind::kUndo)
            .Enter(OtaState::REJECTED, why, /*may_fail=*/true)
            .Done(Boot::kPlain, absl::StrCat("undone before the boot: ", why));
      }
      return Refused("");
    case OtaState::UNDOING:
      if (failed.kind == Kind::kUndo) {
        return Builder(state).Map().Done(
            Boot::kMapped,
            absl::StrCat("the undo failed, the new system boots: ", why));
      }
      if (IsMap(failed)) return MergeBeforeBoot(state, why);
      return Refused("");
    default:
      return Refused("");
  }
}

}  // namespace

Plan MakePlan(const OtaState& state, Command command, const Facts& facts) {
  switch (command) {
    case Command::kStage:
      return PlanStage(state, facts.wanted);
    case Command::kActivate:
      return PlanActivate(state);
    case Command::kBoot:
      return PlanBoot(state, facts);
    case Command::kBless:
      return PlanBless(state, facts);
    case Command::kMerge:
      return PlanMerge(state);
    case Command::kRollback:
      return PlanRollback(state);
    case Command::kUndo:
      return PlanUndo(state);
    case Command::kClean:
      return PlanClean(state);
  }
  return Refused("");
}

Plan PlanAfterFailure(const OtaState& state, Command command,
                      const Step& failed, const std::string& why, bool busy,
                      int earlier_failures) {
  if (earlier_failures >= kFallbacksMax) return Refused("");
  if (command == Command::kBoot) {
    return AfterBootFailure(state, failed, why, earlier_failures);
  }
  if (command == Command::kUndo && state.phase() == OtaState::UNDOING && busy) {
    Plan plan;
    plan.sentence = absl::StrCat(
        "the next boot undoes the update before it goes on: ", why);
    return plan;
  }
  return Refused("");
}

std::string DeviceName(const OtaImage& image) {
  return image.has_verity() ? absl::StrCat(image.name(), "-verity")
                            : image.name();
}

bool HasUndoLogs(const OtaState& state) {
  if (state.forward_only()) return false;
  for (const OtaImage& image : state.image()) {
    if (image.undo_log().empty()) return false;
  }
  return state.image_size() > 0;
}

std::string PhaseName(Phase phase) {
  std::string name = OtaState::Phase_Name(phase);
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return name;
}

std::string CommandName(Command command) {
  switch (command) {
    case Command::kStage:
      return "stage";
    case Command::kActivate:
      return "activate";
    case Command::kBoot:
      return "boot";
    case Command::kBless:
      return "bless";
    case Command::kMerge:
      return "merge";
    case Command::kRollback:
      return "rollback";
    case Command::kUndo:
      return "undo";
    case Command::kClean:
      return "clean";
  }
  return "";
}

std::string StepName(Step::Kind kind) {
  switch (kind) {
    case Kind::kSave:
      return "save";
    case Kind::kCheckSource:
      return "check-source";
    case Kind::kCheckSpace:
      return "check-space";
    case Kind::kPlace:
      return "place";
    case Kind::kVerify:
      return "verify";
    case Kind::kCheckTree:
      return "check-tree";
    case Kind::kCheckBase:
      return "check-base";
    case Kind::kCheckMapped:
      return "check-mapped";
    case Kind::kCheckVerified:
      return "check-verified";
    case Kind::kCheckMergeable:
      return "check-mergeable";
    case Kind::kCheckIdle:
      return "check-idle";
    case Kind::kCheckUnused:
      return "check-unused";
    case Kind::kPrepareUndoLog:
      return "prepare-undo-log";
    case Kind::kMerge:
      return "merge";
    case Kind::kFinish:
      return "finish";
    case Kind::kPauseMerge:
      return "pause-merge";
    case Kind::kUndo:
      return "undo";
    case Kind::kMap:
      return "map";
    case Kind::kMapVerity:
      return "map-verity";
    case Kind::kUnmapVerity:
      return "unmap-verity";
    case Kind::kUnmap:
      return "unmap";
    case Kind::kRemove:
      return "remove";
  }
  return "";
}

}  // namespace dmu::ota
