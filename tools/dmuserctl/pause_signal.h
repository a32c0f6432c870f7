// SPDX-License-Identifier: Apache-2.0
//
// pause_signal.h - Ctrl-C that pauses work which can be gone on with.
#ifndef TOOLS_DMUSERCTL_PAUSE_SIGNAL_H_
#define TOOLS_DMUSERCTL_PAUSE_SIGNAL_H_

#include <atomic>

namespace dmu::tools {

// Set by the first SIGINT, SIGTERM or SIGHUP from now on; the second one ends
// the process, which is safe as well.
const std::atomic<bool>* PauseOnSignal();

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_PAUSE_SIGNAL_H_
