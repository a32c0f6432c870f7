// SPDX-License-Identifier: Apache-2.0
//
// read_plan.h - answers one read of a snapshot device, piece by piece.
//
// A plan asks the view where the next bytes are, at the moment it can fetch
// them, and goes on until the request is full; what was asked stays true until
// the piece's I/O is done (a lease sees to that where it must). Works at the
// 512-byte granularity of requests; only compressed units are whole. Plans are
// a fixed pool, and nothing is allocated for a request.
#ifndef DAEMON_BACKEND_READ_PLAN_H_
#define DAEMON_BACKEND_READ_PLAN_H_

#include <cstdint>

#include "daemon/backend/unit_cache.h"
#include "daemon/block/request.h"
#include "daemon/cow/image.h"
#include "daemon/io/disk.h"
#include "daemon/merge/engine.h"
#include "daemon/merge/view.h"

namespace dmu {

// Shared by the plans of one device; outlives them.
struct ReadContext {
  // What a page of `pages` has at most: ops, or their checks.
  static constexpr uint32_t kPageBytes = cow::OpTable::kPageBytesMax;
  // Key of the checks of page n is n with this bit; pages are fewer.
  static constexpr uint32_t kChecksKey = uint32_t{1} << 31;

  const cow::Image* image = nullptr;
  const merge::View* view = nullptr;
  merge::LeaseSet* leases = nullptr;
  Disk* base = nullptr;
  Disk* source = nullptr;
  Disk* cow = nullptr;
  UnitCache* units = nullptr;  // keyed by op number
  UnitCache* pages = nullptr;  // keyed by page number and kChecksKey
  void* owner = nullptr;
  // A lease was released.
  void (*lease_released)(void* owner) = nullptr;
  // The plan may be started again; its request is over with `status`. Runs from
  // inside Start when nothing had to be waited for.
  void (*finished)(void* owner, class ReadPlan* plan, Request* request,
                   IoStatus status) = nullptr;
};

class ReadPlan {
 public:
  // I/O of one request in flight.
  static constexpr uint32_t kPieces = 4;

  ReadPlan();
  ReadPlan(const ReadPlan&) = delete;
  ReadPlan& operator=(const ReadPlan&) = delete;

  void Init(ReadContext* context) { context_ = context; }

  // `request` is a read inside the device, length_bytes >= 1.
  void Start(Request* request);

  ReadPlan* next_free = nullptr;  // for the pool

 private:
  struct PieceIo {
    DiskOp op;
    merge::Lease lease;
    ReadPlan* plan = nullptr;
    bool busy = false;
  };
  enum class Step : uint8_t { kGoOn, kBlocked };

  static void OnPieceRead(void* context);
  static void OnUnit(void* context, IoStatus status, const uint8_t* data);
  static void OnPage(void* context, IoStatus status, const uint8_t* data);
  static void OnXorSource(void* context);
  static void OnXorUnit(void* context, IoStatus status, const uint8_t* data);

  // Fetches until something must be waited for or the request is over.
  void Advance();
  Step FetchNext();
  Step FetchCopies(const merge::Piece& piece, uint64_t within, uint64_t bytes);
  Step FetchUnit(const merge::Piece& piece, uint64_t within, uint64_t bytes);
  Step FetchXor(const merge::Piece& piece, uint64_t within, uint64_t bytes);
  void FinishXor(IoStatus status, const IoCause& cause, const uint8_t* data);
  // Reads `bytes` from `disk` to the cursor and moves it on.
  Step ReadDisk(Disk* disk, uint64_t offset, uint64_t bytes,
                const merge::Piece* leased);
  // The bytes of a page of the op table, or of the checks for it; nullptr: they
  // are being loaded.
  const uint8_t* FindPage(const cow::OpTable::Page& page);
  const uint8_t* FindChecks(const cow::OpTable::Page& page);
  const uint8_t* LoadPage(uint32_t key, uint64_t offset, uint32_t bytes);
  // What the piece's op is, and for the cache where its data is. kBlocked:
  // something is being loaded. An error is in status_.
  Step FindOp(const merge::Piece& piece, cow::Op* op,
              UnitCache::Source* source);
  PieceIo* FreePiece();
  Step Fail(IoStatus status, const IoCause& cause = {});
  uint8_t* At() const { return request_->payload.data() + cursor_; }
  uint64_t left() const { return request_->length_bytes - cursor_; }

  ReadContext* context_ = nullptr;
  Request* request_ = nullptr;
  IoStatus status_ = IoStatus::kOk;  // the first error wins
  IoCause cause_;                    // its cause
  uint64_t cursor_ = 0;  // bytes of the request fetched or in flight
  uint32_t in_flight_ = 0;
  bool waiting_ = false;  // for the unit cache or a page
  // What OnUnit copies, and OnXorUnit applies.
  uint64_t unit_skip_bytes_ = 0;
  uint64_t unit_bytes_ = 0;
  uint32_t xor_op_ = 0;
  UnitCache::Source xor_source_;
  UnitCache::Waiter waiter_;
  PieceIo pieces_[kPieces];
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_READ_PLAN_H_
