// SPDX-License-Identifier: Apache-2.0
//
// token_bucket.h - a rate in bytes per second with a small burst.
//
// Between any two moments it gives out at most the burst and the rate times the
// time between them, and what is taken beyond that is owed and paid first.
#ifndef DAEMON_BACKEND_TOKEN_BUCKET_H_
#define DAEMON_BACKEND_TOKEN_BUCKET_H_

#include <algorithm>
#include <cstdint>

#include "daemon/base/check.h"

namespace dmu {

class TokenBucket {
 public:
  // Higher rates are this one; it keeps the sums below within 64 bits.
  static constexpr uint64_t kRateMaxBytesPerS = uint64_t{1} << 40;

  // The burst is a tenth of a second, which a late timer or a slow disk may
  // take without the rate falling short, and never below burst_min_bytes.
  explicit TokenBucket(uint64_t burst_min_bytes)
      : burst_min_bytes_(burst_min_bytes) {}

  // 0: no limit; nothing may then be taken. What a new limit gives out begins
  // with nothing; a changed one keeps what fits.
  void SetRate(uint64_t rate_bytes_per_s, uint64_t now_us) {
    Refill(now_us);
    if (rate_ == 0) level_ = 0;
    rate_ = static_cast<int64_t>(std::min(rate_bytes_per_s, kRateMaxBytesPerS));
    full_ = Scaled(std::max(burst_min_bytes_, uint64_t(rate_) / 10));
    level_ = std::min(level_, full_);
  }
  bool limited() const { return rate_ != 0; }

  void Refill(uint64_t now_us) {
    const int64_t elapsed_us = static_cast<int64_t>(now_us - refilled_us_);
    refilled_us_ = now_us;
    if (rate_ == 0) return;
    // A long time would overflow, and fills it anyway.
    const int64_t missing = full_ - level_;
    level_ = elapsed_us > missing / rate_ ? full_ : level_ + elapsed_us * rate_;
  }

  bool Has(uint64_t bytes) const { return level_ >= Scaled(bytes); }
  bool in_debt() const { return level_ <= 0; }

  void Take(uint64_t bytes) { level_ -= Scaled(bytes); }
  // Below 0: takes.
  void Give(int64_t bytes) {
    level_ = std::min(level_ + bytes * kScale, full_);
  }

  // When Has(bytes) will be true if nothing is taken; bytes <= burst_min_bytes.
  uint64_t ReadyUs(uint64_t bytes) const {
    DMU_CHECK(limited() && bytes <= burst_min_bytes_);
    const int64_t missing = std::max<int64_t>(Scaled(bytes) - level_, 0);
    return refilled_us_ + static_cast<uint64_t>((missing + rate_ - 1) / rate_);
  }

 private:
  // Bytes times microseconds per second, so that no refill rounds: at a low
  // rate each would round to nothing.
  static constexpr int64_t kScale = 1'000'000;
  static int64_t Scaled(uint64_t bytes) {
    return static_cast<int64_t>(bytes) * kScale;
  }

  const uint64_t burst_min_bytes_;
  int64_t rate_ = 0;
  int64_t full_ = 0;
  int64_t level_ = 0;
  uint64_t refilled_us_ = 0;
};

}  // namespace dmu

#endif  // DAEMON_BACKEND_TOKEN_BUCKET_H_
