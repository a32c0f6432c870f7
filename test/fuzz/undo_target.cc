// SPDX-License-Identifier: Apache-2.0
//
// undo_target.cc - see undo_target.h.
#include "test/fuzz/undo_target.h"

#include <memory>
#include <string>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/base/types.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/unit_check.h"
#include "daemon/merge/undo_engine.h"
#include "daemon/merge/undo_loader.h"
#include "test/sim/command_runner.h"
#include "test/sim/merge_machine.h"
#include "test/sim/scenario.h"
#include "test/sim/sim_disk.h"

namespace dmu {
namespace {

using merge::UndoLoader;
using Bytes = std::vector<uint8_t>;

// Far more than any log this size may make an undo do.
constexpr uint32_t kStepsMax = 200'000;

// A merge with an undo log, after so many steps.
struct Sample {
  sim::Scenario scenario;
  Bytes base;
  Bytes cow;
  Bytes log;
};

Sample MakeSample(uint64_t seed, uint32_t steps) {
  Sample sample;
  sample.scenario = sim::MakeScenario(seed, {.blocks_max = 40});
  sim::SectorStore store;
  sim::MachineOptions options;
  options.staging_blocks = 8;
  options.check_every_step = false;
  sim::MergeMachine machine(
      sample.scenario,
      {sim::SimDisk(&store, sample.scenario.base),
       sim::SimDisk(&store, sample.scenario.cow),
       sim::SimDisk(&store, Bytes(size_t{kBlockBytes} * 120))},
      options, seed);
  DMU_CHECK(machine.Load());
  for (uint32_t i = 0; i < steps && machine.Step(); ++i) {
  }
  sample.base = machine.disks().base.Contents();
  sample.cow = machine.disks().cow.Contents();
  sample.log = machine.disks().undo->Contents();
  return sample;
}

const std::vector<Sample>& Samples() {
  static const auto* samples =
      new std::vector<Sample>{MakeSample(3, 1'000'000), MakeSample(5, 60),
                              MakeSample(8, 1'000'000), MakeSample(16, 200)};
  return *samples;
}

// Makes every check fit what stands there, as far as groups follow each other.
void Reseal(Bytes* log) {
  constexpr uint32_t kCheckAt = kSectorBytes - 8;
  StoreLe<uint64_t>(log->data() + kCheckAt,
                    cow::Digest({log->data(), kCheckAt}));
  uint64_t previous = cow::Digest({log->data(), 48});
  for (size_t at = kBlockBytes; at + kBlockBytes <= log->size();) {
    uint8_t* const group = log->data() + at;
    const uint32_t count = LoadLe<uint32_t>(group + 44);
    if (LoadLe<uint64_t>(group) == 0 || count > merge::kUndoGroupBlocksMax) {
      break;
    }
    const size_t end = at + kBlockBytes * (size_t{1} + count);
    for (uint32_t i = 0; i < count && end <= log->size(); ++i) {
      StoreLe<uint32_t>(
          group + merge::kUndoEntriesOffset + 12 * i + 8,
          merge::UndoBlockCheck(group + kBlockBytes * (size_t{1} + i)));
    }
    StoreLe<uint64_t>(group + 8, previous);
    previous = cow::Digest({group, kBlockBytes - 8});
    StoreLe<uint64_t>(group + kBlockBytes - 8, previous);
    at = end;
  }
}

// Edits: u16 place (in 4 bytes, of superblock and headers), u32 value.
void Edit(const uint8_t* data, size_t size, Bytes* log) {
  for (; size >= 6; data += 6, size -= 6) {
    const uint32_t place = LoadLe<uint16_t>(data);
    // One of the first blocks; in it, where the fields are.
    const size_t at = place / 256 % (log->size() / kBlockBytes) * kBlockBytes +
                      place % 256 * 4 % 900;
    StoreLe<uint32_t>(log->data() + at, LoadLe<uint32_t>(data + 2));
  }
}

// Nothing is read beyond the log. False: it is refused.
bool Load(const sim::SimDisk& disk, UndoLoader* loader) {
  Bytes bytes;
  for (uint32_t reads = 0; !loader->done(); ++reads) {
    DMU_CHECK(reads < kStepsMax);
    const UndoLoader::Want want = loader->want();
    DMU_CHECK(want.bytes <= UndoLoader::kChunkBytes);
    bytes.resize(want.bytes);
    DMU_CHECK(disk.Read(want.offset, bytes) == IoStatus::kOk);
    if (!loader->Feed(bytes).ok()) return false;
  }
  return true;
}

}  // namespace

void RunUndo(const uint8_t* data, size_t size) {
  if (size < 1) return;
  const Sample& sample = Samples()[data[0] % Samples().size()];
  Bytes log = sample.log;
  Edit(data + 1, size - 1, &log);
  Reseal(&log);
  sim::SectorStore store;
  sim::Disks disks = {sim::SimDisk(&store, sample.base),
                      sim::SimDisk(&store, sample.cow),
                      sim::SimDisk(&store, log)};
  cow::Loader cow_loader(disks.cow.size_bytes());
  DMU_CHECK(sim::Load(disks.cow, &cow_loader).empty());
  const std::unique_ptr<cow::Image> image = cow_loader.Take();
  UndoLoader append(*image, log.size(), UndoLoader::Purpose::kAppend);
  const bool appendable = Load(*disks.undo, &append);
  if (appendable && !append.fresh()) {
    DMU_CHECK(append.tail().offset <= log.size());
    DMU_CHECK(append.tail().position <= image->index.merge_count());
  }
  UndoLoader loader(*image, log.size(), UndoLoader::Purpose::kUndo);
  if (!Load(*disks.undo, &loader)) return;
  sim::CommandRunner runner(std::move(disks), {}, 1);
  merge::UndoEngine engine(*image, sample.cow.size(), loader);
  engine.Start();
  merge::Command command;
  for (uint32_t step = 0;; ++step) {
    DMU_CHECK(step < kStepsMax);
    switch (engine.Next(&command)) {
      case merge::Engine::Turn::kCommand:
        DMU_CHECK(runner.HandOut(command));
        break;
      case merge::Engine::Turn::kWaitDone: {
        const sim::CommandRunner::Ended ended = runner.FinishOne();
        DMU_CHECK(ended.status == IoStatus::kOk);
        engine.Done(ended.id, ended.status);
        break;
      }
      default:
        return;
    }
  }
}

}  // namespace dmu
