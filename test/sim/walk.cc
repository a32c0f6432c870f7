// SPDX-License-Identifier: Apache-2.0
//
// walk.cc - see walk.h.
#include "test/sim/walk.h"

#include <utility>

namespace dmu::sim {
namespace {

// Room for a group of every block, three times over.
std::vector<uint8_t> UndoDisk(const Scenario& scenario) {
  return std::vector<uint8_t>(
      size_t{kBlockBytes} *
      (8 + 4 * (scenario.changes.size() + scenario.blocks())));
}

SimDisk AfterCut(const SimDisk& disk, Rng* rng) {
  // All, nothing, whole blocks of writes, or single sectors.
  const uint32_t mode = rng->Below(4);
  const std::vector<uint32_t> groups = disk.PendingGroups();
  std::vector<bool> kept;
  bool keep = false;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (mode == 3 || i == 0 || groups[i] != groups[i - 1]) {
      keep = mode == 0 || (mode >= 2 && rng->OneIn(2));
    }
    kept.push_back(keep);
  }
  return SimDisk(disk, disk.AfterCrash(kept));
}

}  // namespace

Walk::Walk(uint64_t seed, std::vector<const Scenario*> scenarios,
           const WalkOptions& options)
    : seed_(seed), options_(options), rng_(Mix(seed)) {
  for (const Scenario* scenario : scenarios) {
    Disks disks = {
        SimDisk(&store_, scenario->base), SimDisk(&store_, scenario->cow), {}};
    if (options.undo) disks.undo = SimDisk(&store_, UndoDisk(*scenario));
    devices_.push_back({scenario, std::move(disks), nullptr, nullptr, false});
  }
}

MachineOptions Walk::RandomOptions(const Scenario& scenario) {
  MachineOptions options;
  const uint32_t unit = scenario.unit_blocks_max;
  options.staging_blocks = unit + rng_.Below(rng_.OneIn(3)   ? 512
                                             : rng_.OneIn(2) ? 64
                                                             : 8);
  options.window_ops = options.staging_blocks + rng_.Below(1024);
  options.direct_ops_min = rng_.OneIn(2) ? 32 : 1 + rng_.Below(100);
  options.faults.fail_one_in = options_.fail_one_in;
  options.check_every_step = false;
  return options;
}

std::string Walk::Begin(Device* device, bool undo) {
  device->over = false;
  const uint64_t seed = rng_.Next();
  auto merge = std::make_unique<MergeMachine>(
      *device->scenario, device->disks, RandomOptions(*device->scenario), seed);
  if (!merge->Load() || !merge->CheckAllBlocks()) return merge->error();
  ++totals_->lives;
  device->undo.reset();
  if (!undo) {
    device->merge = std::move(merge);
    return "";
  }
  device->merge.reset();
  FaultOptions faults;
  faults.fail_one_in = options_.fail_one_in;
  device->undo = std::make_unique<UndoMachine>(
      *device->scenario, std::move(device->disks), faults, seed);
  if (!device->undo->Load()) return device->undo->error();
  if (device->undo->empty()) {
    device->over = true;
  } else {
    ++totals_->undos;
  }
  return "";
}

std::string Walk::Step(Device* device) {
  if (device->over) return "";
  if (device->undo != nullptr) {
    if (device->undo->Step() || device->undo->stopped()) return "";
    device->over = true;
    return device->undo->finished() ? "" : device->undo->error();
  }
  if (device->merge->Step() || device->merge->stopped()) return "";
  device->over = true;
  return device->merge->finished() ? "" : device->merge->error();
}

void Walk::CutPower(Device* device) {
  const Disks& disks =
      device->undo != nullptr ? device->undo->disks() : device->merge->disks();
  Disks after = {AfterCut(disks.base, &rng_), AfterCut(disks.cow, &rng_), {}};
  if (disks.undo.has_value()) after.undo = AfterCut(*disks.undo, &rng_);
  device->disks = std::move(after);
}

std::string Walk::ToTheEnd(Device* device, bool undo) {
  std::string error = Begin(device, undo);
  for (uint64_t steps = 0; error.empty() && !device->over; ++steps) {
    if (steps == 10'000'000) return "it does not end";
    error = Step(device);
  }
  if (error.empty()) {
    device->disks = undo ? device->undo->disks() : device->merge->disks();
    device->disks.base.Flush();
    device->disks.cow.Flush();
    if (undo) device->disks.undo->Flush();
  }
  return error;
}

std::string Walk::Run(WalkTotals* totals) {
  totals_ = totals;
  std::string error;
  for (uint32_t cut = 0; cut < options_.cuts && error.empty(); ++cut) {
    for (Device& device : devices_) {
      error = Begin(&device, options_.undo && rng_.OneIn(3));
      if (!error.empty()) break;
    }
    const uint32_t steps = rng_.Below(options_.life_steps_max);
    for (uint32_t step = 0; error.empty() && step < steps; ++step) {
      error = Step(&devices_[rng_.Below(devices_.size())]);
    }
    if (!error.empty()) break;
    for (Device& device : devices_) {
      if (device.over && device.merge != nullptr) ++totals->ended;
      CutPower(&device);
    }
    ++totals->cuts;
  }
  for (Device& device : devices_) {
    if (error.empty()) error = ToTheEnd(&device, false);
    if (error.empty() && options_.undo) error = ToTheEnd(&device, true);
  }
  if (error.empty()) return "";
  return "walk " + std::to_string(seed_) + ": " + error;
}

}  // namespace dmu::sim
