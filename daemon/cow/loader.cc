// SPDX-License-Identifier: Apache-2.0
//
// loader.cc - the steps of reading a COW file, and what leads from one to the
// next. What each op must be is in loader_ops.cc.
#include "daemon/cow/loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/header_check.h"

namespace dmu::cow {
namespace {

// The first read: header and, behind it, the state byte of the scratch region.
constexpr uint32_t kFirstBytes = kSectorBytes;
static_assert(kHeaderBytesMax < kFirstBytes);
static_assert(Loader::kChunkBytes % kOpBytesV3 == 0);
static_assert(OpTable::kPageBytesMax <= Loader::kChunkBytes);

// "its labels are 1, 2"; the last few of many.
std::string LabelsText(const Image& image) {
  constexpr size_t kShown = 8;
  if (image.labels.empty()) return "it has no labels";
  std::string text = "its labels are ";
  const size_t count = image.labels.size();
  if (count > kShown) text += "..., ";
  for (size_t i = count > kShown ? count - kShown : 0; i < count; ++i) {
    absl::StrAppendFormat(&text, "%u%s", image.labels[i].label,
                          i + 1 < count ? ", " : "");
  }
  return text;
}

uint64_t BlocksOf(uint64_t bytes) {
  return bytes / kBlockBytes + (bytes % kBlockBytes != 0);
}

}  // namespace

Loader::Loader(uint64_t file_bytes, std::optional<uint64_t> label)
    : file_bytes_(file_bytes),
      label_(label),
      image_(std::make_unique<Image>()) {
  SetRange(0, std::min<uint64_t>(file_bytes, kFirstBytes));
}

Loader::~Loader() = default;

void Loader::SetRange(uint64_t offset, uint64_t bytes) {
  DMU_CHECK(offset <= file_bytes_ && bytes <= file_bytes_ - offset);
  next_offset_ = offset;
  end_offset_ = offset + bytes;
}

Loader::Want Loader::want() const {
  if (step_ == Step::kDone || step_ == Step::kFailed) return {};
  return {next_offset_, static_cast<uint32_t>(std::min<uint64_t>(
                            end_offset_ - next_offset_, kChunkBytes))};
}

bool Loader::done() const { return step_ == Step::kDone; }

std::unique_ptr<Image> Loader::Take() {
  DMU_CHECK(done());
  return std::move(image_);
}

absl::Status Loader::Feed(ConstByteSpan bytes) {
  DMU_CHECK(step_ != Step::kDone && step_ != Step::kFailed);
  DMU_CHECK(bytes.size() == want().bytes);
  next_offset_ += bytes.size();
  absl::Status status = FeedStep(bytes);
  if (status.ok() && next_offset_ == end_offset_ && !working_ &&
      step_ != Step::kDone) {
    status = Enter(static_cast<Step>(static_cast<int>(step_) + 1));
  }
  if (!status.ok()) step_ = Step::kFailed;
  return status;
}

absl::Status Loader::FeedStep(ConstByteSpan bytes) {
  switch (step_) {
    case Step::kHeader:
      return TakeHeader(bytes);
    case Step::kScratch:
      return TakeScratch(bytes);
    case Step::kExtension:
    case Step::kTrailer:
      return TakeRecord(bytes);
    case Step::kResume:
      return TakeResumePoints(bytes);
    case Step::kOps:
      return image_->header.is_v3() ? TakeOpsV3(bytes) : TakeSlotsV2(bytes);
    case Step::kFooter:
      return TakeFooter(bytes);
    case Step::kSort:
      return SortStep();
    case Step::kSequence:
      return TakeSequence(bytes);
    case Step::kListed:
      return TakeListed(bytes);
    case Step::kFinish:
      return FinishStep();
    case Step::kOrder:
      return TakeOrder(bytes);
    case Step::kDone:
    case Step::kFailed:
      break;
  }
  DMU_CHECK(false);
  return absl::OkStatus();
}

absl::Status Loader::Enter(Step step) {
  for (;; step = static_cast<Step>(static_cast<int>(step) + 1)) {
    step_ = step;
    if (step == Step::kDone) return absl::OkStatus();
    const absl::StatusOr<bool> has_bytes = Begin(step);
    if (!has_bytes.ok()) return has_bytes.status();
    if (*has_bytes) return absl::OkStatus();
  }
}

absl::StatusOr<bool> Loader::Begin(Step step) {
  const Header& h = image_->header;
  switch (step) {
    case Step::kScratch:
      if (scratch_state_ != ScratchState::kWindowStaged) return false;
      SetRange(h.ScratchStateOffset() + 1, kScratchMetadataBytes - 1);
      return true;
    case Step::kExtension: {
      const uint64_t offset = h.is_v3() ? ExtensionOffsetV3(h) : 0;
      // A file without data may end before the spare slots do.
      if (offset == 0 || offset > file_bytes_ ||
          kExtensionBytes > file_bytes_ - offset) {
        return false;
      }
      SetRange(offset, kExtensionBytes);
      return true;
    }
    case Step::kResume: {
      const uint64_t count =
          std::min<uint64_t>(h.resume_point_count, Image::kLabelsKept);
      if (count == 0 || h.ResumeOffset() > file_bytes_ ||
          count * kResumePointBytes > file_bytes_ - h.ResumeOffset()) {
        return false;
      }
      SetRange(h.ResumeOffset(), count * kResumePointBytes);
      return true;
    }
    case Step::kOps:
      return BeginOps();
    case Step::kFooter:
      if (h.is_v3() || footer_at_ == 0) return false;
      SetRange(footer_at_, kFooterBytes);
      return true;
    case Step::kTrailer:
      if (record_at_ == 0) return false;
      SetRange(record_at_, kExtensionBytes);
      return true;
    case Step::kSort:
      BeginSort();
      return true;
    case Step::kSequence:
      return BeginSequence();
    case Step::kListed:
      return lists_ordered_ && has_ordered_ && BeginPages();
    case Step::kFinish:
      SetRange(0, 0);
      return true;
    case Step::kOrder:
      return has_ordered_ && !image_->partial && BeginPages();
    default:
      break;
  }
  DMU_CHECK(false);
  return false;
}

absl::Status Loader::TakeHeader(ConstByteSpan bytes) {
  Header& h = image_->header;
  if (absl::Status status = CheckHeader(bytes, file_bytes_, &h); !status.ok()) {
    return status;
  }
  // Android's writer goes on counting labels when the resume area is full.
  h.resume_point_count = std::min(h.resume_point_count, h.resume_point_max);
  if (!h.has_scratch()) return absl::OkStatus();
  const uint8_t state = bytes[h.ScratchStateOffset()];
  if (state > static_cast<uint8_t>(ScratchState::kWindowStaged)) {
    return absl::DataLossError(absl::StrFormat(
        "the merge state at offset %u is %u, expected 0, 1 or 2; the file is "
        "corrupt",
        h.ScratchStateOffset(), state));
  }
  scratch_state_ = static_cast<ScratchState>(state);
  return absl::OkStatus();
}

absl::Status Loader::TakeScratch(ConstByteSpan bytes) {
  const Header& h = image_->header;
  if (!DecodeScratchMetadata(h, bytes.data(), &scratch_)) {
    return absl::DataLossError(absl::StrFormat(
        "the list of staged blocks at offset %u is corrupt; a merge was "
        "interrupted and cannot be taken up from this file",
        h.ScratchStateOffset() + 1));
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeRecord(ConstByteSpan bytes) {
  Image& image = *image_;
  if (!HasExtensionMagic(bytes.data())) return absl::OkStatus();
  const uint64_t record_at = next_offset_ - kExtensionBytes;
  Extension ext;
  if (!DecodeExtension(bytes.data(), &ext)) {
    return absl::DataLossError(absl::StrFormat(
        "the extension record at offset %u does not match its checksum; the "
        "COW file is incomplete or corrupt, make it again",
        record_at));
  }
  if (!ext.complete && !label_.has_value()) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is incomplete: its writer did not finish; "
        "let it go on, or read the file up to a label (%s)",
        LabelsText(image)));
  }
  const uint64_t op_count =
      image.header.is_v3() ? image.header.op_count : ops_taken();
  // Ops were appended by a writer that does not know the record: what it says
  // no longer holds.
  if (ext.complete && ext.op_count != op_count) return absl::OkStatus();
  constexpr uint64_t kImageBytesMax = uint64_t{UINT32_MAX} * kBlockBytes;
  if (ext.base_bytes > kImageBytesMax || ext.target_bytes > kImageBytesMax ||
      ext.base_bytes % kSectorBytes != 0 ||
      ext.target_bytes % kSectorBytes != 0) {
    return absl::DataLossError(absl::StrFormat(
        "the extension record says: base %u bytes, target %u bytes, which "
        "cannot be; the file is corrupt",
        ext.base_bytes, ext.target_bytes));
  }
  const uint32_t crc = HeaderChecksum(image.header);
  if (ext.complete && ext.header_crc != crc) {
    return absl::DataLossError(absl::StrFormat(
        "the header has checksum %08x, the extension record says %08x; the "
        "file is corrupt",
        crc, ext.header_crc));
  }
  // Version 3: inside the spare slots. Version 2: behind the footer, which has
  // said how long they are.
  const uint64_t tables_begin =
      image.header.is_v3()
          ? image.header.OpsOffset() + kOpBytesV3 * image.header.op_count
          : footer_at_ + kFooterBytes;
  if (ext.complete && ext.tables_bytes() > record_at - tables_begin) {
    return absl::DataLossError(absl::StrFormat(
        "the extension record speaks of %u bytes of tables, there is room for "
        "%u; the file is corrupt",
        ext.tables_bytes(), record_at - tables_begin));
  }
  image.extension = ext;
  image.has_extension = true;
  if (!ext.complete) return absl::OkStatus();
  if (ext.unit_check_count != 0) {
    image.unit_checks_offset = record_at - ext.unit_checks_before_record();
  }
  if (ext.target_check_count != 0) {
    image.target_checks_offset = record_at - ext.target_checks_before_record();
  }
  if (ext.sample_count != 0) {
    image.samples_offset = record_at - ext.samples_before_record();
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeResumePoints(ConstByteSpan bytes) {
  for (size_t at = 0; at < bytes.size(); at += kResumePointBytes) {
    const ResumePoint point = DecodeResumePoint(bytes.data() + at);
    // Android's writer leaves points of ops that it has cut off.
    if (point.op_count > image_->header.op_count) continue;
    image_->labels.push_back(point);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Loader::BeginOps() {
  Header& h = image_->header;
  image_->partial = label_.has_value();
  if (!h.is_v3()) {
    image_->ops.BeginV2(h);
    walk_.emplace(h);
    if (absl::Status status = builder_.Begin(0); !status.ok()) return status;
    if (absl::Status status = WantSlots(); !status.ok()) return status;
    return true;
  }
  ops_wanted_ = h.op_count;
  if (label_.has_value()) {
    // The first of several with the same number, as Android has it.
    const auto point =
        std::find_if(image_->labels.begin(), image_->labels.end(),
                     [&](const ResumePoint& p) { return p.label == *label_; });
    if (point == image_->labels.end()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the COW file has no label %u; %s", *label_, LabelsText(*image_)));
    }
    ops_wanted_ = point->op_count;
  }
  image_->ops.BeginV3(h);
  data_next_ = h.DataOffset();
  if (absl::Status status = builder_.Begin(ops_wanted_); !status.ok()) {
    return status;
  }
  if (ops_wanted_ == 0) return false;
  SetRange(h.OpsOffset(), kOpBytesV3 * ops_wanted_);
  return true;
}

absl::Status Loader::TakeOpsV3(ConstByteSpan bytes) {
  const Compression compression = image_->header.compression;
  for (size_t at = 0; at < bytes.size(); at += kOpBytesV3) {
    Op op;
    if (!DecodeOpV3(bytes.data() + at, compression, &op)) {
      return absl::DataLossError(absl::StrFormat(
          "op %u at offset %u is not an op (last 8 bytes: %016x); the file is "
          "corrupt",
          ops_taken(), next_offset_ - bytes.size() + at,
          LoadLe<uint64_t>(bytes.data() + at + 8)));
    }
    image_->ops.AddOpV3(op, data_next_);
    if (absl::Status status = TakeOp(op); !status.ok()) return status;
    data_next_ += op.data_length;
  }
  return absl::OkStatus();
}

absl::Status Loader::WantSlots() {
  const uint64_t at = walk_->slot_offset();
  const uint64_t left = at < file_bytes_ ? (file_bytes_ - at) / kOpBytesV2 : 0;
  if (left == 0) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is incomplete: at offset %u, after %u ops, an op or the "
        "footer is expected and the file ends; make it again, or read it up to "
        "a label (%s)",
        at, slots_, LabelsText(*image_)));
  }
  const uint64_t slots = std::min<uint64_t>(
      {left, walk_->slots_in_reach(), kChunkBytes / kOpBytesV2});
  SetRange(at, slots * kOpBytesV2);
  return absl::OkStatus();
}

absl::Status Loader::TakeSlotsV2(ConstByteSpan bytes) {
  uint64_t expected = next_offset_ - bytes.size();
  for (size_t at = 0; at < bytes.size(); at += kOpBytesV2) {
    // A cluster op leads elsewhere; what was read behind it is nothing.
    if (walk_->slot_offset() != expected) break;
    expected += kOpBytesV2;
    Op op;
    if (!DecodeOpV2(bytes.data() + at, &op)) {
      return absl::DataLossError(absl::StrFormat(
          "at offset %u, after %u ops, stands no op (type %u, compression %u); "
          "the file is corrupt or incomplete; it may be read up to a label "
          "(%s)",
          walk_->slot_offset(), slots_, bytes[at], bytes[at + 1],
          LabelsText(*image_)));
    }
    if (absl::Status status = TakeSlotV2(op); !status.ok()) return status;
    if (slots_ended_) {
      next_offset_ = end_offset_;
      return absl::OkStatus();
    }
  }
  return WantSlots();
}

absl::Status Loader::TakeSlotV2(const Op& op) {
  const uint64_t slot_at = walk_->slot_offset();
  data_next_ = walk_->data_offset();
  if (op.type == OpType::kFooter) {
    if (label_.has_value()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the COW file has no label %u; %s", *label_, LabelsText(*image_)));
    }
    if (kFooterBytes > file_bytes_ - slot_at) {
      return absl::DataLossError(absl::StrFormat(
          "the COW file is truncated: its footer ends at %u, the file at %u",
          slot_at + kFooterBytes, file_bytes_));
    }
    footer_at_ = slot_at;
    slots_ended_ = true;
    return absl::OkStatus();
  }
  ++slots_;
  if (op.type != OpType::kCluster) {
    image_->ops.AddSlotV2(op, slot_at, data_next_);
  }
  if (IsDataOp(op.type)) {
    if (absl::Status status = TakeOp(op); !status.ok()) return status;
  } else if (op.type == OpType::kSequence) {
    if (absl::Status status = CheckData(op); !status.ok()) return status;
    const uint32_t first =
        image_->sequence.empty()
            ? 0
            : image_->sequence.back().first + image_->sequence.back().count;
    image_->sequence.push_back({op.source, first, op.data_length / 4});
  } else if (op.type == OpType::kLabel) {
    if (image_->labels.size() < Image::kLabelsKept) {
      image_->labels.push_back({op.source, ops_taken()});
    }
    slots_ended_ = label_.has_value() && op.source == *label_;
  }
  if (!walk_->Step(op)) {
    return absl::DataLossError(absl::StrFormat(
        "the %s op at offset %u (source %u) cannot stand there; the file is "
        "corrupt",
        OpTypeName(op.type), slot_at, op.source));
  }
  return absl::OkStatus();
}

absl::Status Loader::TakeFooter(ConstByteSpan bytes) {
  const Footer footer = DecodeFooter(bytes.data());
  if (footer.num_ops != slots_ || footer.ops_size != slots_ * kOpBytesV2) {
    return absl::DataLossError(absl::StrFormat(
        "the footer at offset %u speaks of %u ops in %u bytes, the file has %u "
        "in %u; it is corrupt",
        footer_at_, footer.num_ops, footer.ops_size, slots_,
        slots_ * kOpBytesV2));
  }
  uint64_t tables_bytes = 0;
  const uint64_t tables_at = footer_at_ + kFooterBytes;
  if (!HasFooterNote(footer.unused)) return absl::OkStatus();
  if (!DecodeFooterNote(footer.unused, &tables_bytes)) {
    return absl::DataLossError(absl::StrFormat(
        "what the footer at offset %u says of the extension does not match its "
        "checksum; the COW file is incomplete or corrupt, make it again",
        footer_at_));
  }
  const uint64_t left = file_bytes_ - tables_at;
  if (tables_bytes > left || kExtensionBytes > left - tables_bytes) {
    return absl::DataLossError(absl::StrFormat(
        "the COW file is truncated: its footer at offset %u speaks of %u bytes "
        "behind it, the file ends at %u",
        footer_at_, tables_bytes + kExtensionBytes, file_bytes_));
  }
  record_at_ = tables_at + tables_bytes;
  return absl::OkStatus();
}

absl::Status Loader::CheckTotals() const {
  const Image& image = *image_;
  if (!image.has_extension) return absl::OkStatus();
  const Extension& ext = image.extension;
  if (image.span_blocks > BlocksOf(ext.target_bytes) ||
      image.source_end_bytes > BlocksOf(ext.base_bytes) * kBlockBytes) {
    return absl::DataLossError(absl::StrFormat(
        "ops write up to block %u and read up to byte %u, but the images have "
        "%u blocks and %u bytes; the file is corrupt",
        image.span_blocks, image.source_end_bytes, BlocksOf(ext.target_bytes),
        ext.base_bytes));
  }
  if (!ext.complete || image.partial) return absl::OkStatus();
  // What the base does not have must come from ops.
  if (ext.target_bytes > ext.base_bytes &&
      image.merge_bytes <
          (ext.target_bytes - ext.base_bytes) / kBlockBytes * kBlockBytes) {
    return absl::DataLossError(absl::StrFormat(
        "the target has %u bytes, the base %u, but the ops give only %u; the "
        "file is corrupt",
        ext.target_bytes, ext.base_bytes, image.merge_bytes));
  }
  if (ext.data_end != image.data_end) {
    return absl::DataLossError(absl::StrFormat(
        "the data ends at %u, the extension record says %u; the file is "
        "corrupt",
        image.data_end, ext.data_end));
  }
  return absl::OkStatus();
}

void Loader::BeginSort() {
  const Header& h = image_->header;
  image_->ops.Finish();
  image_->walk_end = walk_;
  image_->slots = slots_;
  image_->data_end = h.is_v3() ? data_next_ : footer_at_;
  Index::Order order = Index::Order::kFile;
  if (h.is_v3()) {
    if (h.sequence_data_count != 0) {
      image_->sequence.push_back(
          {h.SequenceOffset(), 0,
           static_cast<uint32_t>(h.sequence_data_count)});
    }
  } else {
    order = Index::Order::kOrdered;
  }
  if (!image_->sequence.empty()) order = Index::Order::kSequence;
  lists_ordered_ = order == Index::Order::kOrdered && !image_->partial;
  builder_.BeginSort(order);
  SetRange(0, 0);
}

absl::Status Loader::SortStep() {
  const absl::StatusOr<bool> through = builder_.SortStep();
  working_ = through.ok() && !*through;
  return through.status();
}

bool Loader::BeginSequence() {
  if (image_->sequence.empty() || image_->partial) return false;
  sequence_chunk_ = 0;
  const SequenceChunk& chunk = image_->sequence.front();
  SetRange(chunk.offset, uint64_t{4} * chunk.count);
  return true;
}

absl::Status Loader::TakeSequence(ConstByteSpan bytes) {
  hasher_.AddSequence(bytes);
  for (size_t at = 0; at < bytes.size(); at += 4) {
    absl::Status status =
        builder_.AddToSequence(LoadLe<uint32_t>(bytes.data() + at));
    if (!status.ok()) return status;
  }
  if (next_offset_ != end_offset_) return absl::OkStatus();
  if (++sequence_chunk_ < image_->sequence.size()) {
    const SequenceChunk& chunk = image_->sequence[sequence_chunk_];
    SetRange(chunk.offset, uint64_t{4} * chunk.count);
  }
  return absl::OkStatus();
}

bool Loader::BeginPages() {
  page_ = 0;
  const OpTable::Page page = image_->ops.PageAt(0);
  SetRange(page.offset, page.bytes);
  return true;
}

bool Loader::NextPage() {
  if (++page_ == image_->ops.page_count()) return false;
  const OpTable::Page page = image_->ops.PageAt(page_);
  SetRange(page.offset, page.bytes);
  return true;
}

absl::Status Loader::TakeListed(ConstByteSpan bytes) {
  const OpTable::Page page = image_->ops.PageAt(page_);
  Op ops[OpTable::kPageOps];
  bool same = image_->ops.DecodeAll(page, bytes.data(), ops);
  for (uint32_t i = 0; i < page.ops && same; ++i) {
    if (!IsOrderedOp(ops[i].type)) continue;
    same = builder_.AddListed(page.first_op + i, ops[i]);
  }
  if (!same) {
    return absl::DataLossError(
        "the COW file changed while it was read; something else writes to it");
  }
  NextPage();
  return absl::OkStatus();
}

absl::Status Loader::FinishStep() {
  working_ = !builder_.FinishStep();
  return working_ ? absl::OkStatus() : TakeIndex();
}

absl::Status Loader::TakeIndex() {
  Image& image = *image_;
  image.index = builder_.Take();
  if (absl::Status status = CheckTotals(); !status.ok()) return status;
  if (image.partial) {
    image.progress.merged_ops = 0;
    image.order_error =
        "the file was read up to a label; only a whole file can be merged";
    return absl::OkStatus();
  }
  if (image.has_extension && image.extension.ops_check != hasher_.Finish()) {
    return absl::DataLossError(absl::StrFormat(
        "the ops have checksum %08x, the extension record says %08x; the file "
        "is corrupt",
        hasher_.Finish(), image.extension.ops_check));
  }
  if (image.header.num_merge_ops > image.index.merge_count()) {
    return absl::DataLossError(absl::StrFormat(
        "header field num_merge_ops at offset %u is %u, the merge has %u "
        "steps; the file is corrupt",
        kMergeCounterOffset, image.header.num_merge_ops,
        image.index.merge_count()));
  }
  image.progress = JudgeProgress(image.index, image.header.num_merge_ops,
                                 scratch_state_, std::move(scratch_));
  return absl::OkStatus();
}

absl::Status Loader::TakeOrder(ConstByteSpan bytes) {
  const OpTable::Page page = image_->ops.PageAt(page_);
  Op ops[OpTable::kPageOps];
  if (!image_->ops.DecodeAll(page, bytes.data(), ops)) {
    return absl::DataLossError(
        "the COW file changed while it was read; something else writes to it");
  }
  for (uint32_t i = 0; i < page.ops && image_->order_error.empty(); ++i) {
    CheckOrder(ops[i], page.first_op + i);
  }
  if (image_->order_error.empty()) NextPage();
  return absl::OkStatus();
}

}  // namespace dmu::cow
