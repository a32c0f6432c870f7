// SPDX-License-Identifier: Apache-2.0
//
// text_target.cc - see text_target.h.
#include "test/fuzz/text_target.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/base/check.h"
#include "daemon/control/text_commands.h"

namespace dmu {
namespace {

using Verb = TextCommand::Verb;

void CheckField(std::string_view message, std::string_view field) {
  if (field.empty()) return;
  DMU_CHECK(field.data() >= message.data());
  DMU_CHECK(field.data() + field.size() <= message.data() + message.size());
  for (const char c : field) {
    DMU_CHECK(c != ',' && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  }
}

std::string Again(std::string_view word, const TextCommand& command) {
  std::string text(word);
  text.append(",").append(command.name);
  if (command.verb != Verb::kInit) return text;
  return text.append(",")
      .append(command.cow_path)
      .append(",")
      .append(command.source_path)
      .append(",")
      .append(command.base_path);
}

}  // namespace

void RunText(const uint8_t* data, size_t size) {
  // A copy of its own, so that a sanitizer sees a read beyond the end.
  const std::string copy(reinterpret_cast<const char*>(data), size);
  const std::string_view message = copy;
  const TextCommand command = ParseTextCommand(message);
  CheckField(message, command.name);
  CheckField(message, command.cow_path);
  CheckField(message, command.source_path);
  CheckField(message, command.base_path);
  const Role role = TextRole(command.verb);
  DMU_CHECK(role != Role::kNone);
  if (command.verb == Verb::kUnknown || !command.complete) {
    DMU_CHECK(command.name.empty() && command.base_path.empty());
    return;
  }
  switch (command.verb) {
    case Verb::kInit:
    case Verb::kStart:
    case Verb::kDelete:
      DMU_CHECK(role == Role::kServe);
      break;
    case Verb::kInitiateMerge:
      DMU_CHECK(role == Role::kMerge);
      break;
    case Verb::kGetStatus:
    case Verb::kSupports:
      break;
    default:
      return;  // without fields
  }
  const std::string again =
      Again(message.substr(0, message.find(',')), command);
  DMU_CHECK(message == again || message == again + ",");
}

}  // namespace dmu
