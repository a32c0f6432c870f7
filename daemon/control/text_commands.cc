// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/text_commands.h"

#include <algorithm>
#include <cstdio>

#include "daemon/base/types.h"

namespace dmu {

namespace {

using Verb = TextCommand::Verb;

struct VerbRow {
  std::string_view word;
  Verb verb;
  uint8_t fields;  // that it needs, besides the verb
  Role role;
};

constexpr VerbRow kVerbs[] = {
    {"init", Verb::kInit, 4, Role::kServe},
    {"start", Verb::kStart, 1, Role::kServe},
    {"initiate_merge", Verb::kInitiateMerge, 1, Role::kMerge},
    {"getstatus", Verb::kGetStatus, 1, Role::kLook},
    {"merge_percent", Verb::kMergePercent, 0, Role::kLook},
    {"pause_merge", Verb::kPauseMerge, 0, Role::kMerge},
    {"resume_merge", Verb::kResumeMerge, 0, Role::kMerge},
    {"delete", Verb::kDelete, 1, Role::kServe},
    {"query", Verb::kQuery, 0, Role::kLook},
    {"supports", Verb::kSupports, 1, Role::kLook},
    {"update-verify", Verb::kUpdateVerify, 0, Role::kLook},
    {"detach", Verb::kDetach, 0, Role::kServe},
    {"stop", Verb::kStop, 0, Role::kServe},
};

// Fields of the longest command, its verb among them.
constexpr size_t kFieldsMax = 5;

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

// Returns how many there are, which may be more than are stored.
size_t Split(std::string_view message, std::string_view (&fields)[kFieldsMax]) {
  size_t count = 0;
  for (size_t at = 0; at < message.size(); ++count) {
    const size_t comma = std::min(message.find(',', at), message.size());
    if (count < kFieldsMax) fields[count] = message.substr(at, comma - at);
    at = comma + 1;
  }
  return count;
}

}  // namespace

TextCommand ParseTextCommand(std::string_view message) {
  TextCommand command;
  if (std::any_of(message.begin(), message.end(), IsControl)) return command;
  std::string_view fields[kFieldsMax];
  const size_t count = Split(message, fields);
  if (count == 0) return command;
  for (const VerbRow& row : kVerbs) {
    if (row.word != fields[0]) continue;
    command.verb = row.verb;
    command.complete = row.fields == 0 || count == size_t{1} + row.fields;
    if (!command.complete || row.fields == 0) return command;
    command.name = fields[1];
    if (row.verb == Verb::kInit) {
      command.cow_path = fields[2];
      command.source_path = fields[3];
      command.base_path = fields[4];
    }
    return command;
  }
  return command;
}

Role TextRole(Verb verb) {
  for (const VerbRow& row : kVerbs) {
    if (row.verb == verb) return row.role;
  }
  return Role::kLook;
}

std::string TextSectors(uint64_t size_bytes) {
  return std::string(kTextSuccess) + "," +
         std::to_string(size_bytes / kSectorBytes);
}

const char* TextMergeStatus(const proto::DeviceStatus& device) {
  if (device.kind() != "snapshot") return kTextMergeFailed;
  // While it is being opened nothing is known of a merge.
  if (!device.has_merge()) return "snapshot";
  switch (device.merge().state()) {
    case proto::MergeStatus::RUNNING:
      return "snapshot-merge";
    case proto::MergeStatus::DONE:
      return "snapshot-merge-complete";
    case proto::MergeStatus::FAILED:
      return kTextMergeFailed;
    default:
      return "snapshot";
  }
}

std::string TextMergePercent(const std::vector<proto::DeviceStatus>& devices,
                             uint32_t merged_and_gone) {
  double sum = 100.0 * merged_and_gone;
  uint32_t count = merged_and_gone;
  for (const proto::DeviceStatus& device : devices) {
    if (device.state() != proto::DeviceStatus::SERVING || !device.has_merge()) {
      continue;
    }
    ++count;
    const proto::MergeStatus& merge = device.merge();
    if (merge.total_ops() == 0) {
      sum += 100;
    } else {
      sum += 100.0 * static_cast<double>(merge.merged_ops()) /
             static_cast<double>(merge.total_ops());
    }
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%f", count == 0 ? 0.0 : sum / count);
  return text;
}

}  // namespace dmu
