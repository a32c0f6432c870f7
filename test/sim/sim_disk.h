// SPDX-License-Identifier: Apache-2.0
//
// sim_disk.h - a disk with a volatile cache, made to lose things.
//
// Fault model:
//  - A write changes whole 512-byte sectors; what it does not cover of a sector
//    is what reads saw before (the page cache's read-modify-write).
//  - A read sees the newest write, durable or not.
//  - A flush makes durable every write that was complete when it was submitted,
//    and no other; nothing else ever makes a write durable by promise.
//  - A power cut gives every sector of every write since then its own fate:
//    kept or lost, in any combination, so that writes are reordered and writes
//    of several sectors are torn. A sector itself is never torn: the commit
//    protocol rests on that, as do the disks it runs on.
//  - A failed flush may have dropped any of the writes it was to make durable,
//    for readers too (FailFlush). A failed write was done up to some sector.
//  - A latent error makes a sector unreadable until it is written.
//
// Contents are sector numbers in a SectorStore, so that a state of a disk is
// small and two equal states compare equal.
#ifndef TEST_SIM_SIM_DISK_H_
#define TEST_SIM_SIM_DISK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/base/types.h"
#include "test/sim/rng.h"

namespace dmu::sim {

// Every distinct sector content, once.
class SectorStore {
 public:
  using Id = uint32_t;
  Id Intern(const uint8_t* sector);
  const uint8_t* Get(Id id) const { return sectors_[id]->bytes; }

 private:
  struct Sector {
    uint8_t bytes[kSectorBytes];
  };
  std::vector<std::unique_ptr<Sector>> sectors_;
  std::unordered_multimap<uint64_t, Id> by_hash_;
};

// What differs from the initial image; ascending by sector.
using Overlay = std::map<uint32_t, SectorStore::Id>;

class SimDisk {
 public:
  // `initial` is padded with zeros to whole sectors; reads end at its size.
  SimDisk(SectorStore* store, ConstByteSpan initial);
  // A second disk over the same initial image.
  SimDisk(const SimDisk& other, Overlay durable);
  SimDisk(const SimDisk&) = default;

  uint64_t size_bytes() const { return size_bytes_; }

  // kUnsupported beyond the end, kIoError on a bad sector; then nothing is
  // read.
  IoStatus Read(uint64_t offset, ByteSpan out) const;
  // Begins a write; *ticket for Complete. False beyond the end.
  bool SubmitWrite(uint64_t offset, ConstByteSpan bytes, uint32_t* ticket);
  void Complete(uint32_t ticket);
  // The write failed: some sectors from its begin on were written, or none.
  void CutShort(uint32_t ticket, Rng* rng);
  // What happens to writes under way when their process is killed.
  void CompleteAll();
  void Flush();
  // Drops what `rng` says, for ever.
  void FailFlush(Rng* rng);

  // A latent error: the sector cannot be read until it is written, or mended.
  void SetBad(uint32_t sector) { bad_.insert(sector); }
  void MendAll() { bad_.clear(); }

  // One sector of a write that is not durable.
  struct Pending {
    uint32_t write = 0;  // ticket
    uint32_t sector = 0;
    SectorStore::Id id = 0;
    bool complete = false;
  };
  // In the order of submission.
  const std::vector<Pending>& pending() const { return pending_; }
  // Which fates are worth telling apart: sectors of one write in one 4096-byte
  // block have the same group. Ascending from 0.
  std::vector<uint32_t> PendingGroups() const;
  // The durable image after a power cut that kept pending()[i] iff kept[i].
  Overlay AfterCrash(const std::vector<bool>& kept) const;
  const Overlay& durable() const { return durable_; }

  // Bad sectors too, as they were.
  std::vector<uint8_t> Contents() const;

 private:
  SectorStore::Id Newest(uint32_t sector) const;
  static void Set(Overlay* overlay, const std::vector<SectorStore::Id>& initial,
                  uint32_t sector, SectorStore::Id id);
  void RebuildNewest();

  SectorStore* store_;
  std::shared_ptr<const std::vector<SectorStore::Id>> initial_;
  uint64_t size_bytes_ = 0;
  Overlay durable_;
  Overlay newest_;  // over the initial image, pending writes included
  std::vector<Pending> pending_;
  uint32_t next_ticket_ = 0;
  std::set<uint32_t> bad_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_SIM_DISK_H_
