// SPDX-License-Identifier: Apache-2.0
//
// unit_pipeline.h - reads and compresses units on all cores and hands them over
// in order.
//
// Memory: four units in flight per thread, raw and compressed. The bytes of a
// unit do not depend on which thread made it or when.
#ifndef TOOLS_UNIT_PIPELINE_H_
#define TOOLS_UNIT_PIPELINE_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "daemon/cow/compressor.h"
#include "tools/diff.h"

namespace dmu::tools {

// Cuts the runs of data of a plan into units: each the largest power of two of
// blocks that fits the unit size and what is left of the run.
class UnitCutter {
 public:
  struct Unit {
    uint32_t new_block = 0;
    uint8_t span_log2 = 0;
    uint64_t bytes() const { return uint64_t{kBlockBytes} << span_log2; }
  };

  UnitCutter(const std::vector<DiffPlan::Run>& runs, uint32_t max_unit_bytes)
      : runs_(&runs), max_unit_blocks_(max_unit_bytes / kBlockBytes) {}

  // False at the end.
  bool Next(Unit* unit);

 private:
  const std::vector<DiffPlan::Run>* runs_;
  uint32_t max_unit_blocks_;
  size_t run_ = 0;
  uint32_t done_blocks_ = 0;  // of the current run
};

class UnitPipeline {
 public:
  // Starts `threads` threads (>= 1). image and runs must outlive it.
  UnitPipeline(const DiffImage& image, const std::vector<DiffPlan::Run>& runs,
               const cow::CompressionSpec& spec, uint32_t max_unit_bytes,
               unsigned threads);
  ~UnitPipeline();
  UnitPipeline(const UnitPipeline&) = delete;
  UnitPipeline& operator=(const UnitPipeline&) = delete;

  struct Stored {
    UnitCutter::Unit unit;
    ConstByteSpan bytes;  // as AddReplace takes them; valid until Next
  };
  // The next unit; to be called as often as there are units.
  absl::StatusOr<Stored> Next();

 private:
  struct Slot {
    UnitCutter::Unit unit;
    absl::Status status;
    std::vector<uint8_t> raw;
    std::vector<uint8_t> compressed;
    uint32_t compressed_bytes = 0;  // 0: stored raw
    bool ready = false;
  };

  void Work();
  void Make(cow::Compressor* compressor, Slot* slot) const;

  const DiffImage& image_;
  const cow::CompressionSpec spec_;
  const uint32_t max_unit_bytes_;
  std::vector<Slot> slots_;  // unit n is made in slot n % size

  std::mutex mutex_;  // guards what follows and the slots' `ready`
  std::condition_variable changed_;
  UnitCutter cutter_;
  uint64_t claimed_ = 0;   // units that threads took
  uint64_t consumed_ = 0;  // units whose slot is free again
  bool holding_ = false;   // Next's caller still uses slot `consumed_`
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace dmu::tools

#endif  // TOOLS_UNIT_PIPELINE_H_
