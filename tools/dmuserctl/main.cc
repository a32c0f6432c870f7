// SPDX-License-Identifier: Apache-2.0
//
// main.cc - dmuserctl: finds the verb, runs it, turns its status into a
// sentence and an exit code.
//
// The command line is taken apart here and not by Abseil's parser, which ends
// the process by itself with a code that says nothing.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/dmuserctl/exit_code.h"
#include "tools/dmuserctl/verbs.h"

namespace dmu::tools {
namespace {

void Print(FILE* to, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), to);
}

int Fail(const absl::Status& status, const std::string& hint) {
  Print(stderr,
        absl::StrCat("dmuserctl: ", std::string(status.message()), "\n", hint));
  return ExitCodeOf(status);
}

bool AsksForHelp(const std::string& word) {
  return word == "--help" || word == "-help" || word == "-h";
}

int Help(const std::vector<std::string>& words) {
  size_t used = 0;
  if (words.empty()) {
    Print(stdout, GeneralHelp());
    return kExitOk;
  }
  if (const Verb* verb = FindVerb(words, &used); verb != nullptr) {
    Print(stdout, VerbHelp(*verb));
    return kExitOk;
  }
  // The first word of a pair: all verbs of that group.
  std::string text;
  for (const Verb& verb : Verbs()) {
    if (absl::StrCat(verb.name).rfind(words[0] + " ", 0) == 0) {
      absl::StrAppend(&text, text.empty() ? "" : "\n", VerbHelp(verb));
    }
  }
  if (!text.empty()) {
    Print(stdout, absl::StrCat(GroupIntroduction(words[0]), text));
    return kExitOk;
  }
  return Fail(absl::InvalidArgumentError(
                  absl::StrCat("there is no verb \"", words[0], "\"")),
              "\"dmuserctl help\" lists them.\n");
}

int Run(const std::vector<std::string>& words) {
  if (words.empty()) {
    Print(stderr, GeneralHelp());
    return kExitUsage;
  }
  if (words[0] == "help") return Help({words.begin() + 1, words.end()});
  for (size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (AsksForHelp(words[i])) return Help({words.begin(), words.begin() + i});
  }
  size_t used = 0;
  const Verb* verb = FindVerb(words, &used);
  if (verb == nullptr) {
    return Fail(
        absl::InvalidArgumentError(absl::StrCat(
            "there is no verb \"", words[0], "\"", words.size() > 1 ? " " : "",
            words.size() > 1 ? words[1] : "")),
        "\"dmuserctl help\" lists them.\n");
  }
  const std::string hint =
      absl::StrCat("\"dmuserctl help ", verb->name, "\" says more.\n");
  absl::StatusOr<std::vector<std::string>> arguments =
      ParseFlags(*verb, {words.begin() + used, words.end()});
  if (!arguments.ok()) return Fail(arguments.status(), hint);
  absl::Status status = verb->run(*arguments);
  // What was to be printed may not have gone out: a full disk, a closed pipe.
  if (status.ok() && std::fflush(stdout) != 0) {
    status = absl::InternalError("cannot write to standard output");
  }
  if (status.ok()) return kExitOk;
  return Fail(status, absl::IsInvalidArgument(status) ? hint : "");
}

}  // namespace
}  // namespace dmu::tools

int main(int argc, char** argv) {
  return dmu::tools::Run({argv + 1, argv + argc});
}
