// SPDX-License-Identifier: Apache-2.0
//
// diff.cc - the passes: compare and hash, find blocks that moved, find blocks
// that are almost there, order. All but the last run on all cores, a chunk at a
// time, and what they find in one chunk does not depend on any other.
#include "tools/diff.h"

#include <algorithm>
#include <utility>

#include "daemon/cow/unit_check.h"
#include "tools/diff_compare.h"
#include "tools/diff_exact.h"
#include "tools/diff_near.h"

namespace dmu::tools {
namespace {

// What is lost with a copy, which becomes data of the new image: more than with
// any xor.
constexpr uint16_t kCopyGain = UINT16_MAX;

uint64_t DigestOf(const std::vector<uint64_t>& hashes) {
  return cow::Digest(
      ConstByteSpan(reinterpret_cast<const uint8_t*>(hashes.data()),
                    hashes.size() * sizeof(uint64_t)));
}

// At equal distances among the old image's blocks of one class.
void TakeSamples(const Comparison& comparison, bool same,
                 std::vector<DiffPlan::Sample>* samples) {
  constexpr uint64_t kWanted = DiffPlan::kSamplesMax / 2;
  const auto counts = [&](uint32_t b) {
    const bool stays =
        b < comparison.kinds.size() && comparison.kinds[b] == BlockKind::kSame;
    return stays == same && comparison.old_hashes[b] != comparison.zero_hash;
  };
  const auto blocks = static_cast<uint32_t>(comparison.old_hashes.size());
  uint64_t count = 0;
  for (uint32_t b = 0; b < blocks; ++b) count += counts(b);
  uint64_t seen = 0;
  uint64_t taken = 0;
  for (uint32_t b = 0; b < blocks && taken < kWanted; ++b) {
    if (!counts(b) || seen++ * kWanted < taken * count) continue;
    samples->push_back({b, static_cast<uint32_t>(comparison.old_hashes[b])});
    ++taken;
  }
}

std::vector<DiffPlan::Sample> SamplesOf(const Comparison& comparison) {
  std::vector<DiffPlan::Sample> samples;
  TakeSamples(comparison, true, &samples);
  TakeSamples(comparison, false, &samples);
  std::sort(samples.begin(), samples.end(),
            [](const auto& a, const auto& b) { return a.block < b.block; });
  return samples;
}

class Differ {
 public:
  Differ(const DiffImage& old_image, const DiffImage& new_image,
         unsigned threads)
      : old_(old_image), new_(new_image), threads_(threads) {}

  absl::StatusOr<DiffPlan> Run(const std::function<void(uint64_t)>& done);

 private:
  absl::Status FindSources();
  void Order();
  void FillRest();

  const DiffImage& old_;
  const DiffImage& new_;
  const unsigned threads_;
  Comparison comparison_;
  std::vector<uint64_t> sources_;  // bytes; of copies and xors
  std::vector<uint16_t> gains_;    // of xors
  DiffPlan plan_;
};

absl::Status Differ::FindSources() {
  sources_.resize(new_.blocks);
  gains_.resize(new_.blocks);
  absl::Status status =
      FindExactSources(old_, new_, threads_, &comparison_, &sources_);
  if (!status.ok()) return status;
  return FindNearSources(old_, new_, threads_, NearBudgetBytes(old_.blocks),
                         &comparison_, &sources_, &gains_);
}

void Differ::Order() {
  std::vector<BlockKind>& kinds = comparison_.kinds;
  const auto count = static_cast<size_t>(
      std::count_if(kinds.begin(), kinds.end(), [](BlockKind kind) {
        return kind == BlockKind::kCopy || kind == BlockKind::kXor;
      }));
  plan_.ordered.reserve(count);
  std::vector<uint16_t> losses;
  losses.reserve(count);
  for (uint32_t b = 0; b < new_.blocks; ++b) {
    const bool is_xor = kinds[b] == BlockKind::kXor;
    if (!is_xor && kinds[b] != BlockKind::kCopy) continue;
    plan_.ordered.push_back({b, is_xor, sources_[b]});
    losses.push_back(is_xor ? gains_[b] : kCopyGain);
  }
  // Not needed any more; ordering needs memory of its own.
  sources_ = {};
  gains_ = {};
  for (const uint32_t b : OrderOps(&plan_.ordered, losses)) {
    kinds[b] = BlockKind::kReplace;
    ++plan_.cycles_broken;
  }
}

void Differ::FillRest() {
  for (uint32_t b = 0; b < new_.blocks; ++b) {
    const BlockKind kind = comparison_.kinds[b];
    plan_.same_blocks += kind == BlockKind::kSame;
    plan_.copy_blocks += kind == BlockKind::kCopy;
    plan_.xor_blocks += kind == BlockKind::kXor;
    plan_.zero_blocks += kind == BlockKind::kZero;
    plan_.replace_blocks += kind == BlockKind::kReplace;
    const bool zero = kind == BlockKind::kZero;
    if (!zero && kind != BlockKind::kReplace) continue;
    if (!plan_.rest.empty()) {
      DiffPlan::Run& last = plan_.rest.back();
      if (last.zero == zero && last.new_block + last.blocks == b) {
        ++last.blocks;
        continue;
      }
    }
    plan_.rest.push_back({b, 1, zero});
  }
}

absl::StatusOr<DiffPlan> Differ::Run(
    const std::function<void(uint64_t)>& done) {
  absl::Status status = CompareImages(old_, new_, threads_, done, &comparison_);
  if (status.ok() && comparison_.any_replace) status = FindSources();
  if (!status.ok()) return status;
  plan_.base_digest = DigestOf(comparison_.old_hashes);
  plan_.target_digest = DigestOf(comparison_.new_hashes);
  plan_.target_checks = std::move(comparison_.target_checks);
  plan_.samples = SamplesOf(comparison_);
  comparison_.old_hashes = {};
  comparison_.new_hashes = {};
  if (comparison_.any_replace) Order();
  FillRest();
  return std::move(plan_);
}

}  // namespace

absl::StatusOr<DiffPlan> PlanDiff(const DiffImage& old_image,
                                  const DiffImage& new_image, unsigned threads,
                                  const std::function<void(uint64_t)>& done) {
  return Differ(old_image, new_image, threads).Run(done);
}

}  // namespace dmu::tools
