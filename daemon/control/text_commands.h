// SPDX-License-Identifier: Apache-2.0
//
// text_commands.h - the commands of Android's snapuserd, and its answers.
//
// A command is one packet (server.h): a verb and its fields, with commas in
// between and nothing around. No quoting: a path with a comma cannot be said.
// An answer is one packet as well.
//
//   init,NAME,COW,SOURCE,BASE  success,SECTORS: opened, judged, not yet served
//   start,NAME                 success: /dev/dm-user/NAME is served
//   initiate_merge,NAME        success: the merge goes on, or waits in turn
//   getstatus,NAME             snapshot, snapshot-merge, -merge-complete,
//                              -merge-failed (also of a name nobody knows)
//   merge_percent              "12.500000", of all devices together
//   pause_merge, resume_merge  success: all merges
//   delete,NAME                success: no longer served, also when it was not
//   query                      active; passive after detach or stop
//   supports,FEATURE           fail: there is none that we have
//   update-verify              fail: see below
//   detach                     no answer: merges stop, and the daemon ends when
//                              its last device is gone
//   stop                       no answer: as detach, but merges go on
//
// What fails is answered "fail". So is an unknown verb, and then the session
// ends, by which clients tell an older daemon. As in Android's daemon an empty
// last field is no field, and verbs without fields take any.
//
// update-verify asks whether every device has been read through once. We read
// nothing ahead of who needs it, and say so; the caller has to read them.
#ifndef DAEMON_CONTROL_TEXT_COMMANDS_H_
#define DAEMON_CONTROL_TEXT_COMMANDS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/role.h"
#include "proto/control.pb.h"

namespace dmu {

inline constexpr char kTextSuccess[] = "success";
inline constexpr char kTextFail[] = "fail";
inline constexpr char kTextMergeFailed[] = "snapshot-merge-failed";

struct TextCommand {
  enum class Verb : uint8_t {
    kUnknown,
    kInit,
    kStart,
    kInitiateMerge,
    kGetStatus,
    kMergePercent,
    kPauseMerge,
    kResumeMerge,
    kDelete,
    kQuery,
    kSupports,
    kUpdateVerify,
    kDetach,
    kStop,
  };
  Verb verb = Verb::kUnknown;
  // Whether it has the fields its verb needs, and no other; those below are
  // set only then. They are parts of the message.
  bool complete = false;
  std::string_view name;  // kSupports: the feature
  std::string_view cow_path;
  std::string_view source_path;  // the old image; often the base once more
  std::string_view base_path;    // what a merge writes
};

// Any bytes. Those with a control character in them are an unknown verb.
TextCommand ParseTextCommand(std::string_view message);

// What its sender must be.
Role TextRole(TextCommand::Verb verb);

// To init, of a device of this size.
std::string TextSectors(uint64_t size_bytes);
// To getstatus.
const char* TextMergeStatus(const proto::DeviceStatus& device);
// To merge_percent: the mean over the snapshots that are served and those whose
// merge ended before they went away; 0 without any. Of ops, as Android has it.
std::string TextMergePercent(const std::vector<proto::DeviceStatus>& devices,
                             uint32_t merged_and_gone);

}  // namespace dmu

#endif  // DAEMON_CONTROL_TEXT_COMMANDS_H_
