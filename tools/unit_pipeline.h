// SPDX-License-Identifier: Apache-2.0
//
// unit_pipeline.h - reads and compresses the data of a plan on all cores and
// hands them over in order: first the xors, then the units of the rest.
//
// Memory: eight pieces in flight per thread, raw and compressed; a piece is 64
// KiB of small units, or one larger unit. The bytes of a unit do not depend on
// which thread made it or when.
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
  // How data is stored. always: also where it gets larger (gz and brotli in
  // version 2).
  struct Format {
    cow::CompressionSpec compression;
    bool always = false;
    uint32_t max_unit_bytes = kBlockBytes;
  };

  // Starts `threads` threads (>= 1). Images and plan must outlive it.
  UnitPipeline(const DiffImage& old_image, const DiffImage& new_image,
               const DiffPlan& plan, const Format& format, unsigned threads);
  ~UnitPipeline();
  UnitPipeline(const UnitPipeline&) = delete;
  UnitPipeline& operator=(const UnitPipeline&) = delete;

  struct Stored {
    UnitCutter::Unit unit;
    ConstByteSpan bytes;  // as AddReplace or AddXor takes them; until Next
    uint32_t check = 0;   // cow::UnitCheck of them
  };
  // The next one: for each xor among `ordered`, in that order, then for each
  // unit of `rest`. Must not be called more often than that.
  absl::StatusOr<Stored> Next();

 private:
  static constexpr uint64_t kNotXor = UINT64_MAX;

  // A unit of a piece, and where it is in the slot's buffers.
  struct Item {
    UnitCutter::Unit unit;
    uint64_t source_bytes = kNotXor;
    uint32_t raw_offset = 0;
    uint32_t compressed_offset = 0;
    uint32_t compressed_bytes = 0;  // 0: stored raw
    uint32_t check = 0;
  };
  struct Slot {
    absl::Status status;
    std::vector<Item> items;
    uint32_t raw_bytes = 0;         // of all items
    uint32_t compressed_bytes = 0;  // most that they can become
    std::vector<uint8_t> raw;
    std::vector<uint8_t> compressed;
    bool ready = false;
  };

  uint32_t StoredBytesMax(uint32_t unit_bytes) const;
  // The next unit of the plan; false at the end.
  bool NextItem(Item* item);
  // Gives the slot the next piece; false at the end.
  bool Claim(Slot* slot);
  void Work();
  absl::Status Read(const Item& item, ByteSpan raw) const;
  void Make(cow::Compressor* compressor, Slot* slot) const;

  const DiffImage& old_;
  const DiffImage& new_;
  const DiffPlan& plan_;
  const Format format_;
  std::vector<Slot> slots_;  // piece n is made in slot n % size

  std::mutex mutex_;  // guards what follows and the slots' `ready`
  std::condition_variable slot_free_;   // for the threads
  std::condition_variable slot_ready_;  // for the consumer
  size_t next_ordered_ = 0;
  UnitCutter cutter_;
  uint64_t claimed_ = 0;   // pieces that threads took
  uint64_t consumed_ = 0;  // pieces whose slot is free again
  bool stop_ = false;

  size_t next_item_ = 0;  // of slot `consumed_`; the consumer's alone
  std::vector<std::thread> threads_;
};

}  // namespace dmu::tools

#endif  // TOOLS_UNIT_PIPELINE_H_
