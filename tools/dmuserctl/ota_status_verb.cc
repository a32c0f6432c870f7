// SPDX-License-Identifier: Apache-2.0
//
// ota_status_verb.cc - ota status: where the update is, what the next boot
// does, what may be done.
#include <cstdio>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "tools/cow_file.h"
#include "tools/dmuserctl/ota_verbs.h"
#include "tools/ota/machine.h"
#include "tools/ota/store.h"

ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(std::string, state);

namespace dmu::tools {
namespace {

using Json = nlohmann::ordered_json;
using ota::Command;
using ota::OtaState;
using ota::Plan;

// Of commands that would do something now. Bless depends on what runs.
std::vector<std::string> Possible(const OtaState& state) {
  std::vector<std::string> names;
  const ota::Facts facts = {.boot_id = state.boot_id()};
  for (const Command command :
       {Command::kActivate, Command::kBless, Command::kMerge,
        Command::kRollback, Command::kUndo, Command::kClean}) {
    if (ota::MakePlan(state, command, facts).verdict == Plan::Verdict::kGo) {
      names.push_back(ota::CommandName(command));
    }
  }
  return names;
}

std::string NextBoot(const OtaState& state) {
  if (state.phase() == OtaState::UNDOING) return "undo";
  const Plan plan = ota::MakePlan(state, Command::kBoot, {.boot_id = "next"});
  return plan.boot == ota::Boot::kMapped ? "mapped" : "plain";
}

Json ToJson(const ota::OtaImage& image, const ota::Store& store) {
  Json json;
  json["name"] = image.name();
  json["base"] = store.Resolve(image.base());
  json["cow"] = store.Resolve(image.cow());
  if (!image.undo_log().empty()) {
    json["undo_log"] = store.Resolve(image.undo_log());
  }
  if (image.has_verity()) json["root_hash"] = image.verity().root_hash();
  const absl::StatusOr<CowFile> cow = OpenCowFile(store.Resolve(image.cow()));
  if (cow.ok()) {
    json["merged_ops"] = cow->image->progress.merged_ops;
    json["total_ops"] = cow->image->index.merge_count();
  } else {
    json["error"] = std::string(cow.status().message());
  }
  return json;
}

Json ToJson(const OtaState& state, const ota::Store& store) {
  Json json;
  json["phase"] = ota::PhaseName(state.phase());
  json["next_boot"] = NextBoot(state);
  json["possible"] = Possible(state);
  if (state.phase() == OtaState::NONE) return json;
  json["update"] = state.update();
  json["manifest_sha256"] = state.manifest_sha256();
  if (!state.reason().empty()) json["reason"] = state.reason();
  json["boots"] = state.boots();
  json["boots_max"] = state.boots_max();
  json["has_undo_logs"] = ota::HasUndoLogs(state);
  Json& images = json["images"] = Json::array();
  for (const ota::OtaImage& image : state.image()) {
    images.push_back(ToJson(image, store));
  }
  return json;
}

void PrintText(const OtaState& state, const Json& json) {
  if (state.phase() == OtaState::NONE) {
    std::printf("no update\n");
    return;
  }
  std::printf("%s: %s%s%s\n", state.update().c_str(),
              ota::PhaseName(state.phase()).c_str(),
              state.reason().empty() ? "" : ", ", state.reason().c_str());
  if (state.phase() == OtaState::TRIAL) {
    std::printf("  %u of %u boots tried\n", state.boots(), state.boots_max());
  }
  std::printf("  next boot  %s\n  possible   %s\n", NextBoot(state).c_str(),
              absl::StrJoin(Possible(state), ", ").c_str());
  for (const Json& image : json["images"]) {
    std::printf("  %s\n", image.value("name", "").c_str());
    for (const char* key : {"base", "cow", "undo_log", "root_hash", "error"}) {
      if (!image.contains(key)) continue;
      std::printf("    %-9s %s\n", key, image.value(key, "").c_str());
    }
    if (!image.contains("merged_ops")) continue;
    std::printf("    merged    %llu of %llu ops\n",
                image.value("merged_ops", 0ull),
                image.value("total_ops", 0ull));
  }
}

}  // namespace

absl::Status OtaStatus(const std::vector<std::string>& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError("ota status takes flags only");
  }
  const ota::Store store(absl::GetFlag(FLAGS_state));
  const absl::StatusOr<OtaState> state = store.Load();
  if (!state.ok()) return state.status();
  const Json json = ToJson(*state, store);
  if (absl::GetFlag(FLAGS_json)) {
    std::printf(
        "%s\n",
        json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    PrintText(*state, json);
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools
