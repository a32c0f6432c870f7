// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever a power cut leaves of the two disks of a merge, the target
// reads right and the merge can be ended.
//
// Method: the log of a merge on a real kernel (write_log.h) is replayed onto
// the disks as they were at its start. Base and COW lay side by side on one
// logged device, so the log has the order of all writes; each flush belongs to
// the one it was asked for, as if they were two disks with a cache each. Before
// every flush, and at the end, the states that a power cut may leave are made:
// none or all of either cache, and random choices. In each the libraries of
// dmuserctl verify the COW file and read the whole target; of the random ones
// all, of the others every eighth is merged to the end.
//
// That the checks notice anything is seen with a disk that lies: what a flush
// was for is dropped, what came after it is kept. For a flush of the base that
// a commit followed this must be noticed always; of the COW, at least once: the
// next window may not touch what the one before it read.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "test/sim/rng.h"
#include "test/vm/cached_disk.h"
#include "test/vm/write_log.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/cow_verify.h"
#include "tools/file_io.h"
#include "tools/target_reader.h"

namespace dmu {
namespace {

using Choice = CachedDisk::Choice;

constexpr char kUsage[] =
    "usage: log_replay OLD COW NEW LOG DISK SEED [STATES [FOLDER]]\n"
    "\n"
    "OLD, COW, NEW   images the merge began with and is to lead to\n"
    "LOG             what dm-log-writes wrote\n"
    "DISK            the logged disk after the merge: base, then COW\n"
    "STATES          random states at each flush (8)\n"
    "FOLDER          where the disks of a state that fails are kept\n";

constexpr uint32_t kMergeOneIn = 8;

std::vector<uint8_t> ReadWhole(const std::string& path) {
  absl::StatusOr<tools::File> file = tools::File::OpenForRead(path);
  std::vector<uint8_t> bytes;
  absl::Status status = file.status();
  if (status.ok()) {
    bytes.resize(file->size_bytes());
    status = file->ReadAt(0, bytes);
  }
  if (!status.ok()) {
    fprintf(stderr, "%s\n", status.ToString().c_str());
    exit(1);
  }
  return bytes;
}

// Where two images differ first, a sentence.
absl::Status Compare(const char* what, uint64_t offset, ConstByteSpan found,
                     ConstByteSpan expected) {
  if (std::equal(found.begin(), found.end(), expected.begin(),
                 expected.end())) {
    return absl::OkStatus();
  }
  const auto at = std::mismatch(found.begin(), found.end(), expected.begin(),
                                expected.end());
  if (at.first == found.end() || at.second == expected.end()) {
    return absl::DataLossError(
        absl::StrFormat("%s: expected %d bytes, found "
                        "%d",
                        what, expected.size(), found.size()));
  }
  const uint64_t differs = offset + (at.first - found.begin());
  return absl::DataLossError(absl::StrFormat(
      "%s: block %d, offset %d: expected byte %#04x, found %#04x", what,
      differs / kBlockBytes, differs, *at.second, *at.first));
}

std::string Describe(const Choice& choice) {
  switch (choice.kind) {
    case Choice::Kind::kNone:
      return "nothing of the cache";
    case Choice::Kind::kAll:
      return "all of the cache";
    case Choice::Kind::kSome:
      return absl::StrCat(choice.keep, "/256 of the cache's writes");
    case Choice::Kind::kTorn:
      return absl::StrCat(choice.keep, "/256 of the cache's sectors");
    case Choice::Kind::kLostFlush:
      return "what was written after the last flush, nothing of what it was "
             "for";
  }
  return "";
}

// One of the two, with its place in the log.
struct Disk {
  Disk(const char* name, uint64_t begin, std::vector<uint8_t> initial)
      : name(name), begin(begin), bytes(initial.size()), cached(initial) {}

  const char* name;
  const uint64_t begin;
  const uint64_t bytes;
  CachedDisk cached;
  uint32_t flushes = 0;
  // Flushes that were dropped for a trial, and those of them where a check
  // failed; and both for the last flush.
  uint32_t lost = 0;
  uint32_t caught = 0;
  bool lost_now = false;
  bool caught_now = false;
};

class Replay {
 public:
  Replay(std::vector<uint8_t> old_image, std::vector<uint8_t> cow,
         std::vector<uint8_t> new_image, uint64_t seed, uint32_t states,
         std::string folder)
      : base_("base", 0, old_image),
        cow_("COW", old_image.size(), cow),
        new_(std::move(new_image)),
        seed_(seed),
        random_states_(states),
        folder_(std::move(folder)) {}

  absl::Status Run(const WriteLog& log, const std::vector<uint8_t>& after) {
    for (const LogEntry& entry : log.entries()) {
      absl::Status status = Step(entry);
      if (!status.ok()) return status;
      ++entry_;
    }
    absl::Status status = Explore();
    if (!status.ok()) return status;
    EndLostFlush(&base_);
    EndLostFlush(&cow_);
    status = CheckEnd(after);
    return status.ok() ? CheckTeeth() : status;
  }

  void PrintSummary() const {
    printf(
        "%u entries; %u flushes of the base, %u of the COW; %u states read "
        "right, %u of them merged to the end\n"
        "dropped flushes that were noticed: %u of %u of the base, %u of %u of "
        "the COW\n",
        entry_, base_.flushes, cow_.flushes, states_, merges_, base_.caught,
        base_.lost, cow_.caught, cow_.lost);
  }

 private:
  absl::Status At(const absl::Status& status) const {
    return absl::Status(status.code(),
                        absl::StrCat("entry ", entry_, ": ", status.message()));
  }

  Disk* Owner(const LogEntry& entry) {
    for (Disk* disk : {&base_, &cow_}) {
      const uint64_t end = disk->begin + disk->bytes;
      if (entry.offset >= disk->begin && entry.offset < end &&
          entry.length_bytes <= end - entry.offset) {
        return disk;
      }
    }
    return nullptr;
  }

  absl::Status Step(const LogEntry& entry) {
    if (entry.mark) return absl::OkStatus();
    Disk* disk = Owner(entry);
    if (disk == nullptr || entry.fua || entry.discard) {
      return At(absl::UnimplementedError(absl::StrFormat(
          "%d bytes at offset %d%s%s: expected a write to one disk, or a flush",
          entry.length_bytes, entry.offset, entry.fua ? ", FUA" : "",
          entry.discard ? ", discarded" : "")));
    }
    if (entry.flush) {
      // Else the flush may be the other's, and would promise too much.
      if (entry.offset != disk->begin) {
        return At(absl::UnimplementedError(absl::StrFormat(
            "a flush at offset %d: expected 0 or %d, where the disks begin",
            entry.offset, cow_.begin)));
      }
      absl::Status status = Explore();
      if (!status.ok()) return status;
      EndLostFlush(disk);
      disk->cached.Flush();
      ++disk->flushes;
      if (disk == &base_) committed_ = false;
    }
    if (!entry.data.empty()) {
      disk->cached.Write(entry.offset - disk->begin, entry.data);
      committed_ = committed_ || disk == &cow_;
    }
    return absl::OkStatus();
  }

  // All states to be checked at this place of the log.
  absl::Status Explore() {
    using Kind = Choice::Kind;
    const bool base_can = base_.cached.cached_writes() > 0;
    const bool cow_can = cow_.cached.cached_writes() > 0;
    for (const Kind base : {Kind::kAll, Kind::kNone}) {
      for (const Kind cow : {Kind::kAll, Kind::kNone}) {
        // What is the same as a state before it.
        if ((base == Kind::kNone && !base_can) ||
            (cow == Kind::kNone && !cow_can)) {
          continue;
        }
        absl::Status status =
            CheckState({base}, {cow}, states_ % kMergeOneIn == 0);
        if (!status.ok()) return status;
      }
    }
    sim::Rng rng(sim::Mix(seed_ + entry_));
    const uint32_t states = base_can || cow_can ? random_states_ : 0;
    for (uint32_t i = 0; i < states; ++i) {
      const Choice base = RandomChoice(&rng);
      const Choice cow = RandomChoice(&rng);
      absl::Status status = CheckState(base, cow, /*merge=*/true);
      if (!status.ok()) return status;
    }
    if (committed_) TryLostFlush(&base_);
    TryLostFlush(&cow_);
    return absl::OkStatus();
  }

  static Choice RandomChoice(sim::Rng* rng) {
    static constexpr Choice::Kind kKinds[] = {
        Choice::Kind::kNone, Choice::Kind::kAll,  Choice::Kind::kSome,
        Choice::Kind::kSome, Choice::Kind::kSome, Choice::Kind::kTorn};
    static constexpr uint32_t kKeep[] = {8, 64, 128, 192, 248};
    return {kKinds[rng->Below(std::size(kKinds))],
            kKeep[rng->Below(std::size(kKeep))], rng->Next()};
  }

  void Show(const Choice& base, const Choice& cow) {
    base_.cached.Show(base);
    cow_.cached.Show(cow);
  }

  absl::Status CheckState(const Choice& base, const Choice& cow, bool merge) {
    ++states_;
    Show(base, cow);
    absl::Status status = CheckReads();
    if (status.ok() && merge) {
      ++merges_;
      status = CheckMerge();
    }
    if (status.ok()) return status;
    Show(base, cow);
    Keep();
    return At(absl::Status(
        status.code(),
        absl::StrCat("seed ", seed_, ", state ", states_, ", the base has ",
                     Describe(base), ", the COW has ", Describe(cow), ": ",
                     status.message())));
  }

  absl::Status CheckReads() const {
    absl::StatusOr<tools::CowFile> cow = tools::OpenCowFile(cow_.cached.path());
    if (!cow.ok()) return cow.status();
    absl::StatusOr<tools::File> base =
        tools::File::OpenForRead(base_.cached.path());
    if (!base.ok()) return base.status();
    absl::StatusOr<tools::VerifyReport> report =
        tools::VerifyCow(cow->file, {.base = &*base});
    if (!report.ok()) return report.status();
    if (report->verdict != tools::Verdict::kGood) {
      return absl::DataLossError(absl::StrCat(
          "verify: expected good, found ", tools::VerdictName(report->verdict),
          ": ", report->findings.empty() ? "" : report->findings[0].message));
    }
    absl::StatusOr<tools::TargetReader> reader =
        tools::TargetReader::Create(*cow, *base);
    if (!reader.ok()) return reader.status();
    if (reader->target_bytes() != new_.size()) {
      return absl::DataLossError(
          absl::StrFormat("size of the target: expected %d, found %d",
                          new_.size(), reader->target_bytes()));
    }
    std::vector<uint8_t> piece(1 << 20);
    for (uint64_t at = 0; at < new_.size(); at += piece.size()) {
      const uint64_t bytes = std::min(piece.size(), new_.size() - at);
      absl::Status status = reader->ReadAt(at, ByteSpan(piece.data(), bytes));
      if (status.ok()) {
        status = Compare("the target", at, ConstByteSpan(piece.data(), bytes),
                         ConstByteSpan(new_.data() + at, bytes));
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Changes what is shown.
  absl::Status CheckMerge() {
    base_.cached.Forget();
    cow_.cached.Forget();
    absl::StatusOr<tools::MergeSummary> merged = tools::MergeOffline(
        {.cow_path = cow_.cached.path(), .base_path = base_.cached.path()});
    if (!merged.ok()) return merged.status();
    if (!merged->finished) {
      return absl::InternalError(
          absl::StrFormat("the merge stopped after %d of %d ops",
                          merged->merged_ops, merged->total_ops));
    }
    return Compare("the merged base", 0, base_.cached.shown(), new_);
  }

  void TryLostFlush(Disk* disk) {
    if (!disk->cached.flush_mattered() || disk->caught_now) return;
    const Choice all = {Choice::Kind::kAll};
    const Choice lost = {Choice::Kind::kLostFlush};
    disk->lost_now = true;
    Show(disk == &base_ ? lost : all, disk == &cow_ ? lost : all);
    disk->caught_now = !CheckReads().ok() || !CheckMerge().ok();
  }

  void EndLostFlush(Disk* disk) {
    disk->lost += disk->lost_now ? 1 : 0;
    disk->caught += disk->caught_now ? 1 : 0;
    disk->lost_now = disk->caught_now = false;
  }

  // The log is whole and was read as it was meant.
  absl::Status CheckEnd(const std::vector<uint8_t>& after) {
    Show({Choice::Kind::kAll}, {Choice::Kind::kAll});
    const ConstByteSpan disk(after);
    if (disk.size() < cow_.begin + cow_.bytes) {
      return absl::DataLossError(
          absl::StrFormat("the logged disk: expected %d bytes, found %d",
                          cow_.begin + cow_.bytes, disk.size()));
    }
    absl::Status status =
        Compare("the base after the log", 0, base_.cached.shown(),
                disk.first(base_.bytes));
    if (status.ok()) {
      status = Compare("the COW after the log", 0, cow_.cached.shown(),
                       disk.subspan(cow_.begin, cow_.bytes));
    }
    if (!status.ok()) return status;
    return Compare("the base at the end", 0, base_.cached.shown(), new_);
  }

  absl::Status CheckTeeth() const {
    if (base_.caught > 0 && base_.caught == base_.lost && cow_.caught > 0) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrFormat(
        "dropped flushes were not noticed: expected all of %d of the base and "
        "one of the COW, found %d, and %d of %d",
        base_.lost, base_.caught, cow_.caught, cow_.lost));
  }

  void Keep() const {
    if (folder_.empty()) return;
    for (const Disk* disk : {&base_, &cow_}) {
      const std::string path = absl::StrCat(folder_, "/failed.", disk->name);
      FILE* file = fopen(path.c_str(), "we");
      const ConstByteSpan bytes = disk->cached.shown();
      if (file == nullptr ||
          fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size() ||
          fclose(file) != 0) {
        perror(path.c_str());
        continue;
      }
      fprintf(stderr, "kept: %s\n", path.c_str());
    }
  }

  Disk base_;
  Disk cow_;
  const std::vector<uint8_t> new_;
  const uint64_t seed_;
  const uint32_t random_states_;
  const std::string folder_;
  bool committed_ = false;  // the COW was written since the base's last flush
  uint32_t entry_ = 0;
  uint32_t states_ = 0;
  uint32_t merges_ = 0;
};

int Main(int argc, char** argv) {
  if (argc < 7 || argc > 9) {
    fputs(kUsage, stderr);
    return 2;
  }
  const auto start = std::chrono::steady_clock::now();
  const uint64_t seed = strtoull(argv[6], nullptr, 10);
  const uint32_t states =
      argc > 7 ? static_cast<uint32_t>(strtoul(argv[7], nullptr, 10)) : 8;
  absl::StatusOr<WriteLog> log = WriteLog::Read(argv[4]);
  if (!log.ok()) {
    fprintf(stderr, "%s\n", log.status().ToString().c_str());
    return 1;
  }
  Replay replay(ReadWhole(argv[1]), ReadWhole(argv[2]), ReadWhole(argv[3]),
                seed, states, argc > 8 ? argv[8] : "");
  const absl::Status status = replay.Run(*log, ReadWhole(argv[5]));
  replay.PrintSummary();
  printf("seed %llu, %.1f s\n", static_cast<unsigned long long>(seed),
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
             .count());
  if (status.ok()) return 0;
  fprintf(stderr, "FAILED: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) { return dmu::Main(argc, argv); }
