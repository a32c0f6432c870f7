// SPDX-License-Identifier: Apache-2.0
//
// unit_cache.h - a few pieces of the COW file, decoded, least recently used
// first out.
//
// Serves both the data of replace and xor ops (keyed by op number) and pages of
// the op table and of the checks (never compressed), one instance for each. A
// few loads are under way at a time; who waits for the same key shares one. The
// COW file's ops and data never change, so nothing here is ever out of date.
#ifndef DAEMON_BACKEND_UNIT_CACHE_H_
#define DAEMON_BACKEND_UNIT_CACHE_H_

#include <cstdint>
#include <memory>

#include "daemon/backend/mapped_memory.h"
#include "daemon/base/types.h"
#include "daemon/cow/codec.h"
#include "daemon/io/disk.h"

namespace dmu {

class UnitCache {
 public:
  // Loads under way at a time, at most: fewer where what is not decoded yet
  // would take more memory than kStoredBytes, and fewer than there are entries;
  // but one.
  static constexpr uint32_t kLoadsMax = 4;
  static constexpr uint64_t kStoredBytes = 192 * 1024;

  // Where a unit is and what it becomes.
  struct Source {
    uint64_t offset = 0;
    uint32_t stored_bytes = 0;
    uint32_t unit_bytes = 0;
    cow::Compression compression = cow::Compression::kNone;
    bool has_check = false;
    uint32_t check = 0;  // cow::UnitCheck of the stored bytes
  };

  // Owned by who waits; linked until `ready` runs, which for one that came
  // later may be earlier.
  struct Waiter {
    // `data`: unit_bytes, valid during the call only; nullptr on an error. May
    // call Load again.
    void (*ready)(void* context, IoStatus status,
                  const uint8_t* data) = nullptr;
    void* context = nullptr;
    uint32_t key = 0;
    Source source;
    Waiter* next = nullptr;
  };

  // `codec` may be nullptr when nothing is compressed. entries >= 1. All memory
  // is taken here; nullptr without.
  static std::unique_ptr<UnitCache> Create(Disk* cow, cow::Codec* codec,
                                           uint32_t unit_bytes_max,
                                           uint32_t stored_bytes_max,
                                           uint32_t entries);
  ~UnitCache();
  UnitCache(const UnitCache&) = delete;
  UnitCache& operator=(const UnitCache&) = delete;

  // Valid until the next turn of the loop; nullptr when not there.
  const uint8_t* Find(uint32_t key);

  // Runs waiter->ready from a later turn, exactly once. The unit and its stored
  // bytes must be within the cache's limits.
  void Load(uint32_t key, const Source& source, Waiter* waiter);

  // Of the load that failed, from inside `ready`.
  const IoCause& cause() const { return cause_; }

  uint64_t hits() const { return hits_; }
  uint64_t misses() const { return misses_; }

  bool idle() const { return head_ == nullptr; }

 private:
  struct Entry {
    uint32_t key = 0;
    bool valid = false;
    bool loading = false;  // the storage writes to it; neither valid nor free
    uint64_t used = 0;     // the clock_ of its last use
  };

  struct Loading {
    DiskOp op;
    UnitCache* cache = nullptr;
    bool busy = false;
    uint32_t key = 0;
    Source source;
    uint32_t entry = 0;         // that is filled
    uint8_t* stored = nullptr;  // what is not yet decoded
  };

  UnitCache(Disk* cow, cow::Codec* codec, uint32_t unit_bytes_max,
            uint32_t stored_bytes_max, uint32_t entries, uint32_t loads,
            MappedMemory memory);

  static void OnRead(void* context);
  // Starts what it can for those that wait.
  void BeginLoads();
  void Begin(Loading* load, const Waiter& waiter);
  IoStatus Decode(const Loading& load);
  void Deliver(uint32_t key, IoStatus status, const uint8_t* data);
  void Advance();
  bool IsLoading(uint32_t key) const;
  Loading* FreeLoad();
  // One that may be filled: entries are no fewer than loads.
  uint32_t Victim() const;
  uint8_t* DataOf(uint32_t entry) const {
    return memory_.span().data() + size_t{entry} * unit_bytes_max_;
  }

  Disk* const cow_;
  cow::Codec* const codec_;
  const uint32_t unit_bytes_max_;
  const uint32_t stored_bytes_max_;
  const uint32_t entry_count_;
  const uint32_t load_count_;
  MappedMemory memory_;  // entries, then room for what is not yet decoded
  std::unique_ptr<Entry[]> entries_;
  uint64_t clock_ = 0;

  // First come, first served, as far as there are loads for them.
  Waiter* head_ = nullptr;
  Waiter* tail_ = nullptr;
  bool delivering_ = false;
  Loading loads_[kLoadsMax];
  IoCause cause_;
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_UNIT_CACHE_H_
