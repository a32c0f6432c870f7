// SPDX-License-Identifier: Apache-2.0
//
// image_target.h - one hostile image file against what reads images.
#ifndef TEST_FUZZ_IMAGE_TARGET_H_
#define TEST_FUZZ_IMAGE_TARGET_H_

#include <cstddef>
#include <cstdint>

namespace dmu {

// What must hold, or it aborts: the file is refused with a sentence, or every
// read inside the image gives bytes, the same ones alone and in a longer read;
// what is said to be zeros is read as zeros. Nothing is read beyond the file
// (sanitizers), nothing takes time or memory by the size that is claimed.
// Returns whether it was taken.
bool RunImage(const uint8_t* data, size_t size);

}  // namespace dmu

#endif  // TEST_FUZZ_IMAGE_TARGET_H_
