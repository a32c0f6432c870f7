// SPDX-License-Identifier: Apache-2.0
//
// Goal: the process's figures are what the kernel says, and are not read more
// often than is good for the requests.
#include "daemon/io/process_figures.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vector>

#include "gtest/gtest.h"

namespace dmu {
namespace {

TEST(ProcessFiguresTest, TheKernelsFigures) {
  const ProcessFigures before = ProcessFigures::Read();
  EXPECT_EQ(before.threads, 1u);
  EXPECT_GT(before.started_unix_ms, 0u);
  std::vector<char> more(8 << 20, 'x');
  const ProcessFigures after = ProcessFigures::Read();
  EXPECT_GE(after.anonymous_bytes, before.anonymous_bytes + (7 << 20));
  EXPECT_GE(after.private_bytes, before.private_bytes + (7 << 20));
  EXPECT_GE(after.peak_resident_bytes, after.anonymous_bytes);
  EXPECT_GE(after.cpu_us, before.cpu_us);
  EXPECT_EQ(more[12345], 'x');
}

TEST(SparingFiguresTest, AreFreshUnlessTheyAreAskedForAllTheTime) {
  SparingFigures figures;
  uint64_t now_us = 5'000'000;
  // In a storm: the burst, and then so many a second.
  for (int i = 0; i < 10'000; ++i) {
    EXPECT_EQ(figures.Get(now_us).threads, 1u);
    now_us += 1000;
  }
  EXPECT_GE(figures.reads(), 10 * SparingFigures::kReadsPerSecond);
  EXPECT_LE(figures.reads(), 10 * SparingFigures::kReadsPerSecond +
                                 SparingFigures::kReadsAtOnce);
  // Once a second, each of them.
  now_us += 10'000'000;
  for (int i = 0; i < 20; ++i) {
    const uint64_t before = figures.reads();
    figures.Get(now_us);
    EXPECT_EQ(figures.reads(), before + 1);
    now_us += 1'000'000;
  }
}

}  // namespace
}  // namespace dmu
