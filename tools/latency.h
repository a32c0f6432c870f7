// SPDX-License-Identifier: Apache-2.0
//
// latency.h - what the buckets of a latency mean: percentiles.
#ifndef TOOLS_LATENCY_H_
#define TOOLS_LATENCY_H_

#include <cstdint>

#include "proto/control.pb.h"

namespace dmu::tools {

// "read", "write", "flush", "other".
const char* LatencyOpName(proto::Latency::Op op);

// The time that `part` (0 to 1) of the requests did not exceed, in
// microseconds: the upper limit of its bucket, so never too little, and never
// above the longest time there was. 0 when there were no requests.
uint64_t PercentileUs(const proto::Latency& latency, double part);

// Requests that took less than limit_us, which is the limit of a bucket.
uint64_t CountBelow(const proto::Latency& latency, uint64_t limit_us);

}  // namespace dmu::tools

#endif  // TOOLS_LATENCY_H_
