// SPDX-License-Identifier: Apache-2.0
//
// Goal: a time falls into the one bucket whose limits it is between, and what a
// percentile says is never less than the truth and at most half more.
// Method: every limit and its neighbours; percentiles of known times, sorted.
#include "daemon/device/latency.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "proto/control.pb.h"
#include "tools/latency.h"

namespace dmu {
namespace {

using Histogram = LatencyHistogram;

TEST(LatencyTest, LimitsRiseAndHoldTheirTimes) {
  uint64_t below_us = 0;
  for (int i = 0; i < Histogram::kBuckets; ++i) {
    const uint64_t limit_us = Histogram::LimitUs(i);
    ASSERT_GT(limit_us, below_us);
    EXPECT_EQ(Histogram::BucketOf(below_us), i);
    EXPECT_EQ(Histogram::BucketOf(limit_us - 1), i);
    below_us = limit_us;
  }
  EXPECT_EQ(Histogram::BucketOf(UINT64_MAX), Histogram::kBuckets - 1);
  EXPECT_EQ(Histogram::LimitUs(0), 2u);
  EXPECT_EQ(Histogram::LimitUs(1), 3u);
  EXPECT_EQ(Histogram::LimitUs(2), 4u);
  EXPECT_EQ(Histogram::LimitUs(3), 6u);
  EXPECT_EQ(Histogram::LimitUs(Histogram::kBuckets - 2), uint64_t{1} << 23);
}

TEST(LatencyTest, FixedMemory) { EXPECT_LE(4 * sizeof(Histogram), 1600u); }

proto::Latency ToProto(const Histogram& from, uint64_t count) {
  proto::Latency latency;
  latency.set_count(count);
  latency.set_sum_us(from.sum_us());
  latency.set_max_us(from.max_us());
  for (int i = 0; i < Histogram::kBuckets; ++i) {
    if (from.count(i) == 0) continue;
    proto::Latency::Bucket* bucket = latency.add_buckets();
    const uint64_t limit_us = Histogram::LimitUs(i);
    bucket->set_below_us(limit_us == UINT64_MAX ? 0 : limit_us);
    bucket->set_count(from.count(i));
  }
  return latency;
}

TEST(LatencyTest, PercentilesAreNeverTooLittleNorMuchTooMuch) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    Histogram histogram;
    std::vector<uint64_t> times;
    const size_t count = 1 + random() % 3000;
    for (size_t i = 0; i < count; ++i) {
      // Of all magnitudes, some beyond the last limit.
      times.push_back((random() >> (64 - 1 - random() % 26)));
      histogram.Add(times.back());
    }
    std::sort(times.begin(), times.end());
    const proto::Latency latency = ToProto(histogram, count);
    EXPECT_EQ(latency.max_us(), times.back());
    for (const double part : {0.0, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      const auto rank =
          static_cast<size_t>(std::ceil(part * static_cast<double>(count)));
      const uint64_t truth = times[std::max<size_t>(rank, 1) - 1];
      const uint64_t said = tools::PercentileUs(latency, part);
      EXPECT_GE(said, truth);
      if (truth < uint64_t{1} << 23) {
        EXPECT_LE(said, std::max<uint64_t>(2, truth + truth / 2 + 1));
      }
      EXPECT_LE(said, latency.max_us());
    }
    for (int i = 0; i < Histogram::kBuckets - 1; ++i) {
      const uint64_t limit_us = Histogram::LimitUs(i);
      const auto below = static_cast<uint64_t>(
          std::lower_bound(times.begin(), times.end(), limit_us) -
          times.begin());
      EXPECT_EQ(tools::CountBelow(latency, limit_us), below);
    }
  }
}

TEST(LatencyTest, NothingIsNothing) {
  EXPECT_EQ(tools::PercentileUs(proto::Latency(), 0.99), 0u);
}

}  // namespace
}  // namespace dmu
