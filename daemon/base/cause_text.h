// SPDX-License-Identifier: Apache-2.0
//
// cause_text.h - what made an I/O fail, in words.
#ifndef DAEMON_BASE_CAUSE_TEXT_H_
#define DAEMON_BASE_CAUSE_TEXT_H_

#include "daemon/base/types.h"

namespace dmu {

// ": /dev/x at offset 4096: Input/output error", without what is not known; ""
// when nothing is. Fixed memory, cut where it is too long; allocates nothing.
class CauseText {
 public:
  explicit CauseText(const IoCause& cause);
  const char* text() const { return text_; }

 private:
  char text_[192] = "";
};

}  // namespace dmu

#endif  // DAEMON_BASE_CAUSE_TEXT_H_
