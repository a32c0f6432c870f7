// SPDX-License-Identifier: Apache-2.0
//
// progress_bar.h - one line on a terminal: how far, how fast, how long yet.
#ifndef TOOLS_PROGRESS_BAR_H_
#define TOOLS_PROGRESS_BAR_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace dmu::tools {

// The line for `done` of `total` bytes after `elapsed_s` seconds, cut to
// `columns` (>= 20). total may be 0.
std::string FormatProgress(const std::string& label, uint64_t done,
                           uint64_t total, double elapsed_s, unsigned columns);

// "1.5 GiB", "4.0 KiB", "17 B".
std::string FormatBytes(uint64_t bytes);

class ProgressBar {
 public:
  // Whether standard error is a terminal that a bar may be drawn on.
  static bool TerminalIsThere();

  // Draws nothing unless `enabled`.
  ProgressBar(std::string label, uint64_t total_bytes, bool enabled);
  // Leaves an empty line behind.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // So many bytes more are done. Any thread; draws ten times a second at most.
  void Add(uint64_t bytes);
  // So many are done in all (for work that counts by itself). Any thread.
  void Set(uint64_t done_bytes);

 private:
  void DrawIfDue();

  const std::string label_;
  const uint64_t total_bytes_;
  const bool enabled_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<uint64_t> done_bytes_{0};
  std::atomic<int64_t> next_draw_ms_{0};
};

}  // namespace dmu::tools

#endif  // TOOLS_PROGRESS_BAR_H_
