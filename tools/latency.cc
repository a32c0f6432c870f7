// SPDX-License-Identifier: Apache-2.0
//
// latency.cc - see latency.h.
#include "tools/latency.h"

#include <algorithm>
#include <cmath>

namespace dmu::tools {

const char* LatencyOpName(proto::Latency::Op op) {
  switch (op) {
    case proto::Latency::READ:
      return "read";
    case proto::Latency::WRITE:
      return "write";
    case proto::Latency::FLUSH:
      return "flush";
    default:
      return "other";
  }
}

uint64_t PercentileUs(const proto::Latency& latency, double part) {
  if (latency.count() == 0) return 0;
  const auto rank = std::max<uint64_t>(
      static_cast<uint64_t>(
          std::ceil(part * static_cast<double>(latency.count()))),
      1);
  uint64_t seen = 0;
  for (const proto::Latency::Bucket& bucket : latency.buckets()) {
    seen += bucket.count();
    if (seen < rank) continue;
    if (bucket.below_us() == 0) break;
    return std::min(bucket.below_us(), latency.max_us());
  }
  return latency.max_us();
}

uint64_t CountBelow(const proto::Latency& latency, uint64_t limit_us) {
  uint64_t count = 0;
  for (const proto::Latency::Bucket& bucket : latency.buckets()) {
    if (bucket.below_us() != 0 && bucket.below_us() <= limit_us) {
      count += bucket.count();
    }
  }
  return count;
}

}  // namespace dmu::tools
