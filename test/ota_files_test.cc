// SPDX-License-Identifier: Apache-2.0
//
// Goal: what ota_machine_test shows of a model holds of files: updates of two
// images, cut before every step and inside it, and killed at any time, boot old
// or new whole and end as they were meant to.
// Method: the executor on real images, COW files and undo logs, with devices
// that are served by this process; after every cut a boot, a look at every byte
// it would mount, and the command again.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "test/cow_test_util.h"
#include "tools/cow_create.h"
#include "tools/cow_extract.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/ota/executor.h"
#include "tools/ota/file_world.h"
#include "tools/ota/manifest.h"
#include "tools/ota/store.h"
#include "tools/sha256.h"

namespace dmu::test {
namespace {

namespace fs = std::filesystem;
using ota::Boot;
using ota::Command;
using ota::Devices;
using ota::OtaState;
using ota::Step;
using tools::File;

// Devices of a machine that has no kernel for them: mapped is what was judged
// well; the merge is that of the tools.
class ServedHere : public Devices {
 public:
  absl::StatusOr<Presence> Look(const Snapshot& snapshot) override {
    return mapped_.count(snapshot.name) != 0 ? Presence::kServed
                                             : Presence::kNone;
  }
  absl::Status Map(const Snapshot& snapshot) override {
    if (has_no_module) return absl::UnavailableError("no module");
    const auto cow = tools::OpenCowFile(snapshot.cow);
    if (cow.ok()) mapped_[snapshot.name] = snapshot;
    return cow.status();
  }
  absl::Status Unmap(const std::string& name) override {
    mapped_.erase(name);
    return absl::OkStatus();
  }
  absl::Status MapVerity(const Verified&) override {
    return absl::UnavailableError("no kernel");
  }
  absl::Status UnmapVerity(const std::string&) override {
    return absl::OkStatus();
  }
  absl::Status CheckVerity(const std::string& name) override {
    return absl::NotFoundError(name);
  }
  absl::Status Merge(const Snapshot& snapshot, const std::string& undo_log,
                     const std::atomic<bool>*) override {
    tools::MergeOptions options;
    options.cow_path = snapshot.cow;
    options.base_path = snapshot.base;
    options.undo_log_path = undo_log;
    options.windows_max = windows_max;
    options.window_blocks = 64;
    const auto summary = tools::MergeOffline(options);
    if (!summary.ok()) return summary.status();
    return summary->finished ? absl::OkStatus()
                             : absl::CancelledError("a bit of it");
  }
  absl::Status Finish(const std::string&) override { return absl::OkStatus(); }
  absl::Status PauseMerge(const std::string&) override {
    return absl::OkStatus();
  }
  void PowerOff() { mapped_.clear(); }

  bool has_no_module = false;
  uint64_t windows_max = UINT64_MAX;

 private:
  std::map<std::string, Snapshot> mapped_;
};

// Lets so many calls through; the next one is not made, or not made whole, nor
// is any after it.
class CutWorld : public ota::World {
 public:
  CutWorld(ota::FileWorld* whole, ota::FileWorld* torn,
           std::string state_folder, int cut_before, bool tear)
      : whole_(*whole),
        torn_(*torn),
        folder_(std::move(state_folder)),
        cut_before_(cut_before),
        tear_(tear) {}

  absl::StatusOr<OtaState> Load() override { return whole_.Load(); }
  absl::Status Save(const OtaState& state) override {
    if (!Power()) {
      if (IsTearing()) Litter(folder_ + "/ota.state.new");
      return absl::CancelledError("cut");
    }
    return whole_.Save(state);
  }
  absl::Status Take(const Step& step, const OtaState& state) override {
    if (!Power()) {
      if (IsTearing() && step.image >= 0) {
        if (step.kind == Step::Kind::kPlace) {
          Litter(absl::StrCat(folder_, "/", state.image(step.image).cow(),
                              ".new"));
        } else if (step.kind == Step::Kind::kMerge ||
                   step.kind == Step::Kind::kUndo) {
          (void)torn_.Take(step, state);
        }
      }
      return absl::CancelledError("cut");
    }
    return whole_.Take(step, state);
  }
  bool is_cut() const { return calls_ > cut_before_; }
  int calls() const { return calls_; }

 private:
  bool Power() { return calls_++ < cut_before_; }
  bool IsTearing() const { return tear_ && calls_ == cut_before_ + 1; }
  static void Litter(const std::string& path) {
    std::ofstream(path, std::ios::binary) << "a piece of something";
  }

  ota::FileWorld& whole_;
  ota::FileWorld& torn_;
  const std::string folder_;
  const int cut_before_;
  const bool tear_;
  int calls_ = 0;
};

constexpr int kNever = 1 << 20;

class OtaFilesTest : public testing::Test {
 public:
  struct Turn {
    enum class Kind { kGive, kReboot, kABit, kUntried } kind;
    Command command = Command::kBoot;
  };

 protected:
  struct Image {
    std::string name;
    Bytes old_image;
    Bytes new_image;
  };

  void SetUp() override {
    // Thousands of flushes, which cost nothing in memory; what they order is
    // the simulator's business (test/sim).
    const bool has_memory = access("/dev/shm", W_OK) == 0;
    root_ = absl::StrCat(has_memory ? "/dev/shm" : testing::TempDir(),
                         "/ota_files_test-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    std::mt19937 random(7);
    images_.push_back({"root", RandomImage(&random, 160), {}});
    images_.push_back({"data", RandomImage(&random, 70), {}});
    for (Image& image : images_) Change(&image, &random);
    // One image grows.
    const Bytes more = RandomImage(&random, 40);
    images_[1].new_image.insert(images_[1].new_image.end(), more.begin(),
                                more.end());
    for (const Image& image : images_) {
      Write(image.name + ".old", image.old_image);
      Write(image.name + ".new", image.new_image);
      tools::CreateOptions create;
      create.old_path = Path(image.name + ".old");
      create.new_path = Path(image.name + ".new");
      create.output_path = Path(image.name + ".source");
      create.compression.compression = cow::Compression::kLz4;
      ASSERT_TRUE(tools::CreateCow(create).ok());
    }
    WriteManifest(/*undo_logs=*/true);
    Reset();
  }

  void TearDown() override { fs::remove_all(root_); }

  // Blocks that move, so that the merge needs an order, and new ones.
  static void Change(Image* image, std::mt19937* random) {
    image->new_image = image->old_image;
    const size_t blocks = image->old_image.size() / kBlockBytes;
    const Bytes fresh = RandomImage(random, static_cast<uint32_t>(blocks / 4));
    std::copy(fresh.begin(), fresh.end(), image->new_image.begin());
    std::copy(image->old_image.begin(),
              image->old_image.begin() +
                  static_cast<int64_t>(blocks / 2 * kBlockBytes),
              image->new_image.begin() +
                  static_cast<int64_t>((blocks / 4 + 3) * kBlockBytes));
  }

  void WriteManifest(bool undo_logs) {
    std::string text = "update: \"test\" boots_max: 20\n";
    for (const Image& image : images_) {
      const auto file = File::OpenForRead(Path(image.name + ".source"));
      ASSERT_TRUE(file.ok());
      absl::StrAppend(&text, "image { name: \"", image.name, "\" base: \"",
                      Path(image.name + ".base"), "\" cow: \"", image.name,
                      ".source\" cow_sha256: \"",
                      *tools::Sha256OfFile(*file, file->size_bytes()), "\"");
      if (undo_logs) {
        absl::StrAppend(&text, " undo_log: \"", image.name, ".undo\"");
      }
      absl::StrAppend(&text, " }\n");
    }
    std::ofstream(Path("manifest")) << text;
  }

  // The machine before the update.
  void Reset() {
    fs::remove_all(Path("state"));
    fs::create_directories(Path("state"));
    for (const Image& image : images_) {
      Write(image.name + ".base", image.old_image);
    }
    devices_.PowerOff();
    boot_id_ = 0;
  }

  std::string Path(const std::string& name) const { return root_ + "/" + name; }
  void Write(const std::string& name, const Bytes& bytes) const {
    std::ofstream(Path(name), std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  Bytes Read(const std::string& name) const {
    std::ifstream file(Path(name), std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
  }

  absl::StatusOr<ota::Outcome> Give(Command command, int* cut_before = nullptr,
                                    bool tear = false, bool untried = false) {
    ota::Store store(Path("state"));
    absl::Status locked = store.Lock();
    if (!locked.ok()) return locked;
    ota::Facts facts = {.boot_id = absl::StrCat(boot_id_), .untried = untried};
    ota::FileWorld::Options options;
    options.windows_max = devices_.windows_max;
    if (command == Command::kStage) {
      const auto manifest = ota::ReadManifest(Path("manifest"), "", store);
      if (!manifest.ok()) return manifest.status();
      facts.wanted = manifest->wanted;
      options.sources = manifest->sources;
    }
    ota::FileWorld whole(&store, &devices_, options);
    options.windows_max = 1;
    ota::FileWorld torn(&store, &devices_, options);
    int never = kNever;
    int* left = cut_before == nullptr ? &never : cut_before;
    CutWorld world(&whole, &torn, store.folder(), *left, tear);
    auto outcome = ota::RunCommand(&world, command, facts);
    is_cut_ = world.is_cut();
    *left -= world.calls();
    return outcome;
  }

  ota::Phase PhaseNow() {
    const auto state = ota::Store(Path("state")).Load();
    EXPECT_TRUE(state.ok()) << state.status();
    return state->phase();
  }

  // "old" or "new": what is there whole; else what is wrong.
  std::string SystemOf(Boot boot) {
    std::string system;
    for (const Image& image : images_) {
      Bytes seen;
      if (boot == Boot::kPlain) {
        seen = Read(image.name + ".base");
      } else {
        tools::ExtractOptions extract;
        extract.cow_path = Path("state/" + image.name + ".cow");
        extract.base_path = Path(image.name + ".base");
        extract.output_path = Path("seen");
        extract.force = true;
        const auto bytes = tools::ExtractTarget(extract);
        if (!bytes.ok()) return std::string(bytes.status().message());
        seen = Read("seen");
      }
      const std::string is = seen == image.old_image   ? "old"
                             : seen == image.new_image ? "new"
                                                       : "neither";
      if (!system.empty() && system != is) {
        return absl::StrCat(system, " and ", is);
      }
      system = is;
    }
    return system;
  }

  std::string Reboot(int* cut_before = nullptr, bool tear = false) {
    devices_.PowerOff();
    ++boot_id_;
    const auto outcome = Give(Command::kBoot, cut_before, tear);
    if (!outcome.ok()) return std::string(outcome.status().message());
    return SystemOf(outcome->boot);
  }

  // Takes one turn; cut_before counts down over turns.
  absl::Status Take(const Turn& turn, int* cut_before, bool tear) {
    if (turn.kind == Turn::Kind::kReboot) {
      devices_.PowerOff();
      ++boot_id_;
    }
    if (turn.kind == Turn::Kind::kABit) devices_.windows_max = 1;
    const auto outcome =
        Give(turn.command, cut_before, tear, turn.kind == Turn::Kind::kUntried);
    devices_.windows_max = UINT64_MAX;
    if (!outcome.ok() && turn.kind == Turn::Kind::kABit && !is_cut_ &&
        absl::IsCancelled(outcome.status())) {
      return absl::OkStatus();
    }
    if (outcome.ok() && turn.kind == Turn::Kind::kReboot && !is_cut_) {
      ExpectWhole(SystemOf(outcome->boot));
    }
    return outcome.status();
  }

  static void ExpectWhole(const std::string& system) {
    EXPECT_TRUE(system == "old" || system == "new") << system;
  }

  // The turns, with power cut once, after so many steps; false when there are
  // no more.
  bool TakeAll(const std::vector<Turn>& turns, int cut_before, bool tear) {
    Reset();
    int left = cut_before;
    bool was_cut = false;
    for (const Turn& turn : turns) {
      absl::Status status = Take(turn, was_cut ? nullptr : &left, tear);
      if (!was_cut && is_cut_) {
        was_cut = true;
        ExpectWhole(Reboot());
        if (turn.kind == Turn::Kind::kReboot) continue;
        status = Take(turn, nullptr, false);
      }
      EXPECT_TRUE(status.ok()) << ota::CommandName(turn.command) << ": "
                               << status << ", cut " << cut_before;
    }
    return was_cut;
  }

  // tears: also leaves the step that was cut half done.
  void ExpectEverywhere(const std::vector<Turn>& turns, const std::string& end,
                        bool tears = false) {
    for (int tear = 0; tear <= (tears ? 1 : 0); ++tear) {
      int cut = 0;
      for (; !HasFailure(); ++cut) {
        const bool was_cut = TakeAll(turns, cut, tear != 0);
        EXPECT_EQ(SystemOf(Boot::kPlain), end) << "cut " << cut;
        EXPECT_EQ(PhaseNow(), OtaState::NONE) << "cut " << cut;
        EXPECT_EQ(LeftOver(), "") << "cut " << cut;
        if (!was_cut) break;
      }
      EXPECT_GT(cut, 10);
    }
  }

  // What is in the state's folder but should not be.
  std::string LeftOver() const {
    std::string names;
    for (const auto& entry : fs::directory_iterator(Path("state"))) {
      const std::string name = entry.path().filename();
      if (name != "ota.state" && name != "ota.lock") {
        absl::StrAppend(&names, name, " ");
      }
    }
    return names;
  }

  std::string root_;
  std::vector<Image> images_;
  ServedHere devices_;
  int boot_id_ = 0;
  bool is_cut_ = false;
};

constexpr OtaFilesTest::Turn Order(Command command) {
  return {OtaFilesTest::Turn::Kind::kGive, command};
}
constexpr OtaFilesTest::Turn kReboot = {OtaFilesTest::Turn::Kind::kReboot};
constexpr OtaFilesTest::Turn kMergeABit = {OtaFilesTest::Turn::Kind::kABit,
                                           Command::kMerge};
constexpr OtaFilesTest::Turn kTrust = {OtaFilesTest::Turn::Kind::kUntried,
                                       Command::kBless};
constexpr OtaFilesTest::Turn kStage = Order(Command::kStage);
constexpr OtaFilesTest::Turn kActivate = Order(Command::kActivate);
constexpr OtaFilesTest::Turn kBless = Order(Command::kBless);
constexpr OtaFilesTest::Turn kMerge = Order(Command::kMerge);
constexpr OtaFilesTest::Turn kRollback = Order(Command::kRollback);
constexpr OtaFilesTest::Turn kUndo = Order(Command::kUndo);
constexpr OtaFilesTest::Turn kClean = Order(Command::kClean);

TEST_F(OtaFilesTest, Forward) {
  ExpectEverywhere(
      {kStage, kActivate, kReboot, kBless, kMerge, kReboot, kClean}, "new",
      /*tears=*/true);
}

TEST_F(OtaFilesTest, ForwardWithoutUndoLogs) {
  WriteManifest(/*undo_logs=*/false);
  ExpectEverywhere(
      {kStage, kActivate, kReboot, kBless, kMerge, kReboot, kClean}, "new");
}

TEST_F(OtaFilesTest, MergedWithoutDevices) {
  ExpectEverywhere({kStage, kTrust, kMerge, kReboot, kClean}, "new");
}

TEST_F(OtaFilesTest, RolledBack) {
  ExpectEverywhere({kStage, kActivate, kReboot, kRollback, kReboot, kClean},
                   "old");
}

TEST_F(OtaFilesTest, UndoneAfterTheMerge) {
  ExpectEverywhere({kStage, kActivate, kReboot, kBless, kMerge, kReboot, kUndo,
                    kReboot, kClean},
                   "old");
}

TEST_F(OtaFilesTest, UndoneAmidTheMerge) {
  ExpectEverywhere({kStage, kActivate, kReboot, kBless, kMergeABit, kReboot,
                    kMergeABit, kUndo, kReboot, kClean},
                   "old", /*tears=*/true);
}

TEST_F(OtaFilesTest, UndoneAndTriedAgain) {
  ExpectEverywhere(
      {kStage, kActivate, kReboot, kBless, kMergeABit, kUndo, kReboot,
       kActivate, kReboot, kBless, kMerge, kReboot, kClean},
      "new");
}

TEST_F(OtaFilesTest, AMissingModuleIsNoMissingSystem) {
  devices_.has_no_module = true;
  int never = kNever;
  ASSERT_TRUE(Take(kStage, &never, false).ok());
  ASSERT_TRUE(Take(kActivate, &never, false).ok());
  EXPECT_EQ(Reboot(), "old");
  EXPECT_EQ(PhaseNow(), OtaState::REJECTED);
  devices_.has_no_module = false;
  ASSERT_TRUE(Take(kActivate, &never, false).ok());
  EXPECT_EQ(Reboot(), "new");
  ASSERT_TRUE(Take(kBless, &never, false).ok());
  ASSERT_TRUE(Take(kMergeABit, &never, false).ok());
  EXPECT_EQ(PhaseNow(), OtaState::MERGING);
  devices_.has_no_module = true;
  EXPECT_EQ(Reboot(), "new");
  EXPECT_EQ(SystemOf(Boot::kPlain), "new");
  EXPECT_EQ(PhaseNow(), OtaState::MERGED);
}

TEST_F(OtaFilesTest, ADamagedUndoLogLeavesTheNewSystem) {
  int never = kNever;
  for (const Turn& turn : {kStage, kTrust, kMerge}) {
    ASSERT_TRUE(Take(turn, &never, false).ok());
  }
  Bytes log = Read("state/data.undo");
  log[log.size() / 2] ^= 1;
  for (size_t i = 5000; i < 9000; ++i) log[i] ^= 0x5a;
  Write("state/data.undo", log);
  EXPECT_FALSE(Take(kUndo, &never, false).ok());
  EXPECT_EQ(PhaseNow(), OtaState::UNDOING);
  EXPECT_EQ(Reboot(), "new");
  ASSERT_TRUE(Take(kMerge, &never, false).ok()) << "the way out";
  EXPECT_EQ(Reboot(), "new");
}

TEST_F(OtaFilesTest, WhatDoesNotFitIsNotStaged) {
  int never = kNever;
  Write("data.base", images_[0].old_image);
  EXPECT_TRUE(absl::IsFailedPrecondition(Take(kStage, &never, false)));
  EXPECT_EQ(PhaseNow(), OtaState::NONE);
  Write("data.base", images_[1].old_image);

  Bytes cow = Read("data.source");
  const Bytes good = cow;
  cow[cow.size() / 2] ^= 1;
  Write("data.source", cow);
  EXPECT_TRUE(absl::IsDataLoss(Take(kStage, &never, false)));
  EXPECT_EQ(PhaseNow(), OtaState::NONE);
  EXPECT_EQ(LeftOver(), "");
  Write("data.source", good);

  // Samples do not see one byte; the digests of the whole target do.
  Bytes base = images_[1].old_image;
  base[base.size() - 5] ^= 1;
  Write("data.base", base);
  EXPECT_FALSE(Take(kStage, &never, false).ok());
  EXPECT_NE(PhaseNow(), OtaState::STAGED);
  Write("data.base", images_[1].old_image);
  EXPECT_TRUE(Take(kStage, &never, false).ok());
  EXPECT_EQ(PhaseNow(), OtaState::STAGED);
}

TEST_F(OtaFilesTest, ADamagedStateIsNotGuessedAt) {
  int never = kNever;
  ASSERT_TRUE(Take(kStage, &never, false).ok());
  const Bytes good = Read("state/ota.state");
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    Bytes bad = good;
    if (i % 2 == 0) {
      bad[random() % bad.size()] ^= static_cast<uint8_t>(1 << random() % 8);
    } else {
      bad.resize(random() % bad.size());
    }
    Write("state/ota.state", bad);
    const auto outcome = Give(Command::kBoot);
    EXPECT_TRUE(absl::IsDataLoss(outcome.status())) << i << outcome.status();
    EXPECT_TRUE(Read("state/ota.state") == bad);
  }
}

TEST_F(OtaFilesTest, OneCommandAtATime) {
  ota::Store first(Path("state"));
  ota::Store second(Path("state"));
  ASSERT_TRUE(first.Lock().ok());
  EXPECT_TRUE(absl::IsAborted(second.Lock()));
}

// A process of its own goes through the update and is killed, in the end, at
// every place there is.
TEST_F(OtaFilesTest, KilledAtAnyTime) {
  std::mt19937 random(11);
  const std::vector<Turn> turns = {kStage, kTrust, kMerge, kUndo};
  for (int round = 0; round < 2; ++round) {
    Reset();
    int kills = 0;
    for (const Turn& turn : turns) {
      for (bool is_done = false; !is_done && !HasFailure();) {
        const pid_t child = fork();
        if (child == 0) {
          int never = kNever;
          _exit(Take(turn, &never, false).ok() ? 0 : 1);
        }
        ASSERT_GT(child, 0);
        // Longer each time, so that it ends.
        timespec wait = {0, static_cast<long>(random() % 400'000) * (++kills)};
        nanosleep(&wait, nullptr);
        kill(child, SIGKILL);
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        is_done = WIFEXITED(status);
        if (is_done) {
          EXPECT_EQ(WEXITSTATUS(status), 0) << round;
        }
        const auto outcome = Give(Command::kBoot);
        ASSERT_TRUE(outcome.ok()) << outcome.status();
        ExpectWhole(SystemOf(outcome->boot));
        devices_.PowerOff();
      }
    }
    EXPECT_EQ(SystemOf(Boot::kPlain), "old");
    EXPECT_GT(kills, static_cast<int>(turns.size()));
  }
}

}  // namespace
}  // namespace dmu::test
