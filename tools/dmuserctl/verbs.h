// SPDX-License-Identifier: Apache-2.0
//
// verbs.h - every verb of dmuserctl, in one table.
//
// A new verb is a function (cow_verbs.h, device_verbs.h) and a row in verbs.cc.
#ifndef TOOLS_DMUSERCTL_VERBS_H_
#define TOOLS_DMUSERCTL_VERBS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace dmu::tools {

struct Verb {
  const char* name;       // one or two words
  const char* arguments;  // as the usage line shows them
  const char* summary;    // one line
  const char* details;    // the rest of the help text; may be empty
  // Flags it takes, separated by spaces; each is an Abseil flag.
  const char* flags;
  absl::Status (*run)(const std::vector<std::string>& arguments);
};

absl::Span<const Verb> Verbs();

// The verb the words begin with, and how many words that are; nullptr if none.
const Verb* FindVerb(const std::vector<std::string>& words, size_t* used);

// Takes the flags out of `words`, which follow the verb, sets them and returns
// the other words. Both --flag=value and --flag value, one dash or two; "--"
// ends the flags. kInvalidArgument for a flag the verb does not take or a value
// the flag does not take.
absl::StatusOr<std::vector<std::string>> ParseFlags(
    const Verb& verb, const std::vector<std::string>& words);

// Help texts for standard output.
std::string VerbHelp(const Verb& verb);
std::string GeneralHelp();
// What comes before the verbs of a group ("cow"): what it is about and a first
// use. "" for a word that is no group.
std::string GroupIntroduction(const std::string& group);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_VERBS_H_
