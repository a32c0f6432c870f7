// SPDX-License-Identifier: Apache-2.0
//
// extension.cc - see extension.h.
#define XXH_STATIC_LINKING_ONLY  // XXH3_state_t's layout, to embed it
#include "daemon/cow/extension.h"

#include <xxhash.h>
#include <zlib.h>

#include <cstring>
#include <new>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"

namespace dmu::cow {
namespace {

enum ExtensionAt : uint32_t {
  kAtMagic = 0,
  kAtLength = 8,
  kAtComplete = 12,
  kAtBase = 16,
  kAtTarget = 24,
  kAtDataEnd = 32,
  kAtOpCount = 40,
  kAtHeaderCrc = 48,
  kAtOpsCheck = 52,
  kAtTablesCheck = 56,
  kAtUnitChecks = 60,
  kAtTargetChecks = 64,
  kAtSamples = 68,
  kAtBaseDigest = 72,
  kAtTargetDigest = 80,
  kAtZeros = 88,
  kAtCrc = 124,
};
static_assert(kAtCrc + 4 == kExtensionBytes);
static_assert(kExtensionBytes % kOpBytesV3 == 0);

// The footer's 32 bytes: magic u64 | length of the tables u64 | zeros | CRC-32
// of the 28 bytes before it.
constexpr uint32_t kNoteBytes = 32;
constexpr uint32_t kNoteCrcAt = 28;

uint32_t Crc32(const uint8_t* bytes, uint32_t count) {
  return static_cast<uint32_t>(crc32(0, bytes, count));
}

}  // namespace

uint64_t Extension::unit_checks_before_record() const {
  return target_checks_before_record() + uint64_t{4} * unit_check_count;
}

uint64_t Extension::target_checks_before_record() const {
  return samples_before_record() + uint64_t{4} * target_check_count;
}

uint64_t Extension::samples_before_record() const {
  return uint64_t{kSampleBytes} * sample_count;
}

uint64_t Extension::tables_bytes() const {
  const uint64_t bytes = unit_checks_before_record();
  return (bytes + kOpBytesV3 - 1) / kOpBytesV3 * kOpBytesV3;
}

bool HasExtensionMagic(const uint8_t bytes[kExtensionBytes]) {
  return LoadLe<uint64_t>(bytes + kAtMagic) == kExtensionMagic;
}

bool DecodeExtension(const uint8_t bytes[kExtensionBytes], Extension* ext) {
  if (!HasExtensionMagic(bytes) ||
      LoadLe<uint32_t>(bytes + kAtLength) != kExtensionBytes ||
      LoadLe<uint32_t>(bytes + kAtCrc) != Crc32(bytes, kAtCrc)) {
    return false;
  }
  ext->complete = LoadLe<uint32_t>(bytes + kAtComplete) == 1;
  ext->base_bytes = LoadLe<uint64_t>(bytes + kAtBase);
  ext->target_bytes = LoadLe<uint64_t>(bytes + kAtTarget);
  ext->data_end = LoadLe<uint64_t>(bytes + kAtDataEnd);
  ext->op_count = LoadLe<uint64_t>(bytes + kAtOpCount);
  ext->header_crc = LoadLe<uint32_t>(bytes + kAtHeaderCrc);
  ext->ops_check = LoadLe<uint32_t>(bytes + kAtOpsCheck);
  ext->tables_check = LoadLe<uint32_t>(bytes + kAtTablesCheck);
  ext->unit_check_count = LoadLe<uint32_t>(bytes + kAtUnitChecks);
  ext->target_check_count = LoadLe<uint32_t>(bytes + kAtTargetChecks);
  ext->sample_count = LoadLe<uint32_t>(bytes + kAtSamples);
  ext->base_digest = LoadLe<uint64_t>(bytes + kAtBaseDigest);
  ext->target_digest = LoadLe<uint64_t>(bytes + kAtTargetDigest);
  return (ext->unit_check_count == 0 ||
          ext->unit_check_count == ext->op_count) &&
         ext->sample_count <= kSamplesMax;
}

void EncodeExtension(const Extension& ext, uint8_t bytes[kExtensionBytes]) {
  StoreLe<uint64_t>(bytes + kAtMagic, kExtensionMagic);
  StoreLe<uint32_t>(bytes + kAtLength, kExtensionBytes);
  StoreLe<uint32_t>(bytes + kAtComplete, ext.complete ? 1 : 0);
  StoreLe<uint64_t>(bytes + kAtBase, ext.base_bytes);
  StoreLe<uint64_t>(bytes + kAtTarget, ext.target_bytes);
  StoreLe<uint64_t>(bytes + kAtDataEnd, ext.data_end);
  StoreLe<uint64_t>(bytes + kAtOpCount, ext.op_count);
  StoreLe<uint32_t>(bytes + kAtHeaderCrc, ext.header_crc);
  StoreLe<uint32_t>(bytes + kAtOpsCheck, ext.ops_check);
  StoreLe<uint32_t>(bytes + kAtTablesCheck, ext.tables_check);
  StoreLe<uint32_t>(bytes + kAtUnitChecks, ext.unit_check_count);
  StoreLe<uint32_t>(bytes + kAtTargetChecks, ext.target_check_count);
  StoreLe<uint32_t>(bytes + kAtSamples, ext.sample_count);
  StoreLe<uint64_t>(bytes + kAtBaseDigest, ext.base_digest);
  StoreLe<uint64_t>(bytes + kAtTargetDigest, ext.target_digest);
  std::memset(bytes + kAtZeros, 0, kAtCrc - kAtZeros);
  StoreLe<uint32_t>(bytes + kAtCrc, Crc32(bytes, kAtCrc));
}

uint64_t ExtensionOffsetV3(const Header& header) {
  DMU_CHECK(header.op_count <= header.op_count_max);
  if (header.op_count_max - header.op_count < kExtensionBytes / kOpBytesV3) {
    return 0;
  }
  return header.DataOffset() - kExtensionBytes;
}

bool HasFooterNote(const uint8_t unused[32]) {
  return LoadLe<uint64_t>(unused) == kExtensionMagic;
}

bool DecodeFooterNote(const uint8_t unused[32], uint64_t* tables_bytes) {
  if (!HasFooterNote(unused) ||
      LoadLe<uint32_t>(unused + kNoteCrcAt) != Crc32(unused, kNoteCrcAt)) {
    return false;
  }
  *tables_bytes = LoadLe<uint64_t>(unused + 8);
  return true;
}

void EncodeFooterNote(uint64_t tables_bytes, uint8_t unused[32]) {
  std::memset(unused, 0, kNoteBytes);
  StoreLe<uint64_t>(unused, kExtensionMagic);
  StoreLe<uint64_t>(unused + 8, tables_bytes);
  StoreLe<uint32_t>(unused + kNoteCrcAt, Crc32(unused, kNoteCrcAt));
}

Sample DecodeSample(const uint8_t bytes[kSampleBytes]) {
  return {LoadLe<uint32_t>(bytes), LoadLe<uint32_t>(bytes + 4)};
}

void EncodeSample(const Sample& sample, uint8_t bytes[kSampleBytes]) {
  StoreLe<uint32_t>(bytes, sample.block);
  StoreLe<uint32_t>(bytes + 4, sample.check);
}

struct OpsHasher::State {
  XXH3_state_t hash;
};

OpsHasher::OpsHasher() : state_(new (std::nothrow) State) {
  DMU_CHECK(state_ != nullptr);
  XXH3_64bits_reset(&state_->hash);
}

OpsHasher::~OpsHasher() { delete state_; }

void OpsHasher::AddOp(const Op& op) {
  uint8_t bytes[kOpBytesV3];
  Op stored = op;
  // Where the data stands is a matter of layout, not of what the op says.
  if (op.type == OpType::kReplace) stored.source = 0;
  EncodeOpV3(stored, bytes);
  XXH3_64bits_update(&state_->hash, bytes, sizeof(bytes));
}

void OpsHasher::AddSequence(ConstByteSpan entries) {
  XXH3_64bits_update(&state_->hash, entries.data(), entries.size());
}

uint32_t OpsHasher::Finish() const {
  return static_cast<uint32_t>(XXH3_64bits_digest(&state_->hash));
}

}  // namespace dmu::cow
