// SPDX-License-Identifier: Apache-2.0
//
// op_table.cc - see op_table.h.
#include "daemon/cow/op_table.h"

#include <algorithm>

#include "daemon/base/check.h"

namespace dmu::cow {

void OpTable::BeginV3(const Header& header) {
  is_v3_ = true;
  compression_ = header.compression;
  ops_offset_ = header.OpsOffset();
  data_offset_ = header.DataOffset();
}

void OpTable::BeginV2(const Header& header) {
  is_v3_ = false;
  has_clusters_ = header.cluster_ops != 0;
}

void OpTable::AddOpV3(const Op& op, uint64_t data_offset) {
  DMU_CHECK(is_v3_);
  if (op_count_ % kPageOps == 0) data_offsets_v3_.push_back(data_offset);
  has_xor_ |= op.type == OpType::kXor;
  ++op_count_;
}

void OpTable::AddSlotV2(const Op& op, uint64_t offset, uint64_t data_offset) {
  DMU_CHECK(!is_v3_);
  const bool data_op = IsDataOp(op.type);
  // A page's data is one piece, or positions could not be added up: without
  // clusters it stands behind its own slot.
  const bool adds_up = has_clusters_ || !HasData(op.type);
  const bool joins =
      adds_up && !pages_v2_.empty() && pages_v2_.back().slots < kPageOps &&
      offset == pages_v2_.back().offset +
                    uint64_t{pages_v2_.back().slots} * kOpBytesV2;
  if (joins) {
    ++pages_v2_.back().slots;
  } else if (data_op) {
    pages_v2_.push_back({offset, data_offset, op_count_, 1});
  }
  if (data_op) ++op_count_;
}

void OpTable::Finish() {
  if (!is_v3_) {
    page_count_ = static_cast<uint32_t>(pages_v2_.size());
    pages_v2_.shrink_to_fit();
    return;
  }
  page_count_ = (op_count_ + kPageOps - 1) / kPageOps;
  if (!has_xor_) data_offsets_v3_.clear();
  data_offsets_v3_.shrink_to_fit();
}

OpTable::Page OpTable::PageAt(uint32_t number) const {
  DMU_CHECK(number < page_count_);
  Page page;
  page.number = number;
  if (is_v3_) {
    page.first_op = number * kPageOps;
    page.ops = std::min(kPageOps, op_count_ - page.first_op);
    page.offset = ops_offset_ + uint64_t{page.first_op} * kOpBytesV3;
    page.bytes = page.ops * kOpBytesV3;
    if (has_xor_) page.data_offset = data_offsets_v3_[number];
    return page;
  }
  const PageV2& stored = pages_v2_[number];
  const uint32_t end =
      number + 1 < page_count_ ? pages_v2_[number + 1].first_op : op_count_;
  page.offset = stored.offset;
  page.bytes = stored.slots * kOpBytesV2;
  page.first_op = stored.first_op;
  page.ops = end - stored.first_op;
  page.data_offset = stored.data_offset;
  return page;
}

OpTable::Page OpTable::PageOf(uint32_t op) const {
  DMU_CHECK(op < op_count_);
  if (is_v3_) return PageAt(op / kPageOps);
  const auto after = std::upper_bound(
      pages_v2_.begin(), pages_v2_.end(), op,
      [](uint32_t o, const PageV2& page) { return o < page.first_op; });
  return PageAt(static_cast<uint32_t>(after - pages_v2_.begin()) - 1);
}

bool OpTable::Decode(const Page& page, const uint8_t* bytes, uint32_t op,
                     Op* out) const {
  DMU_CHECK(op >= page.first_op && op - page.first_op < page.ops);
  if (is_v3_) {
    const uint8_t* record = bytes + size_t{op - page.first_op} * kOpBytesV3;
    if (!DecodeOpV3(record, compression_, out)) return false;
    if (out->type != OpType::kXor) return true;
  }
  return Walk(page, bytes, [&](uint32_t number, const Op& found) {
    *out = found;
    return number != op;
  });
}

bool OpTable::DecodeAll(const Page& page, const uint8_t* bytes,
                        Op out[kPageOps]) const {
  return Walk(page, bytes, [&](uint32_t number, const Op& found) {
    out[number - page.first_op] = found;
    return true;
  });
}

// Calls visit(number, op) for each data op, until it says false.
template <typename Visit>
bool OpTable::Walk(const Page& page, const uint8_t* bytes, Visit visit) const {
  uint64_t data_offset = page.data_offset;
  uint32_t number = page.first_op;
  const uint32_t slot_bytes = is_v3_ ? kOpBytesV3 : kOpBytesV2;
  for (uint32_t at = 0; at < page.bytes; at += slot_bytes) {
    Op op;
    const bool ok = is_v3_ ? DecodeOpV3(bytes + at, compression_, &op)
                           : DecodeOpV2(bytes + at, &op);
    if (!ok) return false;
    if (op.type == OpType::kXor) op.data_offset = data_offset;
    // What is stored twice must still agree.
    if (!is_v3_ && op.type == OpType::kReplace && op.source != data_offset) {
      return false;
    }
    if (HasData(op.type)) data_offset += op.data_length;
    if (!IsDataOp(op.type)) continue;
    if (number - page.first_op == page.ops) return false;
    if (!visit(number, op)) return true;
    ++number;
  }
  return number - page.first_op == page.ops;
}

uint64_t OpTable::resident_bytes() const {
  return data_offsets_v3_.capacity() * sizeof(uint64_t) +
         pages_v2_.capacity() * sizeof(PageV2);
}

}  // namespace dmu::cow
