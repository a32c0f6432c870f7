// SPDX-License-Identifier: Apache-2.0
//
// Goal: no message to Android's socket is taken for what it is not.
// Method: good commands with bytes changed, left out and put in; fixed seed.
// More: DMU_FUZZ_RUNS=N.
#include <cstdlib>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "test/fuzz/text_target.h"

namespace dmu {
namespace {

TEST(TextMutationTest, NoMessageIsTakenForAnother) {
  static constexpr const char* kGood[] = {
      "init,system_b,/dev/block/dm-1,/dev/block/dm-2,/dev/block/dm-3",
      "init,a,b,c,d",
      "start,system_b",
      "initiate_merge,system_b",
      "getstatus,a",
      "merge_percent",
      "pause_merge",
      "resume_merge",
      "delete,a",
      "query",
      "supports,ublk",
      "update-verify",
      "detach",
      "stop"};
  static constexpr char kBytes[] = {',', '\0', '\n', '/', 'a', '\x7f', '\xff'};
  const char* runs = std::getenv("DMU_FUZZ_RUNS");
  const uint64_t count =
      runs == nullptr ? 200'000 : std::strtoull(runs, nullptr, 10);
  std::mt19937 random(1);
  for (uint64_t run = 0; run < count; ++run) {
    std::string message = kGood[random() % std::size(kGood)];
    for (uint32_t edits = random() % 4; edits > 0; --edits) {
      const size_t at = random() % (message.size() + 1);
      const char byte = kBytes[random() % std::size(kBytes)];
      switch (random() % 4) {
        case 0:
          message.insert(at, 1, byte);
          break;
        case 1:
          message.resize(at);
          break;
        case 2:
          message += kGood[random() % std::size(kGood)];
          break;
        default:
          if (at < message.size()) message[at] = byte;
      }
    }
    RunText(reinterpret_cast<const uint8_t*>(message.data()), message.size());
  }
}

}  // namespace
}  // namespace dmu
