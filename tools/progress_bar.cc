// SPDX-License-Identifier: Apache-2.0
//
// progress_bar.cc - see progress_bar.h.
#include "tools/progress_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dmu::tools {
namespace {

constexpr int64_t kDrawEveryMs = 100;
// A rate from less than this is noise.
constexpr double kRateAfterSeconds = 0.3;
constexpr unsigned kBarColumns = 24;
constexpr unsigned kColumnsUnknown = 80;

unsigned TerminalColumns() {
  struct winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) {
    return kColumnsUnknown;
  }
  return size.ws_col;
}

bool TerminalIsThere() {
  const char* term = getenv("TERM");
  return isatty(STDERR_FILENO) == 1 &&
         (term == nullptr || std::string(term) != "dumb");
}

}  // namespace

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.95 would be printed as 1024.0.
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatProgress(const std::string& label, uint64_t begun,
                           uint64_t done, uint64_t total, double elapsed_s,
                           unsigned columns) {
  done = std::min(done, total);
  const double part =
      total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  const auto filled = static_cast<size_t>(part * kBarColumns);
  std::string line =
      absl::StrFormat("%s [%s%s] %3d%%  %s", label, std::string(filled, '#'),
                      std::string(kBarColumns - filled, '.'),
                      static_cast<int>(part * 100), FormatBytes(done));
  if (elapsed_s >= kRateAfterSeconds && done > begun) {
    const double rate = static_cast<double>(done - begun) / elapsed_s;
    const auto eta_s =
        static_cast<uint64_t>(static_cast<double>(total - done) / rate + 0.5);
    absl::StrAppendFormat(&line, "  %s/s  %d:%02d left",
                          FormatBytes(static_cast<uint64_t>(rate)), eta_s / 60,
                          eta_s % 60);
  }
  // The last column would make some terminals begin a new line.
  if (line.size() >= columns) line.resize(columns - 1);
  return line;
}

ProgressBar::ProgressBar(std::string label, bool enabled, uint64_t total_bytes)
    : label_(std::move(label)),
      enabled_(enabled && TerminalIsThere()),
      start_(std::chrono::steady_clock::now()),
      total_bytes_(total_bytes) {}

ProgressBar::~ProgressBar() { Finish(); }

void ProgressBar::Finish() {
  if (enabled_) std::fputs("\r\033[K", stderr);
  enabled_ = false;
}

void ProgressBar::Add(uint64_t bytes) {
  done_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  DrawIfDue();
}

void ProgressBar::Update(uint64_t done_bytes, uint64_t total_bytes) {
  if (!updated_) first_done_bytes_ = done_bytes;
  updated_ = true;
  total_bytes_.store(total_bytes, std::memory_order_relaxed);
  done_bytes_.store(done_bytes, std::memory_order_relaxed);
  DrawIfDue();
}

void ProgressBar::DrawIfDue() {
  if (!enabled_) return;
  const auto elapsed = std::chrono::steady_clock::now() - start_;
  const int64_t now_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(elapsed).count();
  int64_t due_ms = next_draw_ms_.load(std::memory_order_relaxed);
  // Whoever moves the time of the next drawing draws.
  if (now_ms < due_ms ||
      !next_draw_ms_.compare_exchange_strong(due_ms, now_ms + kDrawEveryMs)) {
    return;
  }
  const std::string line = absl::StrCat(
      "\r",
      FormatProgress(label_, first_done_bytes_,
                     done_bytes_.load(std::memory_order_relaxed),
                     total_bytes_.load(std::memory_order_relaxed),
                     static_cast<double>(now_ms) / 1000, TerminalColumns()),
      "\033[K");
  std::fputs(line.c_str(), stderr);
}

}  // namespace dmu::tools
