// SPDX-License-Identifier: Apache-2.0
//
// base_extents_test.cc - what the kernel is told of a snapshot.
//
// Goal: what is told is durable on the base's disk when it is told, is the
// target's data, and is never written again; it grows with each window that is
// merged; it is all of the device in the end.
// Method: the real back end over simulated disks with a volatile cache, and a
// kernel that checks each extent it is given, with its bound or without,
// through restarts and power cuts.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <vector>

#include "test/snapshot_host.h"

namespace dmu::sim {
namespace {

// What a kernel would make of the calls.
class CheckingKernel : public Redirect {
 public:
  CheckingKernel(SnapshotHost* host, size_t bound)
      : host_(host), bound_(bound) {}

  bool Add(const Extent* extents, size_t count) override {
    ++calls_;
    std::map<uint64_t, uint64_t> after = told_;
    uint64_t behind = 0;
    for (size_t i = 0; i < count; ++i) {
      const Extent& e = extents[i];
      EXPECT_GT(e.sectors, 0u);
      EXPECT_GE(e.first_sector, behind) << "not in order";
      behind = e.first_sector + e.sectors;
      EXPECT_LE(behind, host_->backend().geometry().size_bytes / kSectorBytes);
      EXPECT_EQ(e.first_sector, e.base_sector);
      Insert(&after, e.first_sector, behind);
      ExpectDurableTruth(e.first_sector, behind);
    }
    if (full_ || after.size() > bound_) {
      full_ = true;
      return false;
    }
    told_ = std::move(after);
    return true;
  }

  void Clear() override {
    ++clears_;
    told_.clear();
    full_ = false;
  }

  // Nothing that is told may have a write on its way.
  void ExpectUntouched() const {
    for (const SimDisk::Pending& write : host_->base().pending()) {
      EXPECT_FALSE(Has(write.sector)) << "sector " << write.sector;
    }
  }

  uint64_t sectors() const {
    uint64_t sectors = 0;
    for (const auto& [first, end] : told_) sectors += end - first;
    return sectors;
  }
  size_t extents() const { return told_.size(); }
  uint32_t calls() const { return calls_; }
  uint32_t clears() const { return clears_; }

 private:
  bool Has(uint64_t sector) const {
    auto at = told_.upper_bound(sector);
    return at != told_.begin() && std::prev(at)->second > sector;
  }

  static void Insert(std::map<uint64_t, uint64_t>* told, uint64_t first,
                     uint64_t end) {
    auto next = told->lower_bound(first);
    if (next != told->end()) {
      EXPECT_GE(next->first, end) << "told before";
      if (next->first == end) {
        end = next->second;
        next = told->erase(next);
      }
    }
    if (next != told->begin()) {
      auto before = std::prev(next);
      EXPECT_LE(before->second, first) << "told before";
      if (before->second == first) {
        before->second = end;
        return;
      }
    }
    told->emplace(first, end);
  }

  void ExpectDurableTruth(uint64_t first, uint64_t end) const {
    const std::vector<uint8_t>& target = host_->scenario().target;
    for (uint64_t sector = first; sector < end; ++sector) {
      EXPECT_EQ(
          0, std::memcmp(host_->DurableSector(static_cast<uint32_t>(sector)),
                         target.data() + sector * kSectorBytes, kSectorBytes))
          << "sector " << sector;
    }
  }

  SnapshotHost* const host_;
  const size_t bound_;
  std::map<uint64_t, uint64_t> told_;  // first sector, end
  uint32_t calls_ = 0;
  uint32_t clears_ = 0;
  bool full_ = false;
};

Scenario Make(uint64_t seed) {
  ScenarioOptions options;
  options.blocks_min = 40;
  options.blocks_max = 400;
  options.span_log2_max = static_cast<uint8_t>(seed % 4);
  return MakeScenario(seed, options);
}

// All that can be told of a device whose base is the target.
uint64_t Reachable(SnapshotHost* host) {
  return std::min<uint64_t>(host->backend().geometry().size_bytes,
                            host->base().size_bytes()) /
         kSectorBytes;
}

TEST(BaseExtentsTest, EachWindowIsToldOnceItIsDurable) {
  uint32_t grew = 0, silent = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    SnapshotHost host(Make(seed), seed);
    ASSERT_TRUE(host.Open().ok());
    CheckingKernel kernel(&host, SIZE_MAX);
    // With the sweep at any place when the merge begins, and when it ends.
    host.backend().set_extents_per_turn(seed % 3 == 0 ? 256 : 1);
    host.backend().OfferRedirect(&kernel);
    const uint32_t head_start = static_cast<uint32_t>(seed % 5) * 3;
    for (uint32_t i = 0; i < head_start; ++i) host.loop().Turn();
    host.merge().Start();
    uint64_t sectors = 0;
    while (host.loop().Turn()) {
      kernel.ExpectUntouched();
      grew += kernel.sectors() > sectors && sectors > 0;
      EXPECT_GE(kernel.sectors(), sectors) << "nothing is taken back";
      sectors = kernel.sectors();
    }
    ASSERT_EQ(host.merge().status().state, MergeStatus::State::kDone);
    EXPECT_EQ(kernel.clears(), 0u);
    if (kernel.calls() == 0) {
      // Two ops give the same block.
      ++silent;
    } else {
      EXPECT_EQ(kernel.sectors(), Reachable(&host));
      EXPECT_EQ(kernel.extents(), 1u);
    }
    host.Close();
  }
  EXPECT_LT(silent, 12u);
  EXPECT_GT(grew, 30u) << "windows were told one by one";
}

TEST(BaseExtentsTest, WhatDoesNotFitIsToldWhenAllIsMerged) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    SnapshotHost host(Make(seed), seed);
    ASSERT_TRUE(host.Open().ok());
    CheckingKernel kernel(&host, 1 + seed % 3);
    host.backend().set_extents_per_turn(1 + seed % 2 * 255);
    host.backend().OfferRedirect(&kernel);
    host.merge().Start();
    while (host.loop().Turn()) kernel.ExpectUntouched();
    ASSERT_EQ(host.merge().status().state, MergeStatus::State::kDone);
    if (kernel.calls() > 0) {
      EXPECT_EQ(kernel.sectors(), Reachable(&host));
      EXPECT_EQ(kernel.extents(), 1u);
    }
    host.Close();
  }
}

TEST(BaseExtentsTest, ItHoldsThroughRestartsAndPowerCuts) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    SnapshotHost host(Make(seed), seed);
    bool merged = false;
    constexpr uint32_t kLives = 20;
    for (uint32_t life = 0; life <= kLives && !merged; ++life) {
      ASSERT_TRUE(host.Open().ok());
      CheckingKernel kernel(&host, SIZE_MAX);
      host.backend().set_extents_per_turn(1 + life % 4);
      host.backend().OfferRedirect(&kernel);
      host.merge().Start();
      // The last one may live for as long as it takes.
      const uint32_t turns =
          life == kLives ? kTurnsMax
                         : 1 + host.loop().rng()->Below(40 * (life + 1));
      for (uint32_t i = 0; i < turns && host.loop().Turn(); ++i) {
        kernel.ExpectUntouched();
      }
      merged = host.merge().status().state == MergeStatus::State::kDone;
      while (merged && host.loop().Turn()) {
      }
      if (merged && kernel.calls() > 0) {
        EXPECT_EQ(kernel.sectors(), Reachable(&host));
      }
      host.Close();
      if (host.loop().rng()->OneIn(2)) host.CutPower();
    }
    EXPECT_TRUE(merged);
  }
}

TEST(BaseExtentsTest, AnErrorOfTheFlushTellsNothing) {
  SnapshotHost host(Make(3), 3);
  ASSERT_TRUE(host.Open().ok());
  CheckingKernel kernel(&host, SIZE_MAX);
  host.base_disk().set_faults({.flush_one_in = 1});
  host.backend().OfferRedirect(&kernel);
  while (host.loop().Turn()) {
  }
  EXPECT_EQ(kernel.sectors(), 0u);
  host.Close();
}

}  // namespace
}  // namespace dmu::sim
