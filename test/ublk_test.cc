// SPDX-License-Identifier: Apache-2.0
//
// ublk_test.cc - the parts of the ublk channel that need no kernel.
#include <errno.h>
#include <gtest/gtest.h>

#include "daemon/base/buffer_pool.h"
#include "daemon/channel/ublk/parameters.h"
#include "daemon/channel/ublk/tag_table.h"

namespace dmu::ublk {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// The numbers that Linux has for them, so that a slip in the macros shows.
TEST(UblkAbi, CommandNumbersAreTheKernels) {
  EXPECT_EQ(kAddDevice, 0xc0207504u);
  EXPECT_EQ(kDeleteDevice, 0xc0207505u);
  EXPECT_EQ(kStartDevice, 0xc0207506u);
  EXPECT_EQ(kStopDevice, 0xc0207507u);
  EXPECT_EQ(kSetParams, 0xc0207508u);
  EXPECT_EQ(kGetParams, 0x80207509u);
  EXPECT_EQ(kGetDeviceInfo, 0x80207502u);
  EXPECT_EQ(kStartRecovery, 0xc0207510u);
  EXPECT_EQ(kEndRecovery, 0xc0207511u);
  EXPECT_EQ(kGetFeatures, 0x80207513u);
  EXPECT_EQ(kFetch, 0xc0107520u);
  EXPECT_EQ(kCommitAndFetch, 0xc0107521u);
}

TEST(UblkParameters, DeviceSurvivesItsDaemonAndHoldsNoBuffers) {
  const DeviceInfo info = MakeDeviceInfo(MakeMark(7));
  EXPECT_EQ(info.queues, 1);
  EXPECT_EQ(info.depth, kQueueDepth);
  EXPECT_EQ(info.request_bytes_max, BufferPool::kBufferBytes);
  EXPECT_EQ(info.device, kAnyDevice);
  EXPECT_EQ(info.flags, kFeatureUserRecovery | kFeatureUserRecoveryReissue |
                            kFeatureUserCopy);
  EXPECT_EQ(info.server_flags, MakeMark(7));
}

TEST(UblkParameters, MarksAreNeverWhatOtherServersKeep) {
  for (const uint64_t random : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    EXPECT_GT(MakeMark(random), uint64_t{1} << 48);
  }
  EXPECT_NE(MakeMark(uint64_t{1} << 20), MakeMark(uint64_t{2} << 20));
}

TEST(UblkParameters, ReadOnlyDeviceTakesNoWriteOfAnyKind) {
  const Params params = MakeParams({.size_bytes = kMiB, .read_only = true});
  EXPECT_EQ(params.length_bytes, kParamsBytes);
  EXPECT_EQ(params.types, uint32_t{kBasic});
  EXPECT_EQ(params.basic.attributes, uint32_t{kReadOnly});
  EXPECT_EQ(params.basic.device_sectors, kMiB / 512);
  EXPECT_EQ(params.basic.logical_block_shift, 9);
  EXPECT_EQ(params.basic.physical_block_shift, 12);
  EXPECT_EQ(params.basic.request_sectors_max, BufferPool::kBufferBytes / 512);
}

// Without the write cache's attribute the kernel would never send a flush.
TEST(UblkParameters, WritableDeviceIsFlushedAndDiscards) {
  const Params params = MakeParams({.size_bytes = kMiB});
  EXPECT_EQ(params.types, kBasic | kDiscard);
  EXPECT_EQ(params.basic.attributes, kVolatileCache | kFua);
  // The driver refuses discards with other numbers than these.
  EXPECT_EQ(params.discard.segments_max, 1);
  EXPECT_GT(params.discard.granularity_bytes, 0u);
  EXPECT_GT(params.discard.discard_sectors_max, 0u);
  EXPECT_GT(params.discard.write_zeroes_sectors_max, 0u);
}

TEST(UblkParameters, RequestsAreDecoded) {
  Request request;
  DecodeRequest({kOpWrite | kFlagFua, 8, 1000, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kWrite);
  EXPECT_TRUE(request.fua);
  EXPECT_EQ(request.sector, 1000u);
  EXPECT_EQ(request.length_bytes, 4096u);
  // Flags of no interest change nothing.
  DecodeRequest({kOpRead | 1 << 11, 1, 5, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kRead);
  EXPECT_FALSE(request.fua);
  EXPECT_EQ(request.length_bytes, 512u);
  DecodeRequest({kOpDiscard, UINT32_MAX, 0, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kDiscard);
  EXPECT_EQ(request.length_bytes, uint64_t{UINT32_MAX} * 512);
  DecodeRequest({kOpWriteZeroes, 8, 8, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kWriteZeroes);
  // A flush is about no place: that of the last request must not remain.
  DecodeRequest({kOpFlush, 8, 8, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kFlush);
  EXPECT_EQ(request.sector, 0u);
  EXPECT_EQ(request.length_bytes, 0u);
  DecodeRequest({99, 8, 8, 0}, &request);
  EXPECT_EQ(request.op, Request::Op::kUnknown);
}

TEST(UblkParameters, ResultsAreBytesOrErrors) {
  Request request;
  request.length_bytes = 4096;
  request.op = Request::Op::kRead;
  EXPECT_EQ(EncodeResult(request), 4096);
  request.op = Request::Op::kWrite;
  EXPECT_EQ(EncodeResult(request), 4096);
  request.op = Request::Op::kDiscard;
  EXPECT_EQ(EncodeResult(request), 0);
  request.status = IoStatus::kIoError;
  EXPECT_EQ(EncodeResult(request), -EIO);
  request.status = IoStatus::kCorrupt;
  EXPECT_EQ(EncodeResult(request), -EIO);
  request.status = IoStatus::kNoSpace;
  EXPECT_EQ(EncodeResult(request), -ENOSPC);
  request.status = IoStatus::kUnsupported;
  EXPECT_EQ(EncodeResult(request), -EOPNOTSUPP);
}

TEST(UblkParameters, PayloadsOfTagsLieApart) {
  EXPECT_EQ(UserCopyOffset(0), 0x80000000u);
  EXPECT_GE(UserCopyOffset(1) - UserCopyOffset(0), BufferPool::kBufferBytes);
  EXPECT_EQ(UserCopyOffset(63), 0x80000000u + (uint64_t{63} << 25));
}

TEST(UblkTagTable, TagsGoBackAndForth) {
  TagTable tags(4);
  EXPECT_TRUE(tags.Arrive(2));
  EXPECT_TRUE(tags.Arrive(0));
  EXPECT_EQ(tags.held(), 2u);
  tags.Answer(2);
  EXPECT_EQ(tags.held(), 1u);
  EXPECT_TRUE(tags.Arrive(2));
}

TEST(UblkTagTable, TagsThatAreNotTheKernelsAreRefused) {
  TagTable tags(4);
  EXPECT_FALSE(tags.Arrive(4));
  EXPECT_FALSE(tags.Arrive(UINT64_MAX));
  EXPECT_TRUE(tags.Arrive(1));
  EXPECT_FALSE(tags.Arrive(1));
  EXPECT_FALSE(tags.Retire(1));
  EXPECT_TRUE(tags.Retire(3));
  EXPECT_FALSE(tags.Arrive(3));
  EXPECT_EQ(tags.held(), 1u);
}

TEST(UblkTagTable, RequestsWaitInTheirOrder) {
  TagTable tags(4);
  for (const uint16_t tag : {3, 0, 2}) {
    ASSERT_TRUE(tags.Arrive(tag));
    tags.Wait(tag);
  }
  EXPECT_TRUE(tags.has_waiting());
  EXPECT_EQ(tags.held(), 3u);
  EXPECT_EQ(tags.NextWaiting(), 3);
  // There was no buffer for it after all.
  tags.WaitFirst(3);
  ASSERT_TRUE(tags.Arrive(1));
  tags.Wait(1);
  for (const uint16_t tag : {3, 0, 2, 1}) {
    EXPECT_EQ(tags.NextWaiting(), tag);
    tags.Answer(tag);
  }
  EXPECT_EQ(tags.NextWaiting(), TagTable::kNone);
  EXPECT_FALSE(tags.has_waiting());
  EXPECT_EQ(tags.held(), 0u);
}

TEST(UblkTagTable, TheOnlyOneMayWaitFirst) {
  TagTable tags(2);
  ASSERT_TRUE(tags.Arrive(1));
  tags.WaitFirst(1);
  ASSERT_TRUE(tags.Arrive(0));
  tags.Wait(0);
  EXPECT_EQ(tags.NextWaiting(), 1);
  EXPECT_EQ(tags.NextWaiting(), 0);
  EXPECT_EQ(tags.NextWaiting(), TagTable::kNone);
}

}  // namespace
}  // namespace dmu::ublk
