// SPDX-License-Identifier: Apache-2.0
//
// cow_test_util.h - COW files in memory, random images, and the naive way to
// read a target, for the tests of the COW library and its tools.
#ifndef TEST_COW_TEST_UTIL_H_
#define TEST_COW_TEST_UTIL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/cow/loader.h"
#include "daemon/cow/writer.h"

namespace dmu::test {

using Bytes = std::vector<uint8_t>;

// "21 21 57" and line breaks; hex digits in pairs.
Bytes FromHex(absl::string_view hex);

// Runs the loader over a file that is in memory.
absl::StatusOr<std::unique_ptr<cow::Image>> LoadBytes(
    const Bytes& file, std::optional<uint64_t> label = std::nullopt);

// A sink that grows; keeps what happened for tests of the order of writes.
class MemorySink : public cow::Sink {
 public:
  struct Event {
    bool sync = false;
    uint64_t offset = 0;
    Bytes bytes;
  };
  absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) override;
  absl::Status Sync() override;
  absl::Status SetEnd(uint64_t bytes) override;

  Bytes file;
  std::vector<Event> events;
};

// Applies one write to a file in memory.
void Apply(const MemorySink::Event& event, Bytes* file);

// A block of its own kind: zero, a repeated pattern, text-like, or random.
Bytes RandomBlock(std::mt19937* rng);
Bytes RandomImage(std::mt19937* rng, uint32_t blocks);

// The target by reading every op of the file in order and applying it to a copy
// of the old image; target_blocks long. Independent of Index and the tools.
Bytes NaiveTarget(const Bytes& file, const Bytes& old_image,
                  uint32_t target_blocks);

// All ops of the file, in order.
std::vector<cow::Op> OpsOf(const Bytes& file);
// The block(s) an op gives, from the untouched old image.
Bytes NaiveOpData(const Bytes& file, const cow::Op& op, const Bytes& old_image);

}  // namespace dmu::test

#endif  // TEST_COW_TEST_UTIL_H_
