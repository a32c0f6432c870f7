// SPDX-License-Identifier: Apache-2.0
#include "tools/dmuserctl/pause_signal.h"

#include <signal.h>

#include <cstring>

namespace dmu::tools {
namespace {

std::atomic<bool> g_stop{false};

void OnSignal(int) { g_stop.store(true); }

}  // namespace

const std::atomic<bool>* PauseOnSignal() {
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    sigaction(signal, &action, nullptr);
  }
  return &g_stop;
}

}  // namespace dmu::tools
