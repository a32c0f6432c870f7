// SPDX-License-Identifier: Apache-2.0
//
// remap.h - a block device served one to one, whose data the daemon never sees:
// each request is answered with its place.
//
// For who wants the daemon to see every request, and no copy of any. An error
// of the device goes to who sent the request; nothing is heard of it here.
#ifndef DAEMON_BACKEND_REMAP_H_
#define DAEMON_BACKEND_REMAP_H_

#include "daemon/block/backend.h"
#include "daemon/io/disk_open.h"
#include "daemon/io/loop.h"

namespace dmu {

class RemapBackend : public Backend {
 public:
  // A block device. Nobody else is to hold it, but that is the table's to see
  // to, which holds it.
  RemapBackend(DiskFile file, bool read_only, Loop* loop);

  // The device's size, cut to whole sectors.
  Geometry geometry() const override { return geometry_; }
  void Submit(Request* request) override;
  void Drain(Task* done) override { loop_->Post(done); }

 private:
  const DiskFile file_;
  const Geometry geometry_;
  Loop* const loop_;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_REMAP_H_
