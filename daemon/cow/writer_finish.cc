// SPDX-License-Identifier: Apache-2.0
//
// writer_finish.cc - labels, and the end of a file: what must be durable before
// what.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/unit_check.h"
#include "daemon/cow/writer.h"

namespace dmu::cow {

absl::Status Writer::ZeroRestOfCluster() {
  if (header_.cluster_ops == 0 || walk_->slots_used() >= header_.cluster_ops) {
    return absl::OkStatus();
  }
  // The slot at the walk's place is about to be written, or is the end.
  if (absl::Status status = FlushRun(&ops_); !status.ok()) return status;
  const uint64_t left = header_.cluster_ops - walk_->slots_used();
  // Data that is there already begins behind the area.
  return WriteZeros(walk_->slot_offset(), left * kOpBytesV2);
}

absl::Status Writer::WriteHeader() {
  uint8_t bytes[kHeaderBytesMax];
  EncodeHeader(header_, bytes);
  header_written_ = true;
  return sink_->WriteAt(0, ConstByteSpan(bytes, header_.header_size));
}

absl::Status Writer::WriteResumePoints() {
  uint8_t bytes[kResumePointBytes * kResumePointMax] = {};
  DMU_CHECK(points_.size() <= kResumePointMax);
  for (size_t i = 0; i < points_.size(); ++i) {
    EncodeResumePoint(points_[i], bytes + i * kResumePointBytes);
  }
  return sink_->WriteAt(header_.ResumeOffset(), bytes);
}

absl::Status Writer::WriteRecord(const Extension& ext) {
  uint8_t bytes[kExtensionBytes];
  EncodeExtension(ext, bytes);
  return sink_->WriteAt(header_.DataOffset() - kExtensionBytes, bytes);
}

absl::Status Writer::AddLabel(uint64_t label) {
  DMU_CHECK(!finished_);
  absl::Status status;
  if (!is_v3()) {
    Op op;
    op.type = OpType::kLabel;
    op.source = label;
    status = AddSlotV2(op, {});
    if (status.ok()) status = Flush();
    if (status.ok()) status = ZeroRestOfCluster();
    if (status.ok() && header_.cluster_ops == 0) {
      status = WriteZeros(walk_->slot_offset(), kFooterBytes);
    }
    if (status.ok()) status = sink_->Sync();
    if (!status.ok() || header_written_) return status;
    status = WriteHeader();
    return status.ok() ? sink_->Sync() : status;
  }
  // First what the label vouches for, then the label.
  status = Flush();
  if (status.ok() && has_extension_) {
    Extension unfinished;
    unfinished.base_bytes = options_.base_bytes;
    unfinished.target_bytes = options_.target_bytes;
    status = WriteRecord(unfinished);
  }
  if (status.ok()) status = sink_->Sync();
  if (!status.ok()) return status;
  points_.erase(std::remove_if(points_.begin(), points_.end(),
                               [label](const ResumePoint& point) {
                                 return point.label >= label;
                               }),
                points_.end());
  points_.push_back({label, op_count()});
  if (points_.size() > kResumePointMax) points_.erase(points_.begin());
  header_.resume_point_count = static_cast<uint32_t>(points_.size());
  header_.op_count = op_count();
  status = WriteResumePoints();
  if (status.ok()) status = WriteHeader();
  if (status.ok()) status = sink_->Sync();
  return status;
}

Extension Writer::MakeExtension(const ImageFacts& facts,
                                uint64_t data_end) const {
  Extension ext;
  ext.complete = true;
  ext.base_bytes = options_.base_bytes;
  ext.target_bytes = options_.target_bytes;
  ext.data_end = data_end;
  ext.op_count = op_count();
  ext.header_crc = HeaderChecksum(header_);
  ext.unit_check_count = static_cast<uint32_t>(unit_checks_.size());
  ext.target_check_count = static_cast<uint32_t>(facts.target_checks.size());
  ext.sample_count = static_cast<uint32_t>(
      std::min<size_t>(facts.samples.size(), kSamplesMax));
  ext.base_digest = facts.base_digest;
  ext.target_digest = facts.target_digest;
  return ext;
}

std::vector<uint8_t> Writer::MakeTables(const Extension& ext,
                                        const ImageFacts& facts) const {
  std::vector<uint8_t> tables(ext.tables_bytes());
  uint8_t* at = tables.data() + tables.size() - ext.unit_checks_before_record();
  for (const uint32_t check : unit_checks_) {
    StoreLe<uint32_t>(at, check);
    at += 4;
  }
  for (const uint32_t check : facts.target_checks) {
    StoreLe<uint32_t>(at, check);
    at += 4;
  }
  for (uint32_t i = 0; i < ext.sample_count; ++i) {
    EncodeSample(facts.samples[i], at);
    at += kSampleBytes;
  }
  return tables;
}

absl::Status Writer::Finish(const ImageFacts& facts) {
  DMU_CHECK(!finished_);
  if (!sequence_.empty() && ordered_ops_ > sequence_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence has ", sequence_.size(), " entries for ", ordered_ops_,
        " copies and xors; it must name all of them"));
  }
  std::vector<uint8_t> entries(4 * sequence_.size());
  for (size_t i = 0; i < sequence_.size(); ++i) {
    StoreLe<uint32_t>(entries.data() + 4 * i, sequence_[i]);
  }
  if (!entries.empty()) hasher_.AddSequence(entries);
  finished_ = true;
  absl::Status status = is_v3() ? FinishV3(facts) : FinishV2(facts);
  if (status.ok()) status = sink_->Sync();
  return status;
}

absl::Status Writer::FinishV3(const ImageFacts& facts) {
  header_.op_count = op_count();
  end_bytes_ = data_next_;
  absl::Status status = Flush();
  if (status.ok()) status = WriteResumePoints();
  Extension ext = MakeExtension(facts, data_next_);
  if (has_extension_) {
    const uint64_t spare = header_.op_count_max - header_.op_count;
    if (ext.bytes() > spare * kOpBytesV3) {
      return absl::InvalidArgumentError(
          absl::StrCat("the extension has ", ext.bytes(),
                       " bytes, the spare op slots ", spare * kOpBytesV3));
    }
    const std::vector<uint8_t> tables = MakeTables(ext, facts);
    ext.tables_check = UnitCheck(tables);
    ext.ops_check = hasher_.Finish();
    if (status.ok() && !tables.empty()) {
      status = sink_->WriteAt(
          header_.DataOffset() - kExtensionBytes - tables.size(), tables);
    }
    // A header that is valid already has its record exchanged last: until then
    // the old one says that the file is not complete.
    if (status.ok() && !header_written_) status = WriteRecord(ext);
  }
  if (status.ok()) status = sink_->SetEnd(end_bytes_);
  if (status.ok()) status = sink_->Sync();
  const bool record_last = has_extension_ && header_written_;
  if (status.ok()) status = WriteHeader();
  if (!record_last || !status.ok()) return status;
  status = sink_->Sync();
  if (status.ok()) status = WriteRecord(ext);
  return status;
}

absl::Status Writer::FinishV2(const ImageFacts& facts) {
  // The footer stands where the next op would. With data in this cluster that
  // is at the beginning of another one.
  absl::Status status;
  if (header_.cluster_ops != 0 && walk_->cluster_data_bytes() > 0) {
    status = AddClusterOp();
  }
  if (status.ok()) status = Flush();
  if (status.ok()) status = ZeroRestOfCluster();
  const uint64_t footer_at = walk_->slot_offset();
  Footer footer;
  footer.num_ops = slots_;
  footer.ops_size = slots_ * kOpBytesV2;
  end_bytes_ = footer_at + kFooterBytes;
  if (has_extension_) {
    Extension ext = MakeExtension(facts, footer_at);
    ext.ops_check = hasher_.Finish();
    const std::vector<uint8_t> tables = MakeTables(ext, facts);
    ext.tables_check = UnitCheck(tables);
    EncodeFooterNote(tables.size(), footer.unused);
    std::vector<uint8_t> trailer = tables;
    trailer.resize(tables.size() + kExtensionBytes);
    EncodeExtension(ext, trailer.data() + tables.size());
    if (status.ok()) status = sink_->WriteAt(end_bytes_, trailer);
    end_bytes_ += trailer.size();
  }
  uint8_t bytes[kFooterBytes];
  EncodeFooter(footer, bytes);
  // The footer completes the file: all else is durable before it.
  if (status.ok()) status = sink_->Sync();
  if (status.ok()) status = sink_->WriteAt(footer_at, bytes);
  if (status.ok()) status = sink_->SetEnd(end_bytes_);
  if (!status.ok() || header_written_) return status;
  status = sink_->Sync();
  if (status.ok()) status = WriteHeader();
  return status;
}

uint64_t Writer::file_bytes() const {
  if (end_bytes_ != 0) return end_bytes_;
  if (is_v3()) return data_next_;
  const bool leads_on =
      header_.cluster_ops != 0 && walk_->cluster_data_bytes() > 0;
  return (leads_on ? walk_->data_offset() : walk_->slot_offset()) +
         kFooterBytes;
}

}  // namespace dmu::cow
