// SPDX-License-Identifier: Apache-2.0
//
// undo_machine.cc - see undo_machine.h.
#include "test/sim/undo_machine.h"

#include "daemon/cow/loader.h"

namespace dmu::sim {

UndoMachine::UndoMachine(const Scenario& scenario, Disks disks,
                         const FaultOptions& faults, uint64_t seed)
    : scenario_(scenario),
      faults_(faults),
      runner_(std::move(disks), faults, seed) {}

bool UndoMachine::Error(const std::string& what) {
  if (error_.empty()) error_ = "undo: " + what;
  return false;
}

bool UndoMachine::Load() {
  cow::Loader loader(disks().cow.size_bytes());
  std::string error = sim::Load(disks().cow, &loader);
  if (!error.empty()) return Error(error);
  image_ = loader.Take();
  // For a merge nothing is in the log: that must be so for an undo as well.
  merge::UndoLoader probe(*image_, disks().undo->size_bytes(),
                          merge::UndoLoader::Purpose::kAppend);
  error = sim::Load(*disks().undo, &probe);
  if (!error.empty()) return Error("log: " + error);
  if (probe.fresh()) {
    empty_ = true;
    return true;
  }
  log_ = std::make_unique<merge::UndoLoader>(
      *image_, disks().undo->size_bytes(), merge::UndoLoader::Purpose::kUndo);
  error = sim::Load(*disks().undo, log_.get());
  if (!error.empty()) return Error("log: " + error);
  engine_ = std::make_unique<merge::UndoEngine>(
      *image_, disks().cow.size_bytes(), *log_);
  return true;
}

bool UndoMachine::Step() {
  stopped_ = false;
  if (engine_->state() != merge::UndoEngine::State::kRunning) engine_->Start();
  const bool prefer_done = !runner_.empty() && runner_.rng()->OneIn(2);
  merge::Command command;
  const merge::Engine::Turn turn =
      prefer_done ? merge::Engine::Turn::kWaitDone : engine_->Next(&command);
  switch (turn) {
    case merge::Engine::Turn::kCommand:
      if (!runner_.HandOut(command)) return Error("a write beyond the end");
      return true;
    case merge::Engine::Turn::kWaitDone: {
      if (runner_.empty()) return Error("the engine waits for nothing");
      const CommandRunner::Ended ended = runner_.FinishOne();
      if (ended.status == IoStatus::kUnsupported) {
        return Error("a command reaches beyond the end");
      }
      engine_->Done(ended.id, ended.status);
      return true;
    }
    case merge::Engine::Turn::kWaitLease:
      return Error("an undo waits for no lease");
    case merge::Engine::Turn::kStop:
      break;
  }
  if (engine_->state() == merge::UndoEngine::State::kDone) return Finish();
  if (engine_->state() == merge::UndoEngine::State::kFailed && faults_.any() &&
      ++restarts_ < 10'000) {
    stopped_ = true;
    return false;
  }
  return Error(std::string("stopped: ") + engine_->error());
}

bool UndoMachine::Finish() {
  const std::vector<uint8_t> base = disks().base.Contents();
  for (size_t i = 0; i < base.size(); ++i) {
    if (base[i] != scenario_.base[i]) {
      return Error("block " + std::to_string(i / kBlockBytes) +
                   " of the base is not that of the old image, after\n" +
                   runner_.transcript());
    }
  }
  cow::Loader loader(disks().cow.size_bytes());
  const std::string error = sim::Load(disks().cow, &loader);
  if (!error.empty()) return Error(error);
  const std::unique_ptr<cow::Image> image = loader.Take();
  if (image->progress.merged_ops != 0 ||
      (image->header.has_scratch() && !image->progress.untouched)) {
    return Error("the COW file does not say that no merge has begun");
  }
  finished_ = true;
  return false;
}

}  // namespace dmu::sim
