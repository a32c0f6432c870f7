// SPDX-License-Identifier: Apache-2.0
//
// cow_verify.cc - see cow_verify.h: the file by itself. With a base it goes on
// in cow_verify_base.cc.
#include "tools/cow_verify.h"

#include <atomic>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"
#include "daemon/cow/codec.h"
#include "daemon/cow/unit_check.h"
#include "tools/cow_file.h"
#include "tools/cow_verify_base.h"
#include "tools/parallel.h"
#include "tools/progress_bar.h"
#include "tools/verify_log.h"

namespace dmu::tools {
namespace {

// Of `status`, what is a finding and not a failure of the storage.
bool IsFinding(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsUnimplemented(status) ||
         absl::IsFailedPrecondition(status);
}

class UnitChecker {
 public:
  UnitChecker(const CowFile& cow, VerifyLog* log, ProgressBar* bar)
      : cow_(cow), image_(*cow.image), log_(log), bar_(bar) {}

  // One page of the op table and the data of its ops. Any thread.
  absl::Status CheckPage(uint32_t number) {
    const cow::OpTable::Page page = image_.ops.PageAt(number);
    std::vector<uint8_t> bytes(page.bytes);
    std::vector<uint8_t> checks(size_t{4} * page.ops);
    std::vector<cow::Op> ops(cow::OpTable::kPageOps);
    absl::Status status = cow_.file.ReadAt(page.offset, bytes);
    if (status.ok() && image_.unit_checks_offset != 0) {
      status = cow_.file.ReadAt(
          image_.unit_checks_offset + uint64_t{4} * page.first_op, checks);
    }
    if (!status.ok()) return status;
    if (!image_.ops.DecodeAll(page, bytes.data(), ops.data())) {
      return absl::AbortedError(
          absl::StrCat(cow_.file.path(),
                       ": something else writes to it; try again when "
                       "that has ended"));
    }
    const auto codec = cow::Codec::Create(image_.compressions);
    if (codec == nullptr) {
      return absl::ResourceExhaustedError("no memory for a decompressor");
    }
    for (uint32_t i = 0; i < page.ops && status.ok(); ++i) {
      if (!cow::HasData(ops[i].type)) continue;
      const uint32_t check = LoadLe<uint32_t>(checks.data() + 4 * i);
      status = CheckUnit(codec.get(), page.first_op + i, ops[i], check);
      bar_->Add(ops[i].data_length);
    }
    return status;
  }

  uint64_t units() const { return units_; }
  uint64_t unit_bytes() const { return unit_bytes_; }

 private:
  absl::Status CheckUnit(cow::Codec* codec, uint32_t number, const cow::Op& op,
                         uint32_t check) {
    thread_local std::vector<uint8_t> stored;
    thread_local std::vector<uint8_t> unit;
    // The loader has bounded both; the file may have changed since.
    if (op.data_length > image_.stored_bytes_max) {
      return absl::AbortedError(
          absl::StrCat(cow_.file.path(),
                       ": something else writes to it; try again when "
                       "that has ended"));
    }
    stored.resize(op.data_length);
    unit.resize(op.span_bytes());
    absl::Status status = cow_.file.ReadAt(op.data_offset, stored);
    if (!status.ok()) return status;
    units_.fetch_add(1);
    unit_bytes_.fetch_add(op.span_bytes());
    const uint32_t found =
        image_.unit_checks_offset != 0 ? cow::UnitCheck(stored) : check;
    if (found != check) {
      Note(number, op,
           absl::StrFormat("has checksum %08x, expected %08x", found, check));
    } else if (codec->Decode(op.compression, stored, unit) != IoStatus::kOk) {
      Note(number, op,
           absl::StrFormat("does not decompress (%s) to %u bytes",
                           cow::CompressionName(op.compression),
                           op.span_bytes()));
    }
    return absl::OkStatus();
  }

  void Note(uint32_t number, const cow::Op& op, const std::string& what) {
    Finding finding;
    finding.kind = "unit";
    finding.message = absl::StrFormat(
        "the data of op %u (%s of block %u, %u bytes at offset %u) %s", number,
        cow::OpTypeName(op.type), op.new_block, op.data_length, op.data_offset,
        what);
    finding.op = number;
    finding.block = op.new_block;
    finding.offset = static_cast<int64_t>(op.data_offset);
    log_->Add(Verdict::kCorrupt, std::move(finding));
  }

  const CowFile& cow_;
  const cow::Image& image_;
  VerifyLog* const log_;
  ProgressBar* const bar_;
  std::atomic<uint64_t> units_{0};
  std::atomic<uint64_t> unit_bytes_{0};
};

// Such a file can still be read.
void CheckOrder(const cow::Image& image, VerifyLog* log) {
  Finding finding;
  finding.kind = "order";
  if (!image.order_error.empty()) {
    finding.message =
        absl::StrCat("it can be read, but not merged: ", image.order_error);
  } else if (image.progress.verdict == cow::Progress::Verdict::kCorrupt) {
    finding.message =
        "it can be read, but not merged: what its scratch region holds is at "
        "no place of the merge order";
  } else {
    return;
  }
  log->Add(Verdict::kCorrupt, std::move(finding));
}

absl::Status CheckTables(const CowFile& cow, VerifyLog* log) {
  const cow::Image& image = *cow.image;
  if (!image.has_extension || !image.extension.complete) {
    return absl::OkStatus();
  }
  const uint64_t bytes = image.extension.tables_bytes();
  uint64_t offset = 0;
  if (image.unit_checks_offset != 0) {
    offset = image.unit_checks_offset +
             image.extension.unit_checks_before_record() - bytes;
  } else if (image.target_checks_offset != 0) {
    offset = image.target_checks_offset +
             image.extension.target_checks_before_record() - bytes;
  } else if (image.samples_offset != 0) {
    offset =
        image.samples_offset + image.extension.samples_before_record() - bytes;
  } else {
    return absl::OkStatus();
  }
  std::vector<uint8_t> tables(bytes);
  absl::Status status = cow.file.ReadAt(offset, tables);
  if (!status.ok()) return status;
  const uint32_t found = cow::UnitCheck(tables);
  if (found == image.extension.tables_check) return absl::OkStatus();
  Finding finding;
  finding.kind = "tables";
  finding.message = absl::StrFormat(
      "the tables of checksums (%u bytes at offset %u) have checksum %08x, "
      "expected %08x; what is said of units and blocks may be wrong",
      bytes, offset, found, image.extension.tables_check);
  finding.offset = static_cast<int64_t>(offset);
  log->Add(Verdict::kCorrupt, std::move(finding));
  return absl::OkStatus();
}

// Xors that read the block they overwrite cannot be repeated after a crash.
absl::Status WarnOfScratch(const CowFile& cow, VerifyReport* report) {
  if (cow.image->header.has_scratch()) return absl::OkStatus();
  bool in_place = false;
  absl::Status status = ForEachOp(cow, [&](uint32_t, const cow::Op& op) {
    const uint64_t begin = uint64_t{op.new_block} * kBlockBytes;
    in_place |= op.type == cow::OpType::kXor &&
                op.source < begin + kBlockBytes &&
                begin < op.source + kBlockBytes;
    return absl::OkStatus();
  });
  if (in_place) {
    report->warnings.push_back(
        "it has no scratch region and xor ops that read what they overwrite: "
        "it can be read, but not merged");
  }
  return status;
}

void WarnOfImage(const cow::Image& image, VerifyReport* report) {
  std::vector<std::string>& warnings = report->warnings;
  if (!image.order_error.empty()) {
    warnings.push_back(
        absl::StrCat("it can be read, but not merged: ", image.order_error));
  }
  if (image.index.duplicate_count() != 0) {
    warnings.push_back(absl::StrCat(
        image.index.duplicate_count(),
        " ops give blocks that earlier ops give; the first of them counts"));
  }
  const cow::CompressionSet algorithms =
      image.compressions & ~cow::CompressionBit(cow::Compression::kNone);
  if (!image.header.is_v3() && (algorithms & (algorithms - 1)) != 0) {
    warnings.push_back(
        "it uses several compressors; Android 15 and later refuse that");
  }
  if (image.unit_checks_offset == 0) {
    warnings.push_back(
        "it has no checksums of its own: damage in raw or lz4 data cannot be "
        "seen");
  }
  if (image.header.is_v3() && !image.has_extension) {
    warnings.push_back(
        "it does not record that it is complete; a file that was cut off while "
        "it was written looks the same");
  }
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood:
      return "good";
    case Verdict::kCorrupt:
      return "corrupt";
    case Verdict::kWrongBase:
      return "wrong base";
  }
  return "?";
}

absl::StatusOr<VerifyReport> VerifyCow(const File& file,
                                       const VerifyOptions& options) {
  VerifyReport report;
  VerifyLog log(&report);
  absl::StatusOr<std::unique_ptr<cow::Image>> loaded = LoadImage(file);
  if (!loaded.ok()) {
    if (!IsFinding(loaded.status())) return loaded.status();
    Finding finding;
    finding.kind = "structure";
    finding.message = std::string(loaded.status().message());
    log.Add(Verdict::kCorrupt, std::move(finding));
    log.Finish();
    return report;
  }
  absl::StatusOr<File> again = file.Duplicate();
  if (!again.ok()) return again.status();
  const CowFile cow = {*std::move(again), *std::move(loaded)};
  const cow::Image& image = *cow.image;
  report.ops = image.index.op_count();
  report.has_checks = image.unit_checks_offset != 0;
  WarnOfImage(image, &report);
  CheckOrder(image, &log);
  absl::Status status = WarnOfScratch(cow, &report);
  if (status.ok()) status = CheckTables(cow, &log);
  if (status.ok()) {
    ProgressBar bar("checking data ", options.progress, image.data_bytes);
    UnitChecker checker(cow, &log, &bar);
    status = ParallelFor(
        image.ops.page_count(), options.threads, [&checker](uint64_t page) {
          return checker.CheckPage(static_cast<uint32_t>(page));
        });
    report.units = checker.units();
    report.unit_bytes = checker.unit_bytes();
  }
  if (status.ok() && options.base != nullptr) {
    status = VerifyBase(cow, options, &log, &report);
  }
  if (!status.ok()) return status;
  log.Finish();
  return report;
}

}  // namespace dmu::tools
