// SPDX-License-Identifier: Apache-2.0
//
// ota_verbs.cc - ota: flags in, one command of the update's machine, what it
// did out.
#include "tools/dmuserctl/ota_verbs.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/dmuserctl/pause_signal.h"
#include "tools/ota/executor.h"
#include "tools/ota/file_world.h"
#include "tools/ota/live_devices.h"
#include "tools/ota/manifest.h"
#include "tools/ota/store.h"
#include "tools/progress_bar.h"

ABSL_DECLARE_FLAG(std::string, control);
ABSL_DECLARE_FLAG(bool, dry_run);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, quiet);
ABSL_FLAG(std::string, state, "/run/dm-user-ota/dm-user",
          "folder of the update's state, on a file system that the initramfs "
          "can write and that no image of the update holds");
ABSL_FLAG(std::string, manifest_sha256, "",
          "ota stage: refuse a manifest that has another SHA-256");
ABSL_FLAG(bool, untried, false,
          "ota bless: trust the new system without a boot that tried it");

namespace dmu::tools {
namespace {

using Json = nlohmann::ordered_json;
using ota::Command;
using ota::OtaState;
using ota::Step;

bool IsCheck(Step::Kind kind) {
  switch (kind) {
    case Step::Kind::kCheckSource:
    case Step::Kind::kCheckSpace:
    case Step::Kind::kCheckBase:
    case Step::Kind::kCheckMapped:
    case Step::Kind::kCheckVerified:
    case Step::Kind::kCheckMergeable:
    case Step::Kind::kCheckIdle:
    case Step::Kind::kCheckUnused:
      return true;
    default:
      return false;
  }
}

// Keeps account of the steps; in a dry run only the checks are taken.
class Account : public ota::World {
 public:
  Account(ota::World* world, bool dry_run)
      : world_(*world), dry_run_(dry_run) {}

  absl::StatusOr<OtaState> Load() override { return world_.Load(); }

  absl::Status Save(const OtaState& state) override {
    absl::Status status;
    if (!dry_run_) status = world_.Save(state);
    Add("save", ota::PhaseName(state.phase()), status);
    return status;
  }

  absl::Status Take(const Step& step, const OtaState& state) override {
    absl::Status status;
    if (!dry_run_ || IsCheck(step.kind)) status = world_.Take(step, state);
    Add(ota::StepName(step.kind),
        step.image < 0 ? "" : state.image(step.image).name(), status);
    return status;
  }

  const Json& steps() const { return steps_; }

 private:
  void Add(const std::string& step, const std::string& of,
           const absl::Status& status) {
    Json entry = {{"step", step}};
    if (!of.empty()) entry[step == "save" ? "phase" : "image"] = of;
    if (!status.ok()) entry["error"] = std::string(status.message());
    steps_.push_back(entry);
  }

  ota::World& world_;
  const bool dry_run_;
  Json steps_ = Json::array();
};

// A bar on a terminal; elsewhere, for a journal, a line for every tenth.
class MergeProgress {
 public:
  explicit MergeProgress(bool enabled)
      : prints_(enabled && isatty(STDERR_FILENO) == 0),
        bar_("merging ", enabled) {}

  void Update(const std::string& name, const proto::MergeStatus& merge) {
    bar_.Update(merge.merged_bytes(), merge.total_bytes());
    if (!prints_ || merge.total_bytes() == 0) return;
    if (name != name_) tenths_ = 0;
    name_ = name;
    const uint64_t tenths = merge.merged_bytes() * 10 / merge.total_bytes();
    if (tenths <= tenths_) return;
    tenths_ = tenths;
    std::fprintf(stderr, "%s: merged %llu %%, %s of %s\n", name.c_str(),
                 static_cast<unsigned long long>(10 * tenths),
                 FormatBytes(merge.merged_bytes()).c_str(),
                 FormatBytes(merge.total_bytes()).c_str());
  }

 private:
  const bool prints_;
  ProgressBar bar_;
  std::string name_;
  uint64_t tenths_ = 0;  // that were said
};

absl::StatusOr<std::string> BootId() {
  static constexpr char kPath[] = "/proc/sys/kernel/random/boot_id";
  // Its size is 0, as of all files there.
  FILE* file = std::fopen(kPath, "re");
  char text[64] = "";
  const bool read =
      file != nullptr && std::fgets(text, sizeof(text), file) != nullptr;
  if (file != nullptr) std::fclose(file);
  const std::string id(absl::StripAsciiWhitespace(text));
  if (read && !id.empty()) return id;
  return absl::InternalError(absl::StrCat(
      "cannot read ", kPath, ": without it no boot is told from another"));
}

std::string DeviceOf(const ota::OtaImage& image, ota::Boot boot,
                     const ota::Store& store) {
  return boot == ota::Boot::kMapped
             ? absl::StrCat("/dev/mapper/", ota::DeviceName(image))
             : store.Resolve(image.base());
}

const char* BootName(ota::Boot boot) {
  return boot == ota::Boot::kMapped ? "mapped" : "plain";
}

void PrintJson(const Json& json) {
  std::printf("%s\n",
              json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

void PrintOutcomeJson(Command command, const ota::Outcome& outcome,
                      const Json& steps, const ota::Store& store) {
  Json json;
  json["command"] = ota::CommandName(command);
  json["dry_run"] = absl::GetFlag(FLAGS_dry_run);
  json["update"] = outcome.state.update();
  json["phase"] = ota::PhaseName(outcome.state.phase());
  json["changed"] = outcome.changed && !absl::GetFlag(FLAGS_dry_run);
  json["steps"] = steps;
  if (command == Command::kBoot) {
    json["boot"] = BootName(outcome.boot);
    Json& images = json["images"] = Json::array();
    for (const ota::OtaImage& image : outcome.state.image()) {
      images.push_back({{"name", image.name()},
                        {"device", DeviceOf(image, outcome.boot, store)}});
    }
  }
  if (!outcome.sentence.empty()) json["note"] = outcome.sentence;
  json["warnings"] = outcome.warnings;
  PrintJson(json);
}

// The first word of the first line, and NAME DEVICE on the others: scripts of
// initramfs read it.
void PrintBoot(const ota::Outcome& outcome, const ota::Store& store) {
  std::printf("%s\n", BootName(outcome.boot));
  for (const ota::OtaImage& image : outcome.state.image()) {
    std::printf("%s %s\n", image.name().c_str(),
                DeviceOf(image, outcome.boot, store).c_str());
  }
}

void PrintOutcome(Command command, const ota::Outcome& outcome,
                  const Json& steps, const ota::Store& store) {
  for (const std::string& warning : outcome.warnings) {
    std::fprintf(stderr, "dmuserctl: %s\n", warning.c_str());
  }
  if (absl::GetFlag(FLAGS_dry_run)) {
    for (const Json& step : steps) {
      const std::string of = step.value("image", step.value("phase", ""));
      std::fprintf(stderr, "would %s%s%s\n", step.value("step", "").c_str(),
                   of.empty() ? "" : " ", of.c_str());
    }
  }
  if (command == Command::kBoot) {
    if (!outcome.sentence.empty()) {
      std::fprintf(stderr, "dmuserctl: %s\n", outcome.sentence.c_str());
    }
    PrintBoot(outcome, store);
  } else if (!absl::GetFlag(FLAGS_quiet)) {
    std::printf("%s%s%s%s\n", absl::GetFlag(FLAGS_dry_run) ? "would be " : "",
                ota::PhaseName(outcome.state.phase()).c_str(),
                outcome.sentence.empty() ? "" : ": ", outcome.sentence.c_str());
  }
}

// One command from end to end. `facts` and `options` as far as the command
// knows more than all do.
absl::Status Run(Command command, ota::Store* store, ota::Facts facts,
                 ota::FileWorld::Options options) {
  absl::StatusOr<std::string> boot_id = BootId();
  if (!boot_id.ok()) return boot_id.status();
  facts.boot_id = *boot_id;
  const bool dry_run = absl::GetFlag(FLAGS_dry_run);
  if (!dry_run) {
    absl::Status locked = store->Lock();
    // A boot decides even where nothing was ever staged, or nothing can be
    // written; nobody else is at work then.
    if (!locked.ok() &&
        (command != Command::kBoot || absl::IsAborted(locked))) {
      return locked;
    }
  }
  options.progress = !absl::GetFlag(FLAGS_quiet);
  options.stop = PauseOnSignal();
  MergeProgress progress(options.progress);
  ota::LiveDevices devices(
      absl::GetFlag(FLAGS_control),
      [&progress](const std::string& name, const proto::MergeStatus& merge) {
        progress.Update(name, merge);
      });
  ota::FileWorld files(store, &devices, std::move(options));
  if (command == Command::kBoot) {
    const absl::StatusOr<OtaState> state = store->Load();
    facts.is_mapped = state.ok() && files.IsAnyMapped(*state);
  }
  Account account(&files, dry_run);
  absl::StatusOr<ota::Outcome> outcome =
      ota::RunCommand(&account, command, facts);
  if (!outcome.ok()) return outcome.status();
  if (absl::GetFlag(FLAGS_json)) {
    PrintOutcomeJson(command, *outcome, account.steps(), *store);
  } else {
    PrintOutcome(command, *outcome, account.steps(), *store);
  }
  return absl::OkStatus();
}

absl::Status RunPlain(Command command,
                      const std::vector<std::string>& arguments,
                      bool untried = false) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("ota ", ota::CommandName(command), " takes flags only"));
  }
  ota::Store store(absl::GetFlag(FLAGS_state));
  return Run(command, &store, {.untried = untried}, {});
}

}  // namespace

absl::Status OtaStage(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("ota stage needs one manifest");
  }
  ota::Store store(absl::GetFlag(FLAGS_state));
  absl::StatusOr<ota::Manifest> manifest = ota::ReadManifest(
      arguments[0], absl::GetFlag(FLAGS_manifest_sha256), store);
  if (!manifest.ok()) return manifest.status();
  return Run(Command::kStage, &store, {.wanted = manifest->wanted},
             {.sources = manifest->sources});
}

absl::Status OtaActivate(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kActivate, arguments);
}

absl::Status OtaBoot(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kBoot, arguments);
}

absl::Status OtaBless(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kBless, arguments, absl::GetFlag(FLAGS_untried));
}

absl::Status OtaMerge(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kMerge, arguments);
}

absl::Status OtaRollback(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kRollback, arguments);
}

absl::Status OtaUndo(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kUndo, arguments);
}

absl::Status OtaClean(const std::vector<std::string>& arguments) {
  return RunPlain(Command::kClean, arguments);
}

}  // namespace dmu::tools
