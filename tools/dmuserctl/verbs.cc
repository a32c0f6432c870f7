// SPDX-License-Identifier: Apache-2.0
//
// verbs.cc - the table, and the help that is made from it.
#include "tools/dmuserctl/verbs.h"

#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/dmuserctl/ota_verbs.h"

namespace dmu::tools {
namespace {

constexpr Verb kVerbs[] = {
    {"cow create", "OLD NEW -o FILE.cow",
     "make a COW file that turns the image OLD into NEW",
     "OLD and NEW are files or block devices, of any two sizes that are\n"
     "multiples of 4096 bytes; neither is changed. Files in Android's sparse\n"
     "format are known by their first bytes; what they do not care for counts\n"
     "as zeros, and must be zeros on the device. Blocks that are in OLD\n"
     "already are copied, blocks that nearly are become the difference (xor),\n"
     "zero blocks are named, the rest is compressed in units. FILE.cow "
     "appears\n"
     "when it is complete, or not at all.\n",
     "o compression unit version cluster_ops no_extension force quiet",
     CowCreate},
    {"cow estimate", "OLD NEW", "say what \"cow create\" would make",
     "Does all the work and writes nothing; the figures are exact.\n",
     "compression unit version cluster_ops no_extension json quiet",
     CowEstimate},
    {"cow inspect", "FILE.cow",
     "say what a COW file holds and how far its "
     "merge is",
     "Versions 1 to 3, made by whomever. --map shows what the blocks of the\n"
     "image are, --ops and --order list the ops.\n",
     "json ops order map label", CowInspect},
    {"cow verify", "FILE.cow [--base IMG]",
     "check everything in a COW file, and that IMG is its base",
     "Structure, every unit of data and the merge order; with --base also "
     "that\n"
     "both together give the whole target image, at any state of the merge.\n"
     "Says what is wrong where. Nothing is changed. Status 3: the file is\n"
     "corrupt, 4: the base is another one, or not as the file says.\n",
     "base json quiet", CowVerify},
    {"cow extract", "FILE.cow --base IMG -o OUT.img", "write the target image",
     "The base may be untouched, or in any state of the merge that FILE.cow\n"
     "records. Neither is changed.\n",
     "base source label range o force quiet", CowExtract},
    {"cow merge", "FILE.cow --base IMG",
     "turn the base into the target image, without a kernel part",
     "Writes to IMG, which is the old image afterwards no more, and keeps\n"
     "account in FILE.cow. Ctrl-C pauses it at a safe point; whatever\n"
     "interrupts it, a power cut too, the same command goes on. A merge that\n"
     "the daemon or Android began is gone on with, and the other way round.\n"
     "An image file is grown or cut to the target's size. With --undo-log "
     "the\n"
     "merge can be taken back; it must then be given every time.\n",
     "base undo_log dry_run json quiet", CowMerge},
    {"cow convert", "FILE.cow -o OUT.cow",
     "rewrite a COW file in another version, compressor or unit size",
     "The new file leads from the same base to the same target; labels are\n"
     "dropped. Only a file whose merge has not begun can be converted.\n",
     "o version compression unit cluster_ops no_extension force quiet",
     CowConvert},
    {"image extract", "FILE [PARTITION] -o OUT.img",
     "write the plain image that a file stands for",
     "FILE is in Android's sparse format; what it does not care for becomes\n"
     "zeros. cow create reads such files as they are; a base has to be "
     "plain.\n"
     "Or FILE is a payload.bin of a full update, of which one partition is\n"
     "written; its digest is checked, the payload's signature is not.\n",
     "o force quiet", ImageExtract},
    {"map", "NAME (--cow FILE.cow --base DEV | --file FILE | --null BYTES)",
     "make /dev/mapper/NAME, served by dmuserd",
     "With --cow the device reads as the target image, and is read-only.\n"
     "Without dm-user.ko the kernel's ublk driver carries the requests: NAME\n"
     "is then a linear table on the /dev/ublkbN that dmuserd makes.\n",
     "cow base file null read_only direct_io redirect transport "
     "orphan_timeout control quiet",
     Map},
    {"merge undo", "FILE.cow --base IMG --undo-log LOG",
     "bring the old image back: take a merge back with its undo log",
     "At any point during or after a merge that kept one, by the daemon or by\n"
     "\"cow merge\"; the device must not be mapped. The whole log is checked\n"
     "before anything is changed. Ctrl-C pauses it at a safe point; whatever\n"
     "interrupts it, a power cut too, the same command goes on. Until it is\n"
     "done the COW file serves the new image as before, and may be merged\n"
     "again instead, with the same log.\n",
     "base undo_log dry_run json quiet", MergeUndo},
    {"merge", "NAME", "write the target image into the base of a mapped COW",
     "The device can be read all the while. A merge that was interrupted, by\n"
     "whatever, goes on where it was when it is started again. With "
     "--undo-log\n"
     "it can be taken back later by \"merge undo\".\n",
     "wait pause rate undo_log control quiet", Merge},
    {"finish", "NAME",
     "put /dev/mapper/NAME on its merged base, without dmuserd",
     "When the merge is done the base is the target image. The device's table\n"
     "is switched to it, and dmuserd lets go of base and COW file. The device\n"
     "may be mounted and read all the while; from then on it is the base, and\n"
     "can be written. The base must be a block device. When interrupted, give\n"
     "the command again.\n",
     "control", Finish},
    {"throttle", "[--rate BYTES] [--pressure PERCENT] [--merges N]",
     "limit what all merges of the daemon do together",
     "What is not given stays as it is; says what is in force. The limits "
     "last\n"
     "until the daemon ends; its own flags set them at the start.\n",
     "rate pressure merges control quiet", Throttle},
    {"status", "[NAME]", "what the daemon serves, and how far merges are",
     "With --latency also how long requests took in the daemon. --watch says "
     "a\n"
     "device's status again whenever its merge went on or requests failed, "
     "and\n"
     "ends with the merge, or with --follow with the device.\n",
     "json watch follow latency control", Status},
    {"metrics", "[-o FILE]", "the same for Prometheus, as text",
     "FILE is replaced whole, as the textfile collector of node_exporter "
     "wants\n"
     "it. When no daemon answers the text says dmuserd_up 0, and the status "
     "is\n"
     "10. Names are explained by the HELP lines.\n",
     "o control", Metrics},
    {"up", "[NAME...]", "make the devices of /etc/dm-usertab, or those named",
     "What is there already is left as it is. --table names another table; "
     "its\n"
     "format is in proto/usertab.proto.\n",
     "table transport redirect control quiet", Up},
    {"down", "[NAME...]", "remove the devices of the table, or those named", "",
     "table control quiet", Down},
    {"units", "FOLDER", "for systemd: write what starts the table's devices",
     "For each device a link to dm-user@NAME.service, and after which mounts "
     "and\n"
     "block devices it comes. Called by dm-user-generator at boot and at\n"
     "\"systemctl daemon-reload\".\n",
     "table", Units},
    {"unmap", "NAME", "remove /dev/mapper/NAME", "", "control", Unmap},
    {"ota stage", "MANIFEST",
     "put an update's COW files in place, checked against their bases",
     "The manifest is protobuf text (proto/ota.proto). Nothing boots "
     "differently\n"
     "yet. Its SHA-256 is the place to check a signature at: give the one "
     "that\n"
     "was signed with --manifest-sha256.\n",
     "state manifest_sha256 dry_run json quiet control", OtaStage},
    {"ota activate", "", "have the next boots try the new system",
     "As many as the manifest says, each counted before it is made; then the\n"
     "old system boots again, unless \"ota bless\" was given.\n",
     "state dry_run json quiet control", OtaActivate},
    {"ota boot", "", "for the initramfs: decide what boots, and map it",
     "Counts a trial, maps what is to be mapped, undoes what is to be undone.\n"
     "Prints \"plain\" or \"mapped\", then NAME DEVICE for every image. Status "
     "0\n"
     "means that those devices hold one system, old or new, whole. With\n"
     "--dry-run says what it would do.\n",
     "state dry_run json quiet control", OtaBoot},
    {"ota bless", "", "the new system that runs is good: keep it",
     "It can be merged from now on, and rolled back until it is.\n",
     "state untried dry_run json quiet control", OtaBless},
    {"ota merge", "", "write the new images over the old ones",
     "By the daemon while they are mapped, else by itself; waits for the end.\n"
     "What was interrupted goes on when the command is given again. From its\n"
     "beginning only \"ota undo\" brings the old system back, and only if the\n"
     "manifest names undo logs.\n",
     "state dry_run json quiet control", OtaMerge},
    {"ota rollback", "", "have the next boot be of the old system",
     "At any time before the merge.\n", "state dry_run json quiet control",
     OtaRollback},
    {"ota undo", "", "take the merge back: the old system again",
     "Where images are in use, the next boot does it before it goes on. What\n"
     "was interrupted goes on when the command is given again.\n",
     "state dry_run json quiet control", OtaUndo},
    {"ota clean", "", "remove the COW files and undo logs of an update",
     "Of one that is merged, given up or not activated.\n",
     "state dry_run json quiet control", OtaClean},
    {"ota status", "", "where the update is, and what the next boot does", "",
     "state json", OtaStatus},
    {"list", "", "what is mapped, with or without a daemon", "", "json control",
     List},
};

std::vector<std::string> FlagNames(const Verb& verb) {
  return absl::StrSplit(verb.flags, ' ', absl::SkipEmpty());
}

bool TakesFlag(const Verb& verb, const std::string& name) {
  for (const std::string& known : FlagNames(verb)) {
    if (known == name) return true;
  }
  return false;
}

std::string Dashed(const std::string& flag) {
  std::string name = flag;
  for (char& c : name) c = c == '_' ? '-' : c;
  return absl::StrCat(name.size() == 1 ? "-" : "--", name);
}

// Lines of at most 76 columns, each begun with six spaces.
std::string Indented(const std::string& text) {
  constexpr size_t kColumns = 70;
  std::string out;
  std::string line;
  for (const absl::string_view word :
       absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && line.size() + 1 + word.size() > kColumns) {
      absl::StrAppend(&out, "      ", line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  return absl::StrCat(out, "      ", line, "\n");
}

}  // namespace

absl::Span<const Verb> Verbs() { return kVerbs; }

const Verb* FindVerb(const std::vector<std::string>& words, size_t* used) {
  for (const Verb& verb : kVerbs) {
    const std::vector<std::string> name = absl::StrSplit(verb.name, ' ');
    if (words.size() < name.size() ||
        !std::equal(name.begin(), name.end(), words.begin())) {
      continue;
    }
    *used = name.size();
    return &verb;
  }
  return nullptr;
}

absl::StatusOr<std::vector<std::string>> ParseFlags(
    const Verb& verb, const std::vector<std::string>& words) {
  std::vector<std::string> arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      arguments.insert(arguments.end(), words.begin() + i + 1, words.end());
      break;
    }
    if (word.size() < 2 || word[0] != '-') {
      arguments.push_back(word);
      continue;
    }
    const size_t begin = word[1] == '-' ? 2 : 1;
    const size_t equals = word.find('=');
    std::string name = word.substr(begin, equals - begin);
    for (char& c : name) c = c == '-' ? '_' : c;
    if (equals == std::string::npos) name = word.substr(begin);
    for (char& c : name) c = c == '-' ? '_' : c;
    absl::CommandLineFlag* flag =
        TakesFlag(verb, name) ? absl::FindCommandLineFlag(name) : nullptr;
    if (flag == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", verb.name, "\" takes no flag ", word));
    }
    std::string value = "true";
    if (equals != std::string::npos) {
      value = word.substr(equals + 1);
    } else if (!flag->IsOfType<bool>()) {
      if (++i == words.size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the flag ", word, " needs a value"));
      }
      value = words[i];
    }
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", value, "\" is no value for ", Dashed(name), ": ", error));
    }
  }
  return arguments;
}

std::string VerbHelp(const Verb& verb) {
  std::string text =
      absl::StrFormat("usage: dmuserctl %s%s%s [FLAGS]\n\n%s\n", verb.name,
                      *verb.arguments ? " " : "", verb.arguments, verb.summary);
  if (*verb.details != '\0') absl::StrAppend(&text, "\n", verb.details);
  absl::StrAppend(&text, "\nFlags:\n");
  for (const std::string& name : FlagNames(verb)) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    if (flag == nullptr) continue;
    std::string value;
    if (!flag->IsOfType<bool>()) {
      const std::string preset = flag->DefaultValue();
      value = preset.empty() ? " VALUE" : absl::StrCat(" (", preset, ")");
    }
    absl::StrAppend(&text, "  ", Dashed(name), value, "\n",
                    Indented(flag->Help()));
  }
  return text;
}

std::string GroupIntroduction(const std::string& group) {
  if (group == "ota") {
    return "An update of one or more images on one slot: a COW file for each,\n"
           "tried by booting it, kept or given up as a whole. The machine's\n"
           "side of it is one small file of state; power may go at any time.\n"
           "\n"
           "  dmuserctl ota stage update.manifest\n"
           "  dmuserctl ota activate   # then reboot\n"
           "  dmuserctl ota bless      # the new system is good\n"
           "  dmuserctl ota merge      # until here: ota rollback\n"
           "  dmuserctl ota clean      # after a reboot; until here: ota undo\n"
           "\n"
           "Each may be given again, and goes on where it was. Status 13: the\n"
           "update's state does not allow the verb.\n\n";
  }
  if (group != "cow") return "";
  return "A COW file is what turns one disk image into another: the format of\n"
         "Android's updates, versions 1 to 3. These verbs need no kernel, no\n"
         "daemon and no root.\n"
         "\n"
         "Make one, check it, look into it, apply it:\n"
         "\n"
         "  dmuserctl cow create old.img new.img -o update.cow\n"
         "  dmuserctl cow verify update.cow --base old.img\n"
         "  dmuserctl cow inspect update.cow --map\n"
         "  dmuserctl cow extract update.cow --base old.img -o new.img\n"
         "  dmuserctl cow merge update.cow --base old.img --dry-run\n"
         "  dmuserctl cow merge update.cow --base old.img\n"
         "\n"
         "extract writes the new image to a file of its own; merge turns\n"
         "old.img itself into it, and may be interrupted at any moment. "
         "Images\n"
         "may be block devices. Every verb ends with 0, or says in one line\n"
         "what is wrong and ends with: 2 usage, 3 corrupt, 4 wrong base,\n"
         "5 in use, 7 I/O error, 8 permission, 9 not found, 11 output exists,\n"
         "12 version not served, 130 interrupted, 1 anything else.\n\n";
}

std::string GeneralHelp() {
  std::string text =
      "usage: dmuserctl VERB [ARGUMENTS] [FLAGS]\n\n"
      "Block devices from user space, and system images from COW files.\n\n";
  for (const Verb& verb : kVerbs) {
    absl::StrAppendFormat(&text, "  %-12s %s\n", verb.name, verb.summary);
  }
  absl::StrAppend(
      &text,
      "\n\"dmuserctl help VERB\" says more about a verb.\n\n"
      "Exit codes: 0 done, 1 failure, 2 usage, 3 corrupt COW file, 4 wrong "
      "base,\n5 busy, 6 no kernel support, 7 I/O error, 8 no permission, 9 not "
      "found,\n10 no daemon, 11 already exists, 12 format not supported, 13 "
      "not in "
      "this\nstate of the update.\n");
  return text;
}

}  // namespace dmu::tools
