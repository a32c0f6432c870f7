// SPDX-License-Identifier: Apache-2.0
//
// Goal: after any command, cut by a power failure before any of its effects, or
// with any part of the machine failing, the next boot gives the old or the new
// system whole, the same command given again goes on, and there is a way out.
// Method: every state of the model that can be reached at all is visited; in
// each, every command is tried with every fault, cut before every effect.
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test/ota_model.h"
#include "tools/ota/executor.h"
#include "tools/ota/machine.h"

namespace dmu::test {
namespace {

using ota::Boot;
using ota::Command;
using ota::OtaState;
using Faults = ModelWorld::Faults;
using Runs = Model::Runs;
using System = Model::System;

constexpr Command kOrders[] = {
    Command::kStage,    Command::kActivate, Command::kBless, Command::kMerge,
    Command::kRollback, Command::kUndo,     Command::kClean,
};

std::string Describe(const Faults& faults) {
  return absl::StrCat(
      faults.save != SaveFault::kNone ? " save" : "", faults.map ? " map" : "",
      faults.map_lies ? " map-lies" : "", faults.verity ? " verity" : "",
      faults.merge ? " merge" : "", faults.undo ? " undo" : "",
      faults.other ? " other" : "", " cut ", faults.cut_before);
}

struct Order {
  Command command = Command::kBoot;
  bool untried = false;
};

std::string Describe(const Order& order) {
  return absl::StrCat(ota::CommandName(order.command),
                      order.untried ? " --untried" : "");
}

// A way from a state to another, for what must be reachable.
class Graph {
 public:
  void Add(const std::string& from, const std::string& to) {
    back_[to].push_back(from);
  }
  // All from which one of `goals` can be reached.
  std::set<std::string> CanReach(const std::set<std::string>& goals) const {
    std::set<std::string> seen = goals;
    std::deque<std::string> queue(goals.begin(), goals.end());
    while (!queue.empty()) {
      const auto at = back_.find(queue.front());
      queue.pop_front();
      if (at == back_.end()) continue;
      for (const std::string& from : at->second) {
        if (seen.insert(from).second) queue.push_back(from);
      }
    }
    return seen;
  }

 private:
  std::map<std::string, std::vector<std::string>> back_;
};

class OtaMachineTest : public testing::TestWithParam<bool> {
 protected:
  struct Result {
    absl::StatusOr<ota::Outcome> outcome;
    Model model;
    int effects = 0;
    bool is_cut = false;
  };

  bool undo_logs() const { return GetParam(); }

  Result Run(const Model& from, const Order& order, const Faults& faults) {
    Model model = from;
    ModelWorld world(&model, faults);
    ota::Facts facts = ModelFacts(model, undo_logs());
    facts.untried = order.untried;
    Result result = {ota::RunCommand(&world, order.command, facts), {}, 0};
    ++runs_;
    result.effects = world.effects();
    result.is_cut = world.is_cut();
    if (order.command == Command::kBoot && result.outcome.ok() &&
        !result.is_cut) {
      model.runs =
          result.outcome->boot == Boot::kMapped ? Runs::kMapped : Runs::kPlain;
    }
    result.model = model;
    for (const std::string& breach : world.breaches()) {
      Fail(from, order, faults, breach);
    }
    if (const std::string breach = model.Breach(); !breach.empty()) {
      Fail(from, order, faults, breach);
    }
    return result;
  }

  void Fail(const Model& from, const Order& order, const Faults& faults,
            const std::string& what) {
    if (++failures_ > 20) return;
    ADD_FAILURE() << what << ": " << Describe(order) << Describe(faults)
                  << " from " << ota::PhaseName(from.state.phase()) << " ("
                  << from.Key() << ")";
  }

  // What comes up; kNone when nothing whole does.
  System BootsInto(const Model& from, const Faults& faults) {
    Model model = from;
    model.PowerOff(Runs::kInitramfs);
    const Result result = Run(model, {Command::kBoot}, faults);
    if (!result.outcome.ok()) return System::kNone;
    if (result.model.runs == Runs::kPlain) return result.model.OnBases();
    return result.model.AllMapped() ? System::kNew : System::kNone;
  }

  // Rule 1, with and without what a boot can do without.
  void CheckBoots(const Model& model) {
    const Order boot = {Command::kBoot};
    const bool has_begun = model.state.phase() == OtaState::MERGING ||
                           model.state.phase() == OtaState::UNDOING;
    for (int bits = 0; bits < 16; ++bits) {
      for (const SaveFault save : kSaveFaults) {
        const Faults faults = {.save = save,
                               .map = (bits & 1) != 0,
                               .verity = (bits & 8) != 0,
                               .merge = (bits & 2) != 0,
                               .undo = (bits & 4) != 0};
        const System got = BootsInto(model, faults);
        if (got != System::kNone) continue;
        // Once bases are in between, one of the ways must work.
        const bool can_go_back = ota::HasUndoLogs(model.state) &&
                                 !faults.undo && save == SaveFault::kNone;
        if (!has_begun || (!faults.map && !faults.verity) ||
            (!faults.merge && !faults.undo) || can_go_back) {
          Fail(model, boot, faults, "nothing whole boots");
        }
      }
    }
  }

  void Visit(const Model& model) {
    if (!seen_.insert(model.Key()).second) return;
    queue_.push_back(model);
    models_.emplace(model.Key(), model);
  }

  void Link(const Model& from, const Model& to) {
    graph_.Add(from.Key(), to.Key());
    Visit(to);
  }

  static std::vector<Faults> FaultsFor(const Order& order) {
    std::vector<Faults> all;
    for (const SaveFault save : kSaveFaults) {
      if (order.command != Command::kBoot) {
        all.push_back({.save = save});
        continue;
      }
      for (int bits = 0; bits < 8; ++bits) {
        all.push_back({.save = save,
                       .map = (bits & 1) != 0,
                       .merge = (bits & 2) != 0,
                       .undo = (bits & 4) != 0});
      }
    }
    all.push_back({.verity = true});
    all.push_back({.merge = true});
    all.push_back({.undo = true});
    all.push_back({.other = true});
    all.push_back({.map = true, .other = true});
    if (order.command != Command::kBoot) return all;
    // What was mapped cannot be unmapped either.
    for (const SaveFault save : kSaveFaults) {
      for (int bits = 0; bits < 8; ++bits) {
        all.push_back({.save = save,
                       .map_lies = (bits & 1) != 0,
                       .verity = (bits & 1) == 0,
                       .merge = (bits & 2) != 0,
                       .undo = (bits & 4) != 0,
                       .other = true});
      }
    }
    return all;
  }

  static Model Off(const Model& model, Runs into) {
    Model off = model;
    off.PowerOff(into);
    return off;
  }

  void TryOrder(const Model& from, const Order& order) {
    const Result whole = Run(from, order, {});
    const bool changes = whole.model.Key() != from.Key();
    Link(from, whole.model);
    if (whole.outcome.ok()) {
      // Given again, it has nothing to do and is not refused.
      const Result again = Run(whole.model, order, {});
      if (!again.outcome.ok() || again.model.Key() != whole.model.Key()) {
        Fail(from, order, {}, "is not the same when given again");
      }
    } else {
      EXPECT_NE(whole.outcome.status().message(), "");
      if (changes) Fail(from, order, {}, "was refused and changed something");
    }
    if (order.command == Command::kBless && !order.untried && changes &&
        from.runs != Runs::kMapped) {
      Fail(from, order, {}, "blesses what does not run");
    }
    if (order.command == Command::kBoot && whole.outcome.ok()) {
      // The script may ask once more before it mounts anything.
      Model asks_again = whole.model;
      asks_again.runs = Runs::kInitramfs;
      Visit(asks_again);
    }
    for (Faults faults : FaultsFor(order)) {
      const Result run = Run(from, order, faults);
      Visit(run.model);
      for (int cut = 0; cut < run.effects; ++cut) {
        faults.cut_before = cut;
        const Result result = Run(from, order, faults);
        if (!result.is_cut) Fail(from, order, faults, "was not cut");
        Visit(Off(result.model, Runs::kInitramfs));
        const Model rescue = Off(result.model, Runs::kRescue);
        Visit(rescue);
        // From a rescue system nothing differs but the cut.
        if (from.runs != Runs::kRescue || !whole.outcome.ok() ||
            order.command == Command::kBoot) {
          continue;
        }
        const Result resumed = Run(rescue, order, {});
        if (!resumed.outcome.ok() || resumed.model.Key() != whole.model.Key()) {
          Fail(from, order, faults, "does not go on after a cut");
        }
      }
    }
  }

  void Explore() {
    Visit(Model());
    while (!queue_.empty() && failures_ == 0) {
      const Model model = queue_.front();
      queue_.pop_front();
      CheckBoots(model);
      Link(model, Off(model, Runs::kInitramfs));
      Link(model, Off(model, Runs::kRescue));
      if (model.runs == Runs::kInitramfs) {
        TryOrder(model, {Command::kBoot});
        continue;
      }
      Model next = model;
      if (model.state.phase() == OtaState::NONE) {
        // What is there is the old system of the next update.
        for (ModelImage& image : next.images) image = ModelImage();
        Visit(next);
      }
      for (const Command command : kOrders) {
        if (model.state.phase() == OtaState::NONE &&
            command == Command::kStage && next.Key() != model.Key()) {
          continue;
        }
        TryOrder(model, {command});
      }
      TryOrder(model, {Command::kBless, /*untried=*/true});
    }
  }

  // From all that hold `from`, one that holds `to` can be reached.
  void ExpectWay(const std::string& what,
                 const std::function<bool(const Model&)>& from,
                 const std::function<bool(const Model&)>& to) {
    std::set<std::string> goals;
    for (const auto& [key, model] : models_) {
      if (to(model)) goals.insert(key);
    }
    ASSERT_FALSE(goals.empty()) << what;
    const std::set<std::string> can = graph_.CanReach(goals);
    for (const auto& [key, model] : models_) {
      if (!from(model) || can.count(key) != 0) continue;
      ADD_FAILURE() << "no way " << what << " from "
                    << ota::PhaseName(model.state.phase()) << " (" << key
                    << ")";
      return;
    }
  }

  std::deque<Model> queue_;
  std::set<std::string> seen_;
  std::map<std::string, Model> models_;
  Graph graph_;
  int failures_ = 0;
  uint64_t runs_ = 0;
};

bool IsOver(const Model& model, System system) {
  return model.state.phase() == OtaState::NONE && model.OnBases() == system;
}

TEST_P(OtaMachineTest, EveryStateEveryCommandEveryCut) {
  Explore();
  ASSERT_EQ(failures_, 0);
  std::set<int> phases;
  for (const auto& [key, model] : models_) phases.insert(model.state.phase());
  // Nothing is undone without undo logs.
  EXPECT_EQ(phases.size(),
            static_cast<size_t>(OtaState::Phase_ARRAYSIZE - !undo_logs()));
  RecordProperty("states", static_cast<int>(models_.size()));
  RecordProperty("runs", static_cast<int>(runs_));
  std::printf("%zu states, %llu runs\n", models_.size(),
              static_cast<unsigned long long>(runs_));
  ExpectWay(
      "to an end", [](const Model&) { return true; },
      [](const Model& model) { return model.state.phase() == OtaState::NONE; });
  ExpectWay(
      "forward",
      [](const Model& model) {
        const ota::Phase phase = model.state.phase();
        return phase != OtaState::NONE && phase != OtaState::CLEANING;
      },
      [](const Model& model) { return IsOver(model, System::kNew); });
  ExpectWay(
      "back",
      [this](const Model& model) {
        const ota::Phase phase = model.state.phase();
        if (phase == OtaState::NONE || phase == OtaState::CLEANING) {
          return model.OnBases() == System::kOld;
        }
        return (undo_logs() && !model.state.forward_only()) ||
               (phase != OtaState::MERGING && phase != OtaState::MERGED);
      },
      [](const Model& model) { return IsOver(model, System::kOld); });
}

// The whole of an update, as the commands are meant to be given.
class OtaFlowTest : public OtaMachineTest {
 protected:
  OtaFlowTest() { model_.runs = Runs::kPlain; }

  // Gives the command and says how it ended: "" or why it was refused.
  std::string Give(Command command, const Faults& faults = {}) {
    const Result result = Run(model_, {command}, faults);
    model_ = result.model;
    return result.outcome.ok() ? ""
                               : std::string(result.outcome.status().message());
  }

  System Reboot(const Faults& faults = {}) {
    model_.PowerOff(Runs::kInitramfs);
    EXPECT_EQ(Give(Command::kBoot, faults), "");
    return model_.runs == Runs::kMapped ? System::kNew : model_.OnBases();
  }

  Model model_;
};

TEST_P(OtaFlowTest, AnUpdateIsTriedBlessedMergedCleaned) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Reboot(), System::kOld);
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_NE(Give(Command::kMerge), "") << "before it is blessed";
  EXPECT_EQ(Give(Command::kBless), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(Give(Command::kMerge), "");
  EXPECT_EQ(model_.OnBases(), System::kNew);
  EXPECT_NE(Give(Command::kClean), "") << "while its COW files are served";
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(model_.runs, Runs::kPlain);
  EXPECT_EQ(Give(Command::kClean), "");
  EXPECT_EQ(model_.state.phase(), OtaState::NONE);
}

TEST_P(OtaFlowTest, ATrialIsGivenUpAfterItsBoots) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_NE(Give(Command::kBless), "") << "the old system runs";
  for (uint32_t i = 0; i < kModelBootsMax; ++i) {
    EXPECT_EQ(Reboot(), System::kNew) << i;
    EXPECT_EQ(model_.state.boots(), i + 1);
  }
  EXPECT_EQ(Reboot(), System::kOld);
  EXPECT_EQ(model_.state.phase(), OtaState::REJECTED);
  EXPECT_NE(Give(Command::kBless), "");
  EXPECT_EQ(Reboot(), System::kOld);
  EXPECT_EQ(Give(Command::kActivate), "") << "a second chance";
  EXPECT_EQ(Reboot(), System::kNew);
}

TEST_P(OtaFlowTest, ABootThatCannotBeCountedIsNotMade) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot({.save = SaveFault::kFails}), System::kOld);
  EXPECT_EQ(model_.tries, 0u);
  EXPECT_NE(Give(Command::kBless), "");
}

TEST_P(OtaFlowTest, WhatCannotBeMappedIsGivenUpBeforeTheMergeOnly) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot({.map = true}), System::kOld);
  EXPECT_EQ(model_.state.phase(), OtaState::REJECTED);
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(Give(Command::kBless), "");
  EXPECT_NE(Give(Command::kMerge, {.merge = true}), "");
  EXPECT_EQ(model_.OnBases(), System::kNone);
  EXPECT_EQ(Reboot({.map = true}), System::kNew) << "merged before the boot";
  EXPECT_EQ(model_.state.phase(), OtaState::MERGED);
}

// The new image is damaged, and what was mapped of it is held by somebody.
TEST_P(OtaFlowTest, NoBaseIsMountedThatIsServedToo) {
  const Faults faults = {.verity = true, .other = true};
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  model_.PowerOff(Runs::kInitramfs);
  const std::string said = Give(Command::kBoot, faults);
  EXPECT_THAT(said, testing::HasSubstr("no hash fits"));
  EXPECT_THAT(said, testing::HasSubstr("a disk"));
  EXPECT_EQ(model_.runs, Runs::kInitramfs);
  EXPECT_EQ(model_.state.phase(), OtaState::REJECTED);
  EXPECT_NE(Give(Command::kBoot, faults), "") << "asked again in this boot";
  EXPECT_EQ(Reboot(), System::kOld);
}

TEST_P(OtaFlowTest, ActivatedAgainItIsTriedAgain) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(Give(Command::kRollback), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_NE(Give(Command::kBless), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(Give(Command::kBless), "");
}

TEST_P(OtaFlowTest, UndoWaitsForTheNextBoot) {
  EXPECT_EQ(Give(Command::kStage), "");
  EXPECT_EQ(Give(Command::kActivate), "");
  EXPECT_EQ(Reboot(), System::kNew);
  EXPECT_EQ(Give(Command::kBless), "");
  EXPECT_EQ(Give(Command::kMerge), "");
  EXPECT_NE(Give(Command::kRollback), "") << "the merge has begun";
  EXPECT_EQ(Give(Command::kUndo).empty(), undo_logs());
  EXPECT_EQ(model_.OnBases(), System::kNew);
  EXPECT_EQ(Reboot(), undo_logs() ? System::kOld : System::kNew);
}

INSTANTIATE_TEST_SUITE_P(UndoLogs, OtaMachineTest, testing::Bool());
INSTANTIATE_TEST_SUITE_P(UndoLogs, OtaFlowTest, testing::Bool());

}  // namespace
}  // namespace dmu::test
