// SPDX-License-Identifier: Apache-2.0
//
// file_target.h - one run of everything that reads a COW file over bytes that
// may be anything: verify, reads of the target, the merge.
#ifndef TEST_FUZZ_FILE_TARGET_H_
#define TEST_FUZZ_FILE_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dmu {

// What a fuzzer changes is smaller than the file: the first byte says (bit 0)
// whether the file has a scratch region, of which then only the first
// kScratchGiven bytes are in the input, behind the header; bit 1: whether the
// checksums of the extension are made right again.
inline constexpr size_t kScratchGiven = 96;
std::vector<uint8_t> ExpandInput(const uint8_t* data, size_t size);
// The other way round; `file` may have a scratch region.
std::vector<uint8_t> ShrinkFile(const std::vector<uint8_t>& file);

// Version 3: makes checksums of header, ops and record what they should be.
void RepairChecksums(std::vector<uint8_t>* file);

// Aborts when any of these is broken: what loads can be asked for every block;
// two reads of a block agree, whatever the offset; a merge that ends well gives
// a base of just these blocks; one that does not leaves every block that could
// be read as it was; nothing but the blocks that ops name, the first sector and
// the scratch region is ever written; verify agrees with reads. Returns whether
// the file loaded.
bool RunFile(const uint8_t* data, size_t size);

// The base all files are run over: kBaseBlocks numbered blocks.
inline constexpr uint32_t kBaseBlocks = 64;
const std::vector<uint8_t>& FuzzBase();

// Small good files of every kind, as inputs.
std::vector<std::vector<uint8_t>> MakeCorpus();

}  // namespace dmu

#endif  // TEST_FUZZ_FILE_TARGET_H_
