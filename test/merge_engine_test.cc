// SPDX-License-Identifier: Apache-2.0
//
// merge_engine_test.cc - what the engine asks for, as transcripts.
//
// Goal: the commit protocol of each kind of window can be read here, command by
// command. Method: small files whose whole merge is one list of lines. Offsets
// are bytes: 512+7758 is the scratch metadata outside the first sector, 8270 is
// where scratch data begins.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/progress.h"
#include "daemon/merge/engine.h"
#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu::merge {
namespace {

using sim::Change;

Change Copy(uint32_t to, uint32_t from) {
  Change change;
  change.type = cow::OpType::kCopy;
  change.new_block = to;
  change.source_bytes = uint64_t{from} * kBlockBytes;
  return change;
}

Change Zero(uint32_t to) {
  Change change;
  change.new_block = to;
  return change;
}

Change Replace(uint32_t to, uint8_t span_log2 = 0) {
  Change change;
  change.type = cow::OpType::kReplace;
  change.new_block = to;
  change.span_log2 = span_log2;
  change.data.assign(size_t{kBlockBytes} << span_log2, 'r');
  return change;
}

sim::Scenario MakeFile(uint32_t blocks, std::vector<Change> changes,
                       bool scratch, bool sequence = false) {
  sim::Rng rng(1);
  sim::LayoutOptions layout;
  layout.scratch = scratch;
  layout.sequence = sequence;
  layout.span_log2_max = 1;
  return sim::Build(sim::NumberedBlocks(blocks, 1), std::move(changes), layout,
                    &rng);
}

struct Files {
  static constexpr size_t begin_state = cow::kHeaderBytesV3;

  explicit Files(sim::Scenario made)
      : scenario(std::move(made)),
        base(&store, scenario.base),
        cow(&store, scenario.cow) {}

  // The commands of a merge to its end, without those that begin each one and
  // the reads of the op table; or what went wrong.
  std::string Merge(sim::MachineOptions options) {
    options.staging_blocks = std::max(options.staging_blocks, 2u);
    sim::MergeMachine machine(scenario, {base, cow, {}}, options, 1);
    if (!machine.Load()) return machine.error();
    while (machine.Step()) {
    }
    if (!machine.finished()) return machine.error();
    std::string text = machine.runner().transcript();
    const std::string flush = "\nflush-cow\n";
    const size_t begin = text.find(flush);
    if (text.rfind("read-sector 0+", 0) != 0 || begin != text.find('\n')) {
      return "no begin: " + text;
    }
    text.erase(0, begin + flush.size());
    // Where there is a state byte, it says first that a merge has begun.
    const std::string mark = "mark 0+512" + flush;
    const bool fresh = scenario.scratch && cow.Contents()[begin_state] == 0;
    if ((text.rfind(mark, 0) == 0) != fresh) return "no mark: " + text;
    if (fresh) text.erase(0, mark.size());
    for (size_t at; (at = text.find("read-ops")) != std::string::npos;) {
      text.erase(at, text.find('\n', at) + 1 - at);
    }
    return text;
  }

  const sim::Scenario scenario;
  sim::SectorStore store;
  sim::SimDisk base;
  sim::SimDisk cow;
};

std::unique_ptr<cow::Image> Load(const std::vector<uint8_t>& file) {
  cow::Loader loader(file.size());
  while (!loader.done()) {
    const cow::Loader::Want want = loader.want();
    if (!loader.Feed({file.data() + want.offset, want.bytes}).ok()) {
      return nullptr;
    }
  }
  return loader.Take();
}

TEST(MergeEngineTest, CopiesWithoutAConflictAreWrittenOnce) {
  Files files(MakeFile(8, {Copy(0, 4), Copy(1, 5), Copy(2, 7)}, true));
  EXPECT_EQ(files.Merge({.staging_blocks = 8}),
            "read-source 16384+8192\n"
            "read-source 28672+4096\n"
            "write-base 0+12288\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

TEST(MergeEngineTest, CopiesThatOverlapGoThroughScratch) {
  Files files(MakeFile(4, {Copy(0, 1), Copy(1, 2), Copy(2, 3)}, true));
  EXPECT_EQ(files.Merge({.staging_blocks = 8}),
            "read-source 4096+12288\n"
            "write-scratch 512+7758\n"
            "write-scratch 8270+12288\n"
            "flush-cow\n"
            "write-state 0+512\n"
            "flush-cow\n"
            "write-base 0+12288\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

TEST(MergeEngineTest, ALongDirectPrefixIsPreferredToScratch) {
  // 0<-2 1<-3, then 2<-4 overwrites what the first one read.
  Files files(
      MakeFile(6, {Copy(0, 2), Copy(1, 3), Copy(2, 4), Copy(3, 5)}, true));
  EXPECT_EQ(files.Merge({.staging_blocks = 8, .direct_ops_min = 2}),
            "read-source 8192+8192\n"
            "write-base 0+8192\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n"
            "read-source 16384+8192\n"
            "write-base 8192+8192\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

TEST(MergeEngineTest, WithoutScratchTheWindowsEndAtConflicts) {
  // The file is shorter than a sector, and stays so.
  Files files(MakeFile(3, {Copy(0, 1), Copy(1, 2)}, false));
  const std::string size = std::to_string(files.scenario.cow.size());
  EXPECT_EQ(files.Merge({.staging_blocks = 8}),
            "read-source 4096+4096\n"
            "write-base 0+4096\n"
            "flush-base\n"
            "commit 0+" +
                size +
                "\nflush-cow\n"
                "read-source 8192+4096\n"
                "write-base 4096+4096\n"
                "flush-base\n"
                "commit 0+" +
                size + "\nflush-cow\n");
}

TEST(MergeEngineTest, DataAndZerosShareADirectWindow) {
  Files files(MakeFile(
      8, {Replace(0, 1), Zero(2), Zero(3), Replace(4), Zero(2)}, false));
  const cow::Header header = cow::DecodeHeader(files.scenario.cow.data());
  const std::string data = std::to_string(header.DataOffset());
  const std::string data2 = std::to_string(header.DataOffset() + 8192);
  // The second entry for block 2 counts and does nothing.
  EXPECT_EQ(files.Merge({.staging_blocks = 4}),
            "load-unit " + data + "+8192\nload-unit " + data2 +
                "+4096\n"
                "write-base 0+8192\n"
                "zero-base 8192+8192\n"
                "write-base 16384+4096\n"
                "flush-base\n"
                "commit 0+512\n"
                "flush-cow\n");
}

TEST(MergeEngineTest, EveryChangeOfKindEndsAWindow) {
  Files files(MakeFile(4, {Zero(0), Copy(1, 2), Zero(3)}, true));
  const std::string commit = "flush-base\ncommit 0+512\nflush-cow\n";
  EXPECT_EQ(files.Merge({.staging_blocks = 4}),
            "zero-base 0+4096\n" + commit +
                "read-source 8192+4096\nwrite-base 4096+4096\n" + commit +
                "zero-base 12288+4096\n" + commit);
}

// Runs a merge until `command` has been handed out, then cuts the power with
// everything kept.
void RunUntil(Files* files, const std::string& command) {
  sim::MergeMachine machine(files->scenario, {files->base, files->cow, {}},
                            {.staging_blocks = 8}, 1);
  ASSERT_TRUE(machine.Load());
  while (machine.runner().transcript().find(command) == std::string::npos) {
    ASSERT_TRUE(machine.Step()) << machine.error();
  }
  const auto after = [](const sim::SimDisk& disk) {
    return sim::SimDisk(
        disk, disk.AfterCrash(std::vector<bool>(disk.pending().size(), true)));
  };
  files->base = after(machine.disks().base);
  files->cow = after(machine.disks().cow);
}

TEST(MergeEngineTest, AStagedWindowIsReplayedFromScratch) {
  Files files(MakeFile(4, {Copy(0, 1), Copy(1, 2), Copy(2, 3)}, true));
  RunUntil(&files, "write-base");
  EXPECT_EQ(files.Merge({.staging_blocks = 8}),
            "read-scratch 8270+12288\n"
            "write-base 0+12288\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

TEST(MergeEngineTest, AReplayThatDoesNotFitGoesInPieces) {
  Files files(MakeFile(4, {Copy(0, 1), Copy(1, 2), Copy(2, 3)}, true));
  RunUntil(&files, "write-base");
  EXPECT_EQ(files.Merge({.staging_blocks = 2}),
            "read-scratch 8270+8192\n"
            "write-base 0+8192\n"
            "flush-base\n"
            "read-scratch 16462+4096\n"
            "write-base 8192+4096\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

// Android stores counter and state apart from each other: after a crash the
// file may say "staged" and hold the counter of the window that was staged.
TEST(MergeEngineTest, AWindowThatIsCommittedAlreadyIsNotReplayed) {
  Files files(MakeFile(5, {Copy(0, 1), Copy(1, 2), Copy(2, 3), Zero(4)}, true));
  RunUntil(&files, "flush-base");
  std::vector<uint8_t> file = files.cow.Contents();
  ASSERT_EQ(file[cow::kHeaderBytesV3],
            static_cast<uint8_t>(cow::ScratchState::kWindowStaged));
  StoreLe<uint64_t>(file.data() + cow::kMergeCounterOffset, 3);
  files.cow = sim::SimDisk(&files.store, file);
  EXPECT_EQ(files.Merge({.staging_blocks = 8}),
            "zero-base 16384+4096\n"
            "flush-base\n"
            "commit 0+512\n"
            "flush-cow\n");
}

TEST(MergeEngineTest, AScratchRegionThatFitsNothingIsServedAndNotMerged) {
  Files files(MakeFile(4, {Copy(0, 1), Copy(1, 2), Copy(2, 3)}, true));
  RunUntil(&files, "write-base");
  std::vector<uint8_t> file = files.cow.Contents();
  StoreLe<uint64_t>(file.data() + cow::kMergeCounterOffset, 1);
  const auto image = Load(file);
  ASSERT_NE(image, nullptr);
  Engine engine(*image, 4 * kBlockBytes, file.size(), {});
  EXPECT_NE(std::string(engine.refusal()), "");
  engine.Start();
  EXPECT_EQ(engine.state(), Engine::State::kFailed);
  EXPECT_STREQ(engine.error(), engine.refusal());
  uint64_t offset = 0;
  EXPECT_TRUE(engine.InScratch(2, &offset));
  EXPECT_EQ(offset, cow::Header().ScratchDataOffset(2));
  EXPECT_FALSE(engine.InScratch(3, &offset));
  engine.CheckInvariants();
}

TEST(MergeEngineTest, OrdersAndBasesThatCannotBeMergedAreRefused) {
  // Block 1 is overwritten before it is read.
  const sim::Scenario wrong = MakeFile(4, {Copy(1, 2), Copy(0, 1)}, true);
  const auto image = Load(wrong.cow);
  ASSERT_NE(image, nullptr);
  EXPECT_NE(
      std::string(
          Engine(*image, 4 * kBlockBytes, wrong.cow.size(), {}).refusal()),
      "");

  const sim::Scenario right = MakeFile(4, {Zero(3)}, true);
  const auto small = Load(right.cow);
  ASSERT_NE(small, nullptr);
  EXPECT_STREQ(Engine(*small, 4 * kBlockBytes, right.cow.size(), {}).refusal(),
               "");
  EXPECT_NE(
      std::string(
          Engine(*small, 3 * kBlockBytes, right.cow.size(), {}).refusal()),
      "");
}

// Drives an engine by hand over a file that needs no disk but the COW's bytes.
class HandTest : public testing::Test {
 protected:
  void Make(sim::Scenario scenario) {
    scenario_ = std::move(scenario);
    image_ = Load(scenario_.cow);
    ASSERT_NE(image_, nullptr);
    engine_ = std::make_unique<Engine>(*image_, scenario_.base.size(),
                                       scenario_.cow.size(), Engine::Options());
    engine_->Attach(&workspace_, staging_);
  }

  // Hands out the next command and ends it.
  std::string Next(IoStatus status = IoStatus::kOk) {
    Command command;
    switch (engine_->Next(&command)) {
      case Engine::Turn::kWaitDone:
        return "wait-done";
      case Engine::Turn::kWaitLease:
        return "wait-lease";
      case Engine::Turn::kStop:
        return "stop";
      case Engine::Turn::kCommand:
        break;
    }
    if (command.kind == Command::Kind::kReadSector ||
        command.kind == Command::Kind::kReadOps) {
      std::memcpy(command.data, scenario_.cow.data() + command.offset,
                  command.length_bytes);
    }
    engine_->Done(command.id, status);
    engine_->CheckInvariants();
    return CommandName(command.kind);
  }

  sim::Scenario scenario_;
  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<Engine> engine_;
  Workspace workspace_{kWindowOpsDefault};
  std::vector<uint8_t> staging_ = std::vector<uint8_t>(8 * kBlockBytes);
};

TEST_F(HandTest, AWindowWaitsForReadsOfSourcesThatItOverwrites) {
  Make(MakeFile(4, {Copy(0, 1), Copy(1, 2)}, true));
  Lease on_window;
  engine_->leases()->Take(&on_window, 0);
  engine_->Start();
  for (const char* expected :
       {"read-sector", "flush-cow", "mark", "flush-cow", "read-ops",
        "read-source", "write-scratch", "write-scratch", "flush-cow",
        "write-state", "flush-cow", "wait-lease"}) {
    EXPECT_EQ(Next(), expected);
  }
  // New reads come from staging by now.
  EXPECT_EQ(engine_->Staged(0), staging_.data());
  EXPECT_EQ(engine_->Staged(1), staging_.data() + kBlockBytes);
  EXPECT_EQ(engine_->Staged(2), nullptr);
  engine_->leases()->Release(&on_window);
  EXPECT_EQ(Next(), "write-base");
  EXPECT_EQ(Next(), "flush-base");
  EXPECT_EQ(Next(), "commit");
  EXPECT_EQ(engine_->merged_ops(), 0u);
  EXPECT_EQ(Next(), "flush-cow");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kDone);
  EXPECT_EQ(engine_->merged_ops(), 2u);
  EXPECT_EQ(engine_->merged_bytes(), 2u * kBlockBytes);
  engine_->Detach();
}

TEST_F(HandTest, ADirectWindowWaitsForReadsOfEarlierOnesOnly) {
  Make(MakeFile(6, {Copy(0, 2), Copy(1, 3), Zero(2), Zero(3)}, true));
  Lease first;
  engine_->leases()->Take(&first, 1);
  engine_->Start();
  for (const char* expected :
       {"read-sector", "flush-cow", "mark", "flush-cow", "read-ops",
        "read-source", "write-base", "flush-base", "commit", "flush-cow",
        "wait-lease"}) {
    EXPECT_EQ(Next(), expected);
  }
  // The second window overwrites what the read is of.
  engine_->leases()->Release(&first);
  EXPECT_EQ(Next(), "zero-base");
}

// Twice what fits into staging: written in two fills, committed once.
TEST_F(HandTest, ADirectWindowIsLongerThanStaging) {
  std::vector<Change> changes;
  for (uint32_t i = 0; i < 16; ++i) changes.push_back(Copy(i, 16 + i));
  Make(MakeFile(32, changes, true));
  engine_->Start();
  for (int i = 0; i < 5; ++i) Next();
  EXPECT_EQ(Next(), "read-source");
  EXPECT_EQ(Next(), "write-base");
  EXPECT_NE(engine_->Staged(0), nullptr);
  EXPECT_EQ(Next(), "read-source");
  EXPECT_EQ(Next(), "write-base");
  // What is written and not committed is read where it was before.
  EXPECT_EQ(engine_->Staged(0), nullptr);
  EXPECT_NE(engine_->Staged(15), nullptr);
  EXPECT_EQ(Next(IoStatus::kIoError), "flush-base");
  EXPECT_EQ(Next(), "stop");
  engine_->Start();
  // Any of the writes may be lost: from the first fill on.
  for (const char* expected :
       {"read-source", "write-base", "read-source", "write-base", "flush-base",
        "commit", "flush-cow", "stop"}) {
    EXPECT_EQ(Next(), expected);
  }
  EXPECT_EQ(engine_->merged_ops(), 16u);
}

TEST_F(HandTest, AFailedFlushRepeatsTheWritesBeforeIt) {
  Make(MakeFile(4, {Copy(0, 2), Copy(1, 3)}, true));
  engine_->Start();
  for (int i = 0; i < 6; ++i) Next();
  EXPECT_EQ(Next(), "write-base");
  EXPECT_EQ(Next(IoStatus::kIoError), "flush-base");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kFailed);
  EXPECT_NE(std::string(engine_->error()).find("flushing the base failed"),
            std::string::npos);
  // The window is held: it goes on being read from memory.
  EXPECT_EQ(engine_->Staged(0), staging_.data());
  engine_->Start();
  EXPECT_EQ(Next(), "write-base");
  EXPECT_EQ(Next(), "flush-base");
  EXPECT_EQ(Next(), "commit");
}

TEST_F(HandTest, ACorruptUnitStopsTheWindowBeforeTheBase) {
  Make(MakeFile(4, {Replace(0), Replace(1), Zero(2)}, true));
  engine_->Start();
  for (int i = 0; i < 5; ++i) Next();
  EXPECT_EQ(Next(), "load-unit");
  EXPECT_EQ(Next(IoStatus::kCorrupt), "load-unit");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kFailed);
  EXPECT_NE(std::string(engine_->error()).find("block 1"), std::string::npos);
  EXPECT_EQ(engine_->Staged(0), nullptr);
  // Nothing is held; the memory may go.
  engine_->Detach();
}

TEST_F(HandTest, PauseStopsAtTheNextEdgeAndStartGoesOn) {
  Make(MakeFile(4, {Zero(0), Copy(1, 2)}, true));
  engine_->Start();
  for (int i = 0; i < 5; ++i) Next();
  engine_->Pause();
  EXPECT_EQ(Next(), "zero-base");
  EXPECT_EQ(Next(), "flush-base");
  EXPECT_EQ(Next(), "commit");
  EXPECT_EQ(Next(), "flush-cow");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kIdle);
  EXPECT_EQ(engine_->merged_ops(), 1u);
  engine_->Start();
  EXPECT_EQ(Next(), "read-source");
}

TEST_F(HandTest, APauseInTheLastWindowIsTheEnd) {
  Make(MakeFile(4, {Zero(0)}, true));
  engine_->Start();
  while (Next() != "commit") {
  }
  engine_->Pause();
  EXPECT_EQ(Next(), "flush-cow");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kDone);
}

TEST_F(HandTest, AHeaderThatChangedUnderneathStopsTheMerge) {
  Make(MakeFile(4, {Zero(0)}, true));
  StoreLe<uint64_t>(scenario_.cow.data() + cow::kMergeCounterOffset, 1);
  engine_->Start();
  EXPECT_EQ(Next(), "read-sector");
  EXPECT_EQ(Next(), "stop");
  EXPECT_EQ(engine_->state(), Engine::State::kFailed);
}

}  // namespace
}  // namespace dmu::merge
