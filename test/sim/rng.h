// SPDX-License-Identifier: Apache-2.0
//
// rng.h - the one source of chance in the simulator (SplitMix64): the same
// seed gives the same run on every machine.
#ifndef TEST_SIM_RNG_H_
#define TEST_SIM_RNG_H_

#include <cstdint>

namespace dmu::sim {

inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15); }
  // 0 .. n - 1; n >= 1.
  uint32_t Below(uint64_t n) { return static_cast<uint32_t>(Next() % n); }
  bool OneIn(uint32_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace dmu::sim

#endif  // TEST_SIM_RNG_H_
