// SPDX-License-Identifier: Apache-2.0
//
// null.h - a device of zeros: reads give zeros, writes are forgotten.
//
// The smallest complete back end, and the yardstick for what a channel costs.
#ifndef DAEMON_BACKEND_NULL_H_
#define DAEMON_BACKEND_NULL_H_

#include "daemon/block/backend.h"
#include "daemon/io/loop.h"

namespace dmu {

class NullBackend : public Backend {
 public:
  NullBackend(uint64_t size_bytes, Loop* loop)
      : size_bytes_(size_bytes), loop_(loop) {}

  Geometry geometry() const override { return {size_bytes_, false}; }
  void Submit(Request* request) override;
  void Drain(Task* done) override { loop_->Post(done); }

 private:
  const uint64_t size_bytes_;
  Loop* const loop_;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_NULL_H_
