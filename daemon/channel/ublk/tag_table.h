// SPDX-License-Identifier: Apache-2.0
//
// tag_table.h - who has each tag of a queue: the kernel or the daemon; and the
// order in which requests wait for a buffer. Pure bookkeeping.
//
//   kKernel --Arrive--> kHeld --Answer--> kKernel
//                       kHeld --Wait--> kWaiting --NextWaiting--> kHeld
//   kKernel --Retire--> kRetired: the kernel will use the tag no more
#ifndef DAEMON_CHANNEL_UBLK_TAG_TABLE_H_
#define DAEMON_CHANNEL_UBLK_TAG_TABLE_H_

#include <cstdint>
#include <memory>

#include "daemon/base/check.h"

namespace dmu::ublk {

class TagTable {
 public:
  static constexpr uint16_t kNone = UINT16_MAX;

  explicit TagTable(uint16_t depth) : depth_(depth), tags_(new Tag[depth]) {}

  // False when the kernel speaks of a tag it does not have.
  bool Arrive(uint64_t tag) {
    if (!IsWithKernel(tag)) return false;
    tags_[tag].state = State::kHeld;
    ++held_;
    return true;
  }
  bool Retire(uint64_t tag) {
    if (!IsWithKernel(tag)) return false;
    tags_[tag].state = State::kRetired;
    return true;
  }

  void Answer(uint16_t tag) {
    DMU_CHECK(tags_[tag].state == State::kHeld);
    tags_[tag].state = State::kKernel;
    --held_;
  }

  // Puts the tag behind those that wait already.
  void Wait(uint16_t tag) {
    DMU_CHECK(tags_[tag].state == State::kHeld);
    tags_[tag].state = State::kWaiting;
    tags_[tag].next = kNone;
    (last_ != kNone ? tags_[last_].next : first_) = tag;
    last_ = tag;
  }
  // Puts it before them: it was the next, and there was no buffer after all.
  void WaitFirst(uint16_t tag) {
    DMU_CHECK(tags_[tag].state == State::kHeld);
    tags_[tag].state = State::kWaiting;
    tags_[tag].next = first_;
    first_ = tag;
    if (last_ == kNone) last_ = tag;
  }
  // The one that waits longest, kNone without one. It is held again.
  uint16_t NextWaiting() {
    const uint16_t tag = first_;
    if (tag == kNone) return kNone;
    first_ = tags_[tag].next;
    if (first_ == kNone) last_ = kNone;
    tags_[tag].state = State::kHeld;
    return tag;
  }
  bool has_waiting() const { return first_ != kNone; }

  // Tags that are not answered, those that wait included.
  uint32_t held() const { return held_; }
  uint16_t depth() const { return depth_; }

 private:
  enum class State : uint8_t { kKernel, kHeld, kWaiting, kRetired };
  struct Tag {
    State state = State::kKernel;
    uint16_t next = kNone;
  };

  bool IsWithKernel(uint64_t tag) const {
    return tag < depth_ && tags_[tag].state == State::kKernel;
  }

  const uint16_t depth_;
  const std::unique_ptr<Tag[]> tags_;
  uint16_t first_ = kNone;
  uint16_t last_ = kNone;
  uint32_t held_ = 0;
};

}  // namespace dmu::ublk

#endif  // DAEMON_CHANNEL_UBLK_TAG_TABLE_H_
