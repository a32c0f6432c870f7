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

// The line for `done` of `total` bytes, cut to `columns` (>= 20). total may be
// 0. `begun` of the bytes were done before the `elapsed_s` seconds.
std::string FormatProgress(const std::string& label, uint64_t begun,
                           uint64_t done, uint64_t total, double elapsed_s,
                           unsigned columns);

// "1.5 GiB", "4.0 KiB", "17 B".
std::string FormatBytes(uint64_t bytes);

class ProgressBar {
 public:
  // Draws only if `enabled` and standard error is a terminal. total_bytes may
  // come later, by Update.
  ProgressBar(std::string label, bool enabled, uint64_t total_bytes = 0);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // So many bytes more are done. Any thread; draws ten times a second at most.
  void Add(uint64_t bytes);
  // So many of so many are done, for work that counts by itself. Rate and time
  // left are of what was done since the first call. One thread.
  void Update(uint64_t done_bytes, uint64_t total_bytes);
  // Leaves an empty line behind; nothing is drawn afterwards.
  void Finish();

 private:
  void DrawIfDue();

  const std::string label_;
  bool enabled_;
  const std::chrono::steady_clock::time_point start_;
  std::atomic<uint64_t> total_bytes_;
  std::atomic<uint64_t> done_bytes_{0};
  std::atomic<int64_t> next_draw_ms_{0};
  uint64_t first_done_bytes_ = 0;  // what the first Update began with
  bool updated_ = false;
};

}  // namespace dmu::tools

#endif  // TOOLS_PROGRESS_BAR_H_
