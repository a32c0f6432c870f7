// SPDX-License-Identifier: Apache-2.0
//
// Goal: the checksum of stored units never changes: files keep it.
// Method: values of XXH3-64 that are published, and what it is for.
#include "daemon/cow/unit_check.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace dmu::cow {
namespace {

uint32_t OfText(const char* text) {
  return UnitCheck({reinterpret_cast<const uint8_t*>(text), strlen(text)});
}

TEST(UnitCheckTest, IsTheLowHalfOfXxh3) {
  EXPECT_EQ(UnitCheck({}), 0x38d394c2u);  // 2d06800538d394c2
  EXPECT_EQ(OfText("a"), 0x1e964e1fu);    // e6c632b61e964e1f
  EXPECT_EQ(OfText("abc"), 0x892f3950u);  // 78af5f94892f3950
}

TEST(UnitCheckTest, SeesEveryByteAndTheLength) {
  std::vector<uint8_t> unit(kBlockBytes);
  const uint32_t check = UnitCheck(unit);
  for (size_t i = 0; i < unit.size(); ++i) {
    unit[i] ^= 1;
    EXPECT_NE(UnitCheck(unit), check) << i;
    unit[i] ^= 1;
  }
  EXPECT_EQ(UnitCheck(unit), check);
  unit.pop_back();
  EXPECT_NE(UnitCheck(unit), check);
}

}  // namespace
}  // namespace dmu::cow
