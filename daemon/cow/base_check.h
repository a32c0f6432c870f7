// SPDX-License-Identifier: Apache-2.0
//
// base_check.h - whether a base is the one a COW file was made from, by the
// blocks of it that the file's writer sampled (extension.h).
//
// A merge changes the base, so a sample counts only where its block is surely
// still the old image's: no op gives it, or its op is so far from the counter
// that no merge - ours or Android's, whatever crash it met - has come there, or
// the state byte says that none has begun. (Ours sets it before the first write
// to the base. Android's does before the first window of copies and xors.)
#ifndef DAEMON_COW_BASE_CHECK_H_
#define DAEMON_COW_BASE_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/base/types.h"
#include "daemon/cow/image.h"

namespace dmu::cow {

// Ops behind the counter that a merge may have written before it counted them.
inline constexpr uint32_t kMergeAheadMax = 8192;

// Bytes of the samples in the file, at image.samples_offset; 0 without.
uint32_t SamplesBytes(const Image& image);

// Sample i of the bytes read there; false when it does not count now.
bool SampleCounts(const Image& image, const uint8_t* samples, uint32_t i,
                  Sample* sample);

// Whether `block`, read from the base, is the sampled one: kFailedPrecondition
// with a sentence otherwise.
absl::Status CheckSample(const Sample& sample, ConstByteSpan block);

}  // namespace dmu::cow

#endif  // DAEMON_COW_BASE_CHECK_H_
