// SPDX-License-Identifier: Apache-2.0
//
// cow_verify_base.cc - see cow_verify_base.h.
#include "tools/cow_verify_base.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"
#include "daemon/cow/unit_check.h"
#include "tools/base_identity.h"
#include "tools/parallel.h"
#include "tools/progress_bar.h"
#include "tools/reader_pool.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

constexpr uint32_t kPieceBlocks = cow::kTargetCheckBlocks;

class TargetChecker {
 public:
  TargetChecker(const CowFile& cow, const File& base, uint64_t target_bytes,
                std::vector<uint8_t> checks, VerifyLog* log, ProgressBar* bar)
      : readers_([&cow, &base] { return TargetReader::Create(cow, base); }),
        target_bytes_(target_bytes),
        checks_(std::move(checks)),
        digests_((target_bytes + kBlockBytes - 1) / kBlockBytes),
        log_(log),
        bar_(bar) {}

  uint64_t pieces() const {
    return (digests_.size() + kPieceBlocks - 1) / kPieceBlocks;
  }

  // One MiB of the target. Any thread.
  absl::Status CheckPiece(uint64_t piece) {
    absl::StatusOr<std::unique_ptr<TargetReader>> reader = readers_.Take();
    if (!reader.ok()) return reader.status();
    const uint64_t begin = piece * kPieceBlocks * kBlockBytes;
    const uint64_t bytes = std::min<uint64_t>(
        uint64_t{kPieceBlocks} * kBlockBytes, target_bytes_ - begin);
    std::vector<uint8_t> image((bytes + kBlockBytes - 1) / kBlockBytes *
                               kBlockBytes);
    absl::Status status =
        (*reader)->ReadAt(begin, ByteSpan(image.data(), bytes));
    readers_.Return(*std::move(reader));
    bar_->Add(bytes);
    if (absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) {
      Note(Verdict::kCorrupt, piece, std::string(status.message()));
      return absl::OkStatus();
    }
    if (!status.ok()) return status;
    uint8_t hashes[kPieceBlocks * 8];
    const size_t blocks = image.size() / kBlockBytes;
    for (size_t i = 0; i < blocks; ++i) {
      const uint64_t digest = cow::Digest(
          ConstByteSpan(image.data() + i * kBlockBytes, kBlockBytes));
      digests_[piece * kPieceBlocks + i] = digest;
      StoreLe<uint64_t>(hashes + 8 * i, digest);
    }
    if (size_t{4} * piece + 4 > checks_.size()) return absl::OkStatus();
    const uint32_t expected = LoadLe<uint32_t>(checks_.data() + 4 * piece);
    const uint32_t found = cow::UnitCheck(ConstByteSpan(hashes, 8 * blocks));
    if (found == expected) return absl::OkStatus();
    Note(Verdict::kWrongBase, piece,
         absl::StrFormat("blocks %u to %u of the target have checksum %08x, "
                         "expected %08x",
                         piece * kPieceBlocks,
                         piece * kPieceBlocks + blocks - 1, found, expected));
    return absl::OkStatus();
  }

  uint64_t Digest() const {
    std::vector<uint8_t> bytes(8 * digests_.size());
    for (size_t i = 0; i < digests_.size(); ++i) {
      StoreLe<uint64_t>(bytes.data() + 8 * i, digests_[i]);
    }
    return cow::Digest(bytes);
  }

 private:
  void Note(Verdict verdict, uint64_t piece, std::string message) {
    Finding finding;
    finding.kind = "target";
    finding.message = std::move(message);
    finding.block = static_cast<int64_t>(piece * kPieceBlocks);
    log_->Add(verdict, std::move(finding));
  }

  ReaderPool readers_;
  const uint64_t target_bytes_;
  const std::vector<uint8_t> checks_;
  std::vector<uint64_t> digests_;
  VerifyLog* const log_;
  ProgressBar* const bar_;
};

// Every block of the target behind the base's end must come from an op.
void CheckGaps(const cow::Image& image, const File& base, VerifyLog* log) {
  uint64_t block = base.size_bytes() / kBlockBytes;
  while (block < image.span_blocks) {
    const auto found = image.index.Find(static_cast<uint32_t>(block));
    if (!found.has_value()) {
      Finding finding;
      finding.kind = "base";
      finding.message = absl::StrFormat(
          "wrong base: block %u of the target comes from the base, which has "
          "only %u bytes",
          block, base.size_bytes());
      finding.block = static_cast<int64_t>(block);
      log->Add(Verdict::kWrongBase, std::move(finding));
      return;
    }
    block = uint64_t{found->new_block} + found->span_blocks();
  }
}

}  // namespace

absl::Status VerifyBase(const CowFile& cow, const VerifyOptions& options,
                        VerifyLog* log, VerifyReport* report) {
  const cow::Image& image = *cow.image;
  const File& base = *options.base;
  report->base_checked = true;
  absl::Status status = CheckBaseIdentity(cow, base);
  if (absl::IsFailedPrecondition(status)) {
    Finding finding;
    finding.kind = "base";
    finding.message = std::string(status.message());
    log->Add(Verdict::kWrongBase, std::move(finding));
    return absl::OkStatus();
  }
  if (!status.ok()) return status;
  std::vector<uint8_t> checks;
  if (image.target_checks_offset != 0) {
    checks.resize(size_t{4} * image.extension.target_check_count);
    status = cow.file.ReadAt(image.target_checks_offset, checks);
    if (!status.ok()) return status;
  }
  const bool has_digest =
      image.has_extension && image.extension.target_digest != 0;
  if (checks.empty() && !has_digest) {
    report->warnings.push_back(
        "it says nothing of its target, so only that could be checked of the "
        "base what its ops read and its size");
    CheckGaps(image, base, log);
    return absl::OkStatus();
  }
  const uint64_t target_bytes = cow::TargetBytes(image, base.size_bytes());
  ProgressBar bar("checking image", options.progress, target_bytes);
  const uint64_t findings_before = report->finding_count;
  TargetChecker checker(cow, base, target_bytes, std::move(checks), log, &bar);
  status = ParallelFor(
      checker.pieces(), options.threads,
      [&checker](uint64_t piece) { return checker.CheckPiece(piece); });
  if (!status.ok()) return status;
  report->target_checked = has_digest;
  if (!has_digest || report->finding_count != findings_before) {
    return absl::OkStatus();
  }
  const uint64_t found = checker.Digest();
  if (found == image.extension.target_digest) return absl::OkStatus();
  Finding finding;
  finding.kind = "target";
  finding.message = absl::StrFormat(
      "the target has digest %016x, expected %016x: the base is not the one "
      "the file was made from, or not in the state the file records",
      found, image.extension.target_digest);
  log->Add(Verdict::kWrongBase, std::move(finding));
  return absl::OkStatus();
}

}  // namespace dmu::tools
