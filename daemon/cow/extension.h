// SPDX-License-Identifier: Apache-2.0
//
// extension.h - what our writer adds to a COW file where Android's readers do
// not look: a mark that the file is complete, checks of everything in it, and
// what the images on both sides are.
//
// A record of kExtensionBytes ends the extension; directly in front of it stand
// its tables, padded at their front to a multiple of 16 bytes:
//   unit checks    u32 for each data op, in the order of the ops: UnitCheck of
//                  its stored bytes (unit_check.h), 0 for ops without data
//   target checks  u32 for each MiB of the target (256 blocks, the last one
//                  perhaps fewer): low half of XXH3-64 over the XXH3-64 of its
//                  blocks (u64 each)
//   samples        {u32 block, u32 check} of blocks of the base: low half of
//                  XXH3-64 of the block
//
// Version 3: tables and record fill the last slots of the op table, behind the
// valid ops; the record ends where data begins, an address that is known on a
// block device too. Version 2: they follow the footer, whose 32 unused bytes
// say how long the tables are.
//
// The record names header, ops and tables by checksum. While a file is being
// written its record says so (complete is 0); the header is the last thing that
// is written, after all else is durable.
#ifndef DAEMON_COW_EXTENSION_H_
#define DAEMON_COW_EXTENSION_H_

#include <cstdint>

#include "daemon/base/types.h"
#include "daemon/cow/format.h"

namespace dmu::cow {

inline constexpr uint64_t kExtensionMagic = 0x3254584555534d44;  // "DMSUEXT2"
inline constexpr uint32_t kExtensionBytes = 128;
inline constexpr uint32_t kTargetCheckBlocks = 256;
inline constexpr uint32_t kSamplesMax = 64;
inline constexpr uint32_t kSampleBytes = 8;

struct Extension {
  bool complete = false;
  uint64_t base_bytes = 0;    // size of the image the delta was made from
  uint64_t target_bytes = 0;  // size of the image it leads to
  uint64_t data_end = 0;      // file offset behind the last data byte
  // Data ops. Must equal the file's: tells an append by a writer that does not
  // know the record.
  uint64_t op_count = 0;
  uint32_t header_crc = 0;  // HeaderChecksum
  // Low half of XXH3-64 over the ops and the sequence, see OpsHasher.
  uint32_t ops_check = 0;
  uint32_t tables_check = 0;  // low half of XXH3-64 of the tables
  // Entries of each table; 0 for one that was left out.
  uint32_t unit_check_count = 0;
  uint32_t target_check_count = 0;
  uint32_t sample_count = 0;
  // XXH3-64 over the XXH3-64 of every block (u64 each); 0: not known.
  uint64_t base_digest = 0;
  uint64_t target_digest = 0;

  // Of the tables, with the padding in front of them.
  uint64_t tables_bytes() const;
  // Of everything.
  uint64_t bytes() const { return tables_bytes() + kExtensionBytes; }
  // From the beginning of the tables' first entry to the record.
  uint64_t unit_checks_before_record() const;
  uint64_t target_checks_before_record() const;
  uint64_t samples_before_record() const;
};

struct Sample {
  uint32_t block = 0;  // of the base
  uint32_t check = 0;
};

// Whether a record was meant to stand here.
bool HasExtensionMagic(const uint8_t bytes[kExtensionBytes]);
// False when magic, length or record checksum do not match, or the counts
// cannot be.
bool DecodeExtension(const uint8_t bytes[kExtensionBytes], Extension* ext);
void EncodeExtension(const Extension& ext, uint8_t bytes[kExtensionBytes]);

// Version 3: where the record of a file stands, if it has one; 0 when its op
// table has no room for one. Needs op_count <= op_count_max.
uint64_t ExtensionOffsetV3(const Header& header);

// Version 2: whether the footer's unused bytes speak of an extension, and what
// they say. Tables begin where the footer ends.
bool HasFooterNote(const uint8_t unused[32]);
// False when it does not match its checksum.
bool DecodeFooterNote(const uint8_t unused[32], uint64_t* tables_bytes);
void EncodeFooterNote(uint64_t tables_bytes, uint8_t unused[32]);

Sample DecodeSample(const uint8_t bytes[kSampleBytes]);
void EncodeSample(const Sample& sample, uint8_t bytes[kSampleBytes]);

// ops_check: the data ops in the order of the file, each as EncodeOpV3 writes
// it but with source 0 for a replace, whose place follows from the lengths;
// then the entries of the sequence, as u32 little-endian.
class OpsHasher {
 public:
  OpsHasher();
  ~OpsHasher();
  OpsHasher(const OpsHasher&) = delete;
  OpsHasher& operator=(const OpsHasher&) = delete;

  void AddOp(const Op& op);
  void AddSequence(ConstByteSpan entries);
  uint32_t Finish() const;

 private:
  struct State;
  State* state_;
};

}  // namespace dmu::cow

#endif  // DAEMON_COW_EXTENSION_H_
