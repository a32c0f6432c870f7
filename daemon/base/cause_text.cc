// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/cause_text.h"

#include <stdio.h>
#include <string.h>

namespace dmu {

CauseText::CauseText(const IoCause& cause) {
  char offset[40] = "";
  if (cause.offset != IoCause::kNoOffset) {
    snprintf(offset, sizeof(offset), " at offset %llu",
             static_cast<unsigned long long>(cause.offset));
  }
  // Not translated, and so without an allocation.
  const char* reason =
      cause.error != 0 ? strerrordesc_np(cause.error) : nullptr;
  const bool somewhere = cause.where != nullptr && cause.where[0] != '\0';
  snprintf(text_, sizeof(text_), "%s%s%s%s%s", somewhere ? ": " : "",
           somewhere ? cause.where : "", somewhere ? offset : "",
           reason != nullptr ? ": " : "", reason != nullptr ? reason : "");
}

}  // namespace dmu
