// SPDX-License-Identifier: Apache-2.0
#include "daemon/backend/null.h"

#include <string.h>

namespace dmu {

void NullBackend::Submit(Request* request) {
  switch (request->op) {
    case Request::Op::kRead:
      memset(request->payload.data(), 0, request->payload.size());
      request->Complete(IoStatus::kOk);
      return;
    case Request::Op::kUnknown:
      request->Complete(IoStatus::kUnsupported);
      return;
    default:
      request->Complete(IoStatus::kOk);
  }
}

}  // namespace dmu
