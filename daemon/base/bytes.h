// SPDX-License-Identifier: Apache-2.0
//
// bytes.h - little-endian loads and stores at any address.
//
// The COW format is packed and nothing in it is aligned, so its fields are only
// ever touched through these.
#ifndef DAEMON_BASE_BYTES_H_
#define DAEMON_BASE_BYTES_H_

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

namespace dmu {

static_assert(std::endian::native == std::endian::little,
              "the wire and the COW format are little-endian, and so is every "
              "host this was tried on");

// The integer at p, which need not be aligned; sizeof(T) bytes must be
// readable.
template <std::unsigned_integral T>
T LoadLe(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// Writes sizeof(T) bytes at p, which need not be aligned.
template <std::unsigned_integral T>
void StoreLe(uint8_t* p, T value) {
  std::memcpy(p, &value, sizeof(value));
}

}  // namespace dmu

#endif  // DAEMON_BASE_BYTES_H_
