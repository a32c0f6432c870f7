// SPDX-License-Identifier: Apache-2.0
//
// unit_cache.cc - see unit_cache.h.
#include "daemon/backend/unit_cache.h"

#include <new>
#include <utility>

#include "daemon/base/check.h"
#include "daemon/cow/unit.h"

namespace dmu {

std::unique_ptr<UnitCache> UnitCache::Create(Disk* cow, cow::Codec* codec,
                                             uint32_t unit_bytes_max,
                                             uint32_t stored_bytes_max,
                                             uint32_t entries) {
  DMU_CHECK(entries >= 1 && unit_bytes_max >= 1);
  MappedMemory memory =
      MappedMemory::Map(size_t{entries} * unit_bytes_max +
                        (codec != nullptr ? stored_bytes_max : 0));
  if (memory.empty()) return nullptr;
  std::unique_ptr<UnitCache> cache(
      new (std::nothrow) UnitCache(cow, codec, unit_bytes_max, stored_bytes_max,
                                   entries, std::move(memory)));
  if (cache == nullptr || cache->entries_ == nullptr) return nullptr;
  return cache;
}

UnitCache::UnitCache(Disk* cow, cow::Codec* codec, uint32_t unit_bytes_max,
                     uint32_t stored_bytes_max, uint32_t entries,
                     MappedMemory memory)
    : cow_(cow),
      codec_(codec),
      unit_bytes_max_(unit_bytes_max),
      stored_bytes_max_(stored_bytes_max),
      entry_count_(entries),
      memory_(std::move(memory)),
      entries_(new (std::nothrow) Entry[entries]) {
  op_.done.run = OnRead;
  op_.done.context = this;
}

UnitCache::~UnitCache() { DMU_CHECK(head_ == nullptr && !loading_); }

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
  if (!loading_ && !delivering_) BeginLoad();
}

// Reads the head's unit into the entry that was not used for longest.
void UnitCache::BeginLoad() {
  DMU_CHECK(head_ != nullptr && !loading_);
  loading_ = true;
  victim_ = 0;
  for (uint32_t i = 1; i < entry_count_; ++i) {
    if (entries_[i].used < entries_[victim_].used) victim_ = i;
  }
  entries_[victim_].valid = false;
  const Source& source = head_->source;
  const bool raw = source.compression == cow::Compression::kNone;
  op_.kind = DiskOp::Kind::kRead;
  op_.offset = source.offset;
  op_.length_bytes = source.stored_bytes;
  op_.buffer = DataOf(raw ? victim_ : entry_count_);
  cow_->Submit(&op_);
}

IoStatus UnitCache::DecodeLoaded() {
  const Source& source = head_->source;
  const bool raw = source.compression == cow::Compression::kNone;
  return cow::DecodeUnit(
      codec_, source.compression, source.has_check ? &source.check : nullptr,
      {DataOf(raw ? victim_ : entry_count_), source.stored_bytes},
      {DataOf(victim_), source.unit_bytes});
}

void UnitCache::OnRead(void* context) {
  auto* self = static_cast<UnitCache*>(context);
  DMU_CHECK(self->loading_ && self->head_ != nullptr);
  const uint32_t key = self->head_->key;
  IoStatus status = self->op_.status;
  if (status != IoStatus::kOk) {
    self->cause_ = self->op_.cause;
  } else {
    status = self->DecodeLoaded();
    self->cause_ = {.where = self->cow_->name(), .offset = self->op_.offset};
  }
  self->loading_ = false;
  if (status == IoStatus::kOk) {
    Entry& entry = self->entries_[self->victim_];
    entry.key = key;
    entry.valid = true;
    entry.used = ++self->clock_;
  }
  self->Deliver(
      key, status,
      status == IoStatus::kOk ? self->DataOf(self->victim_) : nullptr);
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

void UnitCache::Advance() {
  while (head_ != nullptr) {
    const uint8_t* data = Find(head_->key);
    if (data == nullptr) {
      BeginLoad();
      return;
    }
    Deliver(head_->key, IoStatus::kOk, data);
  }
}

}  // namespace dmu
