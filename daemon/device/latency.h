// SPDX-License-Identifier: Apache-2.0
//
// latency.h - how long requests took, counted in buckets of fixed memory.
//
// Log-linear: two buckets to a power of two, so that what a percentile says is
// off by a quarter at most. A histogram has 46 counters of 8 bytes; a device
// has one for each kind of op, 1.5 KiB in all. 4-byte counters would be full
// after some hours of a fast device, and what only ever grows must not begin
// again.
#ifndef DAEMON_DEVICE_LATENCY_H_
#define DAEMON_DEVICE_LATENCY_H_

#include <bit>
#include <cstdint>

namespace dmu {

class LatencyHistogram {
 public:
  // Below 2 us, two for each power of two up to 2^23 us (8.4 s), and above.
  static constexpr int kPowersMax = 23;
  static constexpr int kBuckets = 1 + 2 * (kPowersMax - 1) + 1;

  // The bucket of a time. O(1).
  static constexpr int BucketOf(uint64_t us) {
    if (us < 2) return 0;
    const int power = static_cast<int>(std::bit_width(us)) - 1;
    if (power >= kPowersMax) return kBuckets - 1;
    const int upper_half = static_cast<int>(us >> (power - 1) & 1);
    return 1 + 2 * (power - 1) + upper_half;
  }

  // Times in a bucket are below this; UINT64_MAX for the last one.
  static constexpr uint64_t LimitUs(int bucket) {
    if (bucket == kBuckets - 1) return UINT64_MAX;
    if (bucket == 0) return 2;
    const int power = 1 + (bucket - 1) / 2;
    return (bucket - 1) % 2 == 0 ? uint64_t{3} << (power - 1)
                                 : uint64_t{1} << (power + 1);
  }

  void Add(uint64_t us) {
    ++buckets_[BucketOf(us)];
    sum_us_ += us;
    if (us > max_us_) max_us_ = us;
  }

  uint64_t count(int bucket) const { return buckets_[bucket]; }
  uint64_t sum_us() const { return sum_us_; }
  uint64_t max_us() const { return max_us_; }

 private:
  uint64_t buckets_[kBuckets] = {};
  uint64_t sum_us_ = 0;
  uint64_t max_us_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_DEVICE_LATENCY_H_
