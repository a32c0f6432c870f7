// SPDX-License-Identifier: Apache-2.0
//
// machine.h - what an update's commands do, as a pure function: the durable
// state and a command in, the steps to take out. No I/O.
//
// The phases, and a diagram: README.md beside this; proto/ota.proto.
//
// Rules, which the steps' order keeps and ota_machine_test tries at every cut:
//   [1] The next boot is decided by the durable state alone, and gives the old
//       or the new system whole.
//   [2] Bases are written in phases MERGING and UNDOING only, and nobody enters
//       the first of them but through GOOD.
//   [3] A boot of the new system in TRIAL is counted durably before it is made;
//       one that cannot be counted is not made.
//   [4] No boot mounts a base while a device is mapped over it: the command
//       fails then, and the next boot, in which nothing is mapped yet, goes on.
//   [5] A plan is made from the durable state, never from what an earlier run
//       remembered: every command may be cut anywhere and given again, and
//       every step may be taken again.
#ifndef TOOLS_OTA_MACHINE_H_
#define TOOLS_OTA_MACHINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/ota.pb.h"

namespace dmu::ota {

using proto::OtaImage;
using proto::OtaState;
using Phase = OtaState::Phase;

inline constexpr uint32_t kStateVersion = 1;
inline constexpr uint32_t kBootsMaxDefault = 3;

enum class Command : uint8_t {
  kStage,
  kActivate,
  kBoot,  // given by the initramfs, before anything of the update is mounted
  kBless,
  kMerge,
  kRollback,
  kUndo,
  kClean,
};

// What the plan of a command needs to know beside the durable state.
struct Facts {
  // Of the running kernel; not empty for kBoot and kBless.
  std::string boot_id = {};
  // kStage: the state the manifest asks for, in phase STAGING.
  OtaState wanted = {};
  // kBless: trust it without a trial.
  bool untried = false;
  // kBoot: a device of the update is there, of an earlier attempt of this boot.
  bool is_mapped = false;
};

// Every step may be taken again after it was taken, wholly or in part. A check
// changes nothing.
struct Step {
  enum class Kind : uint8_t {
    kSave,            // `state` becomes the durable one, whole or not at all
    kCheckSource,     // the COW to stage is whole and made for the base
    kCheckSpace,      // there is room for all images; no image
    kPlace,           // the COW is copied to its place
    kVerify,          // the COW in its place is whole and gives the target
    kCheckTree,       // the new image has a hash tree with the root hash
    kCheckBase,       // the base is the one the COW was made for
    kCheckMapped,     // its device is there, and served
    kCheckVerified,   // as kCheckMapped of the device that kMapVerity makes
    kCheckMergeable,  // served by the daemon, or not in use
    kCheckIdle,       // no device is served from the COW
    kCheckUnused,     // nor is the base in use, in any way
    kPrepareUndoLog,  // the log is there, with room for all of the merge
    kMerge,           // to the end
    kFinish,          // its device is put on the base, if it is served
    kPauseMerge,      // if one is under way
    kUndo,            // to the end
    kMap,             // /dev/mapper/NAME shows the new image
    kMapVerity,       // NAME-verity shows it through its hash tree
    kUnmapVerity,
    kUnmap,
    kRemove,  // COW, if it is a copy, and undo log
  };
  Kind kind = Kind::kSave;
  int image = -1;  // index in the state's images; -1: not about one
  // If it fails, that is said and the plan goes on.
  bool may_fail = false;
  OtaState state = {};  // kSave
};

// What the next boot mounts.
enum class Boot : uint8_t {
  kPlain,   // the bases themselves; nothing is mapped
  kMapped,  // the device of every image (DeviceName)
};

struct Plan {
  enum class Verdict : uint8_t {
    kGo,
    kNothing,  // it is as the command would make it
    kRefused,
  };
  Verdict verdict = Verdict::kGo;
  std::vector<Step> steps;
  // kRefused: why, and what to do instead. Else, when not empty: what whoever
  // gave the command should know beside that it is done.
  std::string sentence;
  // kBoot: what to mount when the steps are taken.
  Boot boot = Boot::kPlain;
};

Plan MakePlan(const OtaState& state, Command command, const Facts& facts);

// What to do instead when a step failed; kRefused without a sentence: nothing,
// the command failed. `state` is the durable one then, `why` the step's
// sentence, `busy`: something is in use; earlier_failures: times that the
// command came here before. Ends after at most kFallbacksMax.
inline constexpr int kFallbacksMax = 2;
Plan PlanAfterFailure(const OtaState& state, Command command,
                      const Step& failed, const std::string& why, bool busy,
                      int earlier_failures);

// Of the device in /dev/mapper that shows the new image to whoever mounts it.
std::string DeviceName(const OtaImage& image);

// Whether "undo" could bring the old system back after a merge has begun.
bool HasUndoLogs(const OtaState& state);

// "staging": as commands and JSON print them.
std::string PhaseName(Phase phase);
std::string CommandName(Command command);
std::string StepName(Step::Kind kind);

}  // namespace dmu::ota

#endif  // TOOLS_OTA_MACHINE_H_
