// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/pool_trimmer.h"

namespace dmu {

PoolTrimmer::PoolTrimmer(BufferPool* pool, Loop* loop)
    : pool_(pool), loop_(loop) {
  pool_->TellOfBurst(kKeptBuffers, &burst_);
}

PoolTrimmer::~PoolTrimmer() {
  pool_->TellOfBurst(0, nullptr);
  loop_->Disarm(&look_);
}

void PoolTrimmer::OnBurst(void* context) {
  auto* self = static_cast<PoolTrimmer*>(context);
  self->pool_->TakePeak();
  self->loop_->Arm(&self->look_, kQuietUs);
}

void PoolTrimmer::OnLook(void* context) {
  auto* self = static_cast<PoolTrimmer*>(context);
  if (self->pool_->TakePeak() > kKeptBuffers) {
    self->loop_->Arm(&self->look_, kQuietUs);
    return;
  }
  self->pool_->Trim();
  self->pool_->TellOfBurst(kKeptBuffers, &self->burst_);
}

}  // namespace dmu
