// SPDX-License-Identifier: Apache-2.0
//
// op_table.h - where the record of an op stands in the file, and its data.
//
// Op numbers count data ops in the order of the file. The records stay in the
// file and are read a page at a time: up to kPageOps consecutive slots. In
// version 3 pages are found by division; in version 2 they never cross a
// cluster, and may hold labels and sequence ops between the data ops.
// Memory: 8 bytes per page in a version 3 file that has xor ops and nothing
// otherwise; 24 bytes per page in version 2 (a page is a cluster, or 256 slots
// of a large one; without clusters it is a single op).
#ifndef DAEMON_COW_OP_TABLE_H_
#define DAEMON_COW_OP_TABLE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

class OpTable {
 public:
  static constexpr uint32_t kPageOps = 256;
  static constexpr uint32_t kPageBytesMax = kPageOps * kOpBytesMax;

  struct Page {
    uint32_t number = 0;
    uint64_t offset = 0;       // of its bytes in the file
    uint32_t bytes = 0;        // <= kPageBytesMax
    uint32_t first_op = 0;     // number of its first data op
    uint32_t ops = 0;          // data ops in it, >= 1
    uint64_t data_offset = 0;  // of the first slot's data; 0: not kept
  };

  // An empty table; AddOpV3 and AddSlotsV2 fill it.
  OpTable() = default;

  uint32_t op_count() const { return op_count_; }
  uint32_t page_count() const { return page_count_; }
  // `number` < page_count().
  Page PageAt(uint32_t number) const;
  // The page of an op, op < op_count(). O(1), version 2: O(log pages).
  Page PageOf(uint32_t op) const;

  // Decodes the record of `op`, which is in `page`, from the page's bytes, with
  // data_offset. False when that is not possible: the bytes are not those the
  // table was made from.
  bool Decode(const Page& page, const uint8_t* bytes, uint32_t op,
              Op* out) const;

  // All page.ops of them, with one pass.
  bool DecodeAll(const Page& page, const uint8_t* bytes,
                 Op out[kPageOps]) const;

  uint64_t resident_bytes() const;

  // Filling, in the order of the file.
  void BeginV3(const Header& header);
  void BeginV2(const Header& header);
  // The next op of a version 3 file; data_offset: where its data would be.
  void AddOpV3(const Op& op, uint64_t data_offset);
  // A slot of a version 2 file at `offset` that holds `op`, whose data is or
  // would be at data_offset. Metadata ops too, but not cluster ops and footer.
  void AddSlotV2(const Op& op, uint64_t offset, uint64_t data_offset);
  // After the last one.
  void Finish();

 private:
  struct PageV2 {
    uint64_t offset;
    uint64_t data_offset;
    uint32_t first_op;
    uint32_t slots;
  };

  template <typename Visit>
  bool Walk(const Page& page, const uint8_t* bytes, Visit visit) const;

  bool is_v3_ = true;
  bool has_clusters_ = true;
  Compression compression_ = Compression::kNone;
  uint64_t ops_offset_ = 0;
  uint64_t data_offset_ = 0;
  uint32_t op_count_ = 0;
  uint32_t page_count_ = 0;
  bool has_xor_ = false;
  std::vector<uint64_t> data_offsets_v3_;
  std::vector<PageV2> pages_v2_;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_OP_TABLE_H_
