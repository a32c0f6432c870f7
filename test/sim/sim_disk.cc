// SPDX-License-Identifier: Apache-2.0
//
// sim_disk.cc - see sim_disk.h.
#include "test/sim/sim_disk.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::sim {

SectorStore::Id SectorStore::Intern(const uint8_t* sector) {
  uint64_t hash = 0;
  for (uint32_t i = 0; i < kSectorBytes; i += 8) {
    hash = (hash ^ LoadLe<uint64_t>(sector + i)) * 0x9fb21c651e98df25;
    hash ^= hash >> 29;
  }
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (std::memcmp(Get(it->second), sector, kSectorBytes) == 0) {
      return it->second;
    }
  }
  const Id id = static_cast<Id>(sectors_.size());
  sectors_.push_back(std::make_unique<Sector>());
  std::memcpy(sectors_.back()->bytes, sector, kSectorBytes);
  by_hash_.emplace(hash, id);
  return id;
}

SimDisk::SimDisk(SectorStore* store, ConstByteSpan initial)
    : store_(store), size_bytes_(initial.size()) {
  auto ids = std::make_shared<std::vector<SectorStore::Id>>();
  for (uint64_t at = 0; at < initial.size(); at += kSectorBytes) {
    uint8_t sector[kSectorBytes] = {};
    std::memcpy(sector, initial.data() + at,
                std::min<uint64_t>(kSectorBytes, initial.size() - at));
    ids->push_back(store->Intern(sector));
  }
  initial_ = std::move(ids);
}

SimDisk::SimDisk(const SimDisk& other, Overlay durable)
    : store_(other.store_),
      initial_(other.initial_),
      size_bytes_(other.size_bytes_),
      durable_(durable),
      newest_(std::move(durable)) {}

SectorStore::Id SimDisk::Newest(uint32_t sector) const {
  const auto it = newest_.find(sector);
  return it == newest_.end() ? (*initial_)[sector] : it->second;
}

void SimDisk::Set(Overlay* overlay, const std::vector<SectorStore::Id>& initial,
                  uint32_t sector, SectorStore::Id id) {
  if (initial[sector] == id) {
    overlay->erase(sector);
  } else {
    (*overlay)[sector] = id;
  }
}

IoStatus SimDisk::Read(uint64_t offset, ByteSpan out) const {
  if (offset > size_bytes_ || out.size() > size_bytes_ - offset) {
    return IoStatus::kUnsupported;
  }
  if (!bad_.empty() && !out.empty()) {
    const auto first = static_cast<uint32_t>(offset / kSectorBytes);
    const auto last =
        static_cast<uint32_t>((offset + out.size() - 1) / kSectorBytes);
    const auto at = bad_.lower_bound(first);
    if (at != bad_.end() && *at <= last) return IoStatus::kIoError;
  }
  for (size_t done = 0; done < out.size();) {
    const uint64_t at = offset + done;
    const uint32_t within = at % kSectorBytes;
    const size_t count =
        std::min<size_t>(kSectorBytes - within, out.size() - done);
    const uint32_t sector = static_cast<uint32_t>(at / kSectorBytes);
    std::memcpy(out.data() + done, store_->Get(Newest(sector)) + within, count);
    done += count;
  }
  return IoStatus::kOk;
}

bool SimDisk::SubmitWrite(uint64_t offset, ConstByteSpan bytes,
                          uint32_t* ticket) {
  if (offset > size_bytes_ || bytes.size() > size_bytes_ - offset) return false;
  *ticket = next_ticket_++;
  for (size_t done = 0; done < bytes.size();) {
    const uint64_t at = offset + done;
    const uint32_t within = at % kSectorBytes;
    const size_t count =
        std::min<size_t>(kSectorBytes - within, bytes.size() - done);
    const uint32_t sector = static_cast<uint32_t>(at / kSectorBytes);
    uint8_t content[kSectorBytes];
    std::memcpy(content, store_->Get(Newest(sector)), kSectorBytes);
    std::memcpy(content + within, bytes.data() + done, count);
    const SectorStore::Id id = store_->Intern(content);
    Set(&newest_, *initial_, sector, id);
    pending_.push_back({*ticket, sector, id, false});
    bad_.erase(sector);
    done += count;
  }
  return true;
}

void SimDisk::Complete(uint32_t ticket) {
  for (Pending& p : pending_) {
    if (p.write == ticket) p.complete = true;
  }
}

void SimDisk::CutShort(uint32_t ticket, Rng* rng) {
  uint32_t sectors = 0;
  for (const Pending& p : pending_) sectors += p.write == ticket ? 1 : 0;
  uint32_t left = rng->Below(sectors + 1);
  std::erase_if(pending_, [ticket, &left](Pending& p) {
    if (p.write != ticket) return false;
    p.complete = true;
    if (left == 0) return true;
    --left;
    return false;
  });
  RebuildNewest();
}

void SimDisk::CompleteAll() {
  for (Pending& p : pending_) p.complete = true;
}

void SimDisk::Flush() {
  std::vector<Pending> rest;
  for (const Pending& p : pending_) {
    if (p.complete) {
      Set(&durable_, *initial_, p.sector, p.id);
    } else {
      rest.push_back(p);
    }
  }
  pending_ = std::move(rest);
}

void SimDisk::FailFlush(Rng* rng) {
  std::vector<Pending> rest;
  const uint32_t mode = rng->Below(3);  // drop all, some, none
  for (const Pending& p : pending_) {
    if (mode == 2 || (mode == 1 && rng->OneIn(2))) rest.push_back(p);
  }
  pending_ = std::move(rest);
  RebuildNewest();
}

void SimDisk::RebuildNewest() {
  newest_ = durable_;
  for (const Pending& p : pending_) Set(&newest_, *initial_, p.sector, p.id);
}

std::vector<uint32_t> SimDisk::PendingGroups() const {
  std::vector<uint32_t> groups;
  uint32_t group = 0;
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (i > 0 && (pending_[i].write != pending_[i - 1].write ||
                  pending_[i].sector / kSectorsPerBlock !=
                      pending_[i - 1].sector / kSectorsPerBlock)) {
      ++group;
    }
    groups.push_back(group);
  }
  return groups;
}

Overlay SimDisk::AfterCrash(const std::vector<bool>& kept) const {
  DMU_CHECK(kept.size() == pending_.size());
  Overlay overlay = durable_;
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (kept[i]) Set(&overlay, *initial_, pending_[i].sector, pending_[i].id);
  }
  return overlay;
}

std::vector<uint8_t> SimDisk::Contents() const {
  std::vector<uint8_t> bytes(initial_->size() * kSectorBytes);
  for (uint32_t sector = 0; sector < initial_->size(); ++sector) {
    std::memcpy(bytes.data() + size_t{sector} * kSectorBytes,
                store_->Get(Newest(sector)), kSectorBytes);
  }
  bytes.resize(size_bytes_);
  return bytes;
}

}  // namespace dmu::sim
