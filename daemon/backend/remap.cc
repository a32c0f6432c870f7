// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/remap.h"

#include <utility>

namespace dmu {

RemapBackend::RemapBackend(DiskFile file, bool read_only, Loop* loop)
    : file_(std::move(file)),
      geometry_{.size_bytes = file_.size_bytes / kSectorBytes * kSectorBytes,
                .read_only = read_only,
                .base_device = DeviceNumber(file_),
                .direct_io = true,
                .remap = true},
      loop_(loop) {}

void RemapBackend::Submit(Request* request) {
  switch (request->op) {
    case Request::Op::kUnknown:
      request->Complete(IoStatus::kUnsupported);
      return;
    case Request::Op::kFlush:
      // All that was written went by the kernel, which flushes where it went.
      request->Complete(IoStatus::kOk);
      return;
    default:
      request->remapped = true;
      request->base_sector = request->sector;
      request->Complete(IoStatus::kOk);
  }
}

}  // namespace dmu
