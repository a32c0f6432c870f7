// SPDX-License-Identifier: Apache-2.0
//
// unit_cache.cc - see unit_cache.h.
#include "daemon/backend/unit_cache.h"

#include <algorithm>
#include <new>
#include <utility>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu {

namespace {

uint32_t LoadCount(const cow::Codec* codec, uint32_t stored_bytes_max,
                   uint32_t entries) {
  // What Find has just given is not to be filled by the next Load.
  uint64_t loads = std::min(UnitCache::kLoadsMax, std::max(entries, 2u) - 1);
  if (codec != nullptr && stored_bytes_max > 0) {
    loads = std::min(loads, UnitCache::kStoredBytes / stored_bytes_max);
  }
  return std::max(static_cast<uint32_t>(loads), 1u);
}

}  // namespace

std::unique_ptr<UnitCache> UnitCache::Create(Disk* cow, cow::Codec* codec,
                                             uint32_t unit_bytes_max,
                                             uint32_t stored_bytes_max,
                                             uint32_t entries) {
  DMU_CHECK(entries >= 1 && unit_bytes_max >= 1);
  const uint32_t loads = LoadCount(codec, stored_bytes_max, entries);
  MappedMemory memory = MappedMemory::Map(
      size_t{entries} * unit_bytes_max +
      (codec != nullptr ? size_t{loads} * stored_bytes_max : 0));
  if (memory.empty()) return nullptr;
  std::unique_ptr<UnitCache> cache(
      new (std::nothrow) UnitCache(cow, codec, unit_bytes_max, stored_bytes_max,
                                   entries, loads, std::move(memory)));
  if (cache == nullptr || cache->entries_ == nullptr) return nullptr;
  return cache;
}

UnitCache::UnitCache(Disk* cow, cow::Codec* codec, uint32_t unit_bytes_max,
                     uint32_t stored_bytes_max, uint32_t entries,
                     uint32_t loads, MappedMemory memory)
    : cow_(cow),
      codec_(codec),
      unit_bytes_max_(unit_bytes_max),
      stored_bytes_max_(stored_bytes_max),
      entry_count_(entries),
      load_count_(loads),
      memory_(std::move(memory)),
      entries_(new (std::nothrow) Entry[entries]) {
  for (uint32_t i = 0; i < load_count_; ++i) {
    Loading& load = loads_[i];
    load.cache = this;
    load.op.done.run = OnRead;
    load.op.done.context = &load;
    if (codec != nullptr) {
      load.stored = DataOf(entry_count_) + size_t{i} * stored_bytes_max;
    }
  }
}

UnitCache::~UnitCache() {
  DMU_CHECK(head_ == nullptr);
  for (const Loading& load : loads_) DMU_CHECK(!load.busy);
}

const uint8_t* UnitCache::Find(uint32_t key) {
  for (uint32_t i = 0; i < entry_count_; ++i) {
    if (!entries_[i].valid || entries_[i].key != key) continue;
    entries_[i].used = ++clock_;
    ++hits_;
    return DataOf(i);
  }
  return nullptr;
}

void UnitCache::Load(uint32_t key, const Source& source, Waiter* waiter) {
  DMU_CHECK(source.unit_bytes >= 1 && source.unit_bytes <= unit_bytes_max_);
  if (source.compression == cow::Compression::kNone) {
    DMU_CHECK(source.stored_bytes == source.unit_bytes);
  } else {
    DMU_CHECK(codec_ != nullptr && source.stored_bytes <= stored_bytes_max_);
  }
  ++misses_;
  waiter->key = key;
  waiter->source = source;
  waiter->next = nullptr;
  (tail_ != nullptr ? tail_->next : head_) = waiter;
  tail_ = waiter;
  if (!delivering_) BeginLoads();
}

bool UnitCache::IsLoading(uint32_t key) const {
  for (uint32_t i = 0; i < load_count_; ++i) {
    if (loads_[i].busy && loads_[i].key == key) return true;
  }
  return false;
}

UnitCache::Loading* UnitCache::FreeLoad() {
  for (uint32_t i = 0; i < load_count_; ++i) {
    if (!loads_[i].busy) return &loads_[i];
  }
  return nullptr;
}

uint32_t UnitCache::Victim() const {
  uint32_t victim = entry_count_;
  for (uint32_t i = 0; i < entry_count_; ++i) {
    if (entries_[i].loading) continue;
    if (victim == entry_count_ || entries_[i].used < entries_[victim].used) {
      victim = i;
    }
  }
  DMU_CHECK(victim < entry_count_);
  return victim;
}

void UnitCache::BeginLoads() {
  for (const Waiter* waiter = head_; waiter != nullptr; waiter = waiter->next) {
    if (IsLoading(waiter->key)) continue;
    Loading* load = FreeLoad();
    if (load == nullptr) return;
    Begin(load, *waiter);
  }
}

void UnitCache::Begin(Loading* load, const Waiter& waiter) {
  load->busy = true;
  load->key = waiter.key;
  load->source = waiter.source;
  load->entry = Victim();
  entries_[load->entry].valid = false;
  entries_[load->entry].loading = true;
  const bool raw = load->source.compression == cow::Compression::kNone;
  load->op.kind = DiskOp::Kind::kRead;
  load->op.offset = load->source.offset;
  load->op.length_bytes = load->source.stored_bytes;
  load->op.buffer = raw ? DataOf(load->entry) : load->stored;
  cow_->Submit(&load->op);
}

IoStatus UnitCache::Decode(const Loading& load) {
  const Source& source = load.source;
  return cow::DecodeUnit(codec_, source.compression,
                         source.has_check ? &source.check : nullptr,
                         {load.op.buffer, source.stored_bytes},
                         {DataOf(load.entry), source.unit_bytes});
}

void UnitCache::OnRead(void* context) {
  auto* load = static_cast<Loading*>(context);
  UnitCache* self = load->cache;
  DMU_CHECK(load->busy);
  IoStatus status = load->op.status;
  if (status != IoStatus::kOk) {
    self->cause_ = load->op.cause;
  } else {
    status = self->Decode(*load);
    self->cause_ = {.where = self->cow_->name(), .offset = load->op.offset};
  }
  load->busy = false;
  Entry& entry = self->entries_[load->entry];
  entry.loading = false;
  entry.key = load->key;
  entry.valid = status == IoStatus::kOk;
  entry.used = entry.valid ? ++self->clock_ : 0;
  self->Deliver(entry.key, status,
                entry.valid ? self->DataOf(load->entry) : nullptr);
  self->Advance();
}

// Ends the wait of everyone who waits for `key`.
void UnitCache::Deliver(uint32_t key, IoStatus status, const uint8_t* data) {
  Waiter* ready = nullptr;
  Waiter** ready_end = &ready;
  Waiter** link = &head_;
  tail_ = nullptr;
  while (Waiter* waiter = *link) {
    if (waiter->key == key) {
      *link = waiter->next;
      waiter->next = nullptr;
      *ready_end = waiter;
      ready_end = &waiter->next;
    } else {
      tail_ = waiter;
      link = &waiter->next;
    }
  }
  delivering_ = true;
  while (ready != nullptr) {
    Waiter* waiter = ready;
    ready = waiter->next;
    waiter->ready(waiter->context, status, data);
  }
  delivering_ = false;
}

// Who began to wait during a delivery may wait for what is there by now.
void UnitCache::Advance() {
  for (Waiter* waiter = head_; waiter != nullptr;) {
    const uint32_t key = waiter->key;
    const uint8_t* data = Find(key);
    waiter = waiter->next;
    if (data == nullptr) continue;
    Deliver(key, IoStatus::kOk, data);
    waiter = head_;
  }
  BeginLoads();
}

}  // namespace dmu
