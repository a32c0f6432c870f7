// SPDX-License-Identifier: Apache-2.0
//
// text_target.h - one hostile message against the parser of Android's commands.
#ifndef TEST_FUZZ_TEXT_TARGET_H_
#define TEST_FUZZ_TEXT_TARGET_H_

#include <cstddef>
#include <cstdint>

namespace dmu {

// What must hold, or it aborts: what the parser gives are parts of the message
// without commas and control characters; a complete command, put together again
// from its fields, is the message but for an empty last field; who may say
// least may not have a device served.
void RunText(const uint8_t* data, size_t size);

}  // namespace dmu

#endif  // TEST_FUZZ_TEXT_TARGET_H_
