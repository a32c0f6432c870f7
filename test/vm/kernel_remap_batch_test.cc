// SPDX-License-Identifier: Apache-2.0
//
// Goal: batches of headers alone, which the kernel copies many at a time, lose
// no request and give none twice, whatever their number, the size of the memory
// and where it ends; and each reply among them is taken for itself.
// Method: the daemon's side by hand, on a channel that may answer by remap,
// with memory whose next page is not there.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "test/vm/remap.h"

namespace dmu {
namespace {

class RemapBatch : public RemapFixture {
 protected:
  void SetUp() override {
    RemapFixture::SetUp();
    OpenBoth();
  }
  // Reads of 8 sectors each, all queued; the first sector names them.
  void Queue(size_t count) {
    for (size_t i = 0; i < count; ++i) reads_.push_back(Read(8 * i, 8));
    EXPECT_EQ(count, device_.StatusNumber(kQueued));
  }
  // Where a read is sent to: unlike any other's, and odd.
  static uint64_t Place(const WireHeader& h) { return h.sector / 8 * 9 + 1; }
  static WireHeader Good(const WireHeader& h) {
    return RemapTo(h.seq, h.sector / 8 % 2, Place(h));
  }
  void ExpectGood(size_t index) {
    ExpectRead(reads_[index], Content(int(index % 2), index * 9 + 1, 8));
  }
  void ExpectAllGood() {
    for (size_t i = 0; i < reads_.size(); ++i) ExpectGood(i);
    EXPECT_EQ("0", device_.StatusField(kErrors));
    EXPECT_EQ(reads_.size(), device_.StatusNumber(kServed));
    ExpectIdle();
  }
  // The numbers from `first` on, in order, without a gap.
  static void ExpectSeqs(const Headers& got, uint64_t first) {
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(first + i, got[i].seq) << i;
    }
  }
  int Copy(uint64_t seq, void* buffer, uint32_t bytes) {
    dm_user_copy copy = {};
    copy.seq = seq;
    copy.buffer = reinterpret_cast<uintptr_t>(buffer);
    copy.bytes = bytes;
    const int n = ioctl(channel_->fd(), DM_USER_IOC_COPY, &copy);
    return n < 0 ? -errno : n;
  }

  std::vector<Pending*> reads_;
};

TEST_F(RemapBatch, EachReplyIsTakenForItself) {
  Queue(7);
  const Headers got = Take(7);
  Bytes own(4096, 0x5c);
  ASSERT_EQ(4096, Copy(got[0].seq, own.data(), 4096));
  Give({Answer(got[0].seq), Answer(got[1].seq, DM_USER_RESP_ERROR),
        Answer(got[2].seq, DM_USER_RESP_UNSUPPORTED), Good(got[3]),
        RemapTo(got[6].seq + 1, 0, 0), Answer(UINT64_MAX),
        Answer(got[4].seq, 4), Good(got[5]), Good(got[3]), Good(got[6])},
       /*stale=*/3);
  ExpectRead(reads_[0], own);
  ExpectError(reads_[1], EIO);
  ExpectError(reads_[2], EOPNOTSUPP);
  ExpectGood(3);
  ExpectError(reads_[4], EIO);
  ExpectGood(5);
  ExpectGood(6);
  EXPECT_EQ("7", device_.StatusField(kServed));
  EXPECT_EQ("3", device_.StatusField(kRemapped));
  EXPECT_EQ("3", device_.StatusField(kErrors));
  EXPECT_EQ(-ENOENT, Copy(got[3].seq, own.data(), 512));
  ExpectIdle();
}

// More than are copied at a time, both ways.
TEST_F(RemapBatch, ManyInACall) {
  Queue(50);
  const Headers got = Take(50);
  ExpectSeqs(got, 0);
  Headers replies;
  for (auto h = got.rbegin(); h != got.rend(); ++h) {
    replies.push_back(Good(*h));
    if (h->seq % 10 == 0) replies.push_back(Answer(1000 + h->seq));
  }
  Give(replies, /*stale=*/5);
  ExpectAllGood();
}

TEST_F(RemapBatch, OnlyWholeMessagesAreGiven) {
  Queue(40);
  uint64_t next = 0;
  for (const size_t whole : {1u, 15u, 16u, 2u}) {
    Headers got(whole + 1);
    const size_t room = whole * kHeaderBytes + (next % 2 ? 39 : 17);
    ASSERT_EQ(ssize_t(whole * kHeaderBytes), channel_->Read(got.data(), room));
    got.resize(whole);
    ExpectSeqs(got, next);
    next += whole;
    EXPECT_EQ(40 - next, device_.StatusNumber(kQueued));
    Headers replies;
    for (const WireHeader& h : got) replies.push_back(Good(h));
    Give(replies);
  }
  for (const WireHeader& h : Take(40 - next)) Give({Good(h)});
  ExpectAllGood();
}

// The memory for requests ends in the middle.
TEST_F(RemapBatch, WhatDoesNotFitTheMemoryComesAgain) {
  Queue(20);
  // All are taken back each time but those that were given.
  uint64_t next = 0;
  for (const size_t whole : {0u, 3u, 0u, 5u}) {
    for (const size_t more : {0u, 20u}) {
      SCOPED_TRACE(std::to_string(whole) + " and " + std::to_string(more));
      const size_t room = whole * kHeaderBytes + more;
      Edge edge(room);
      if (room == 0) continue;
      const Exchanged r =
          Exchange(channel_.get(), nullptr, 0, edge.data(), 32 * kHeaderBytes);
      EXPECT_EQ(whole == 0 ? EFAULT : 0, r.error);
      EXPECT_EQ(whole * kHeaderBytes, r.given_bytes);
      Headers got(whole);
      memcpy(got.data(), edge.data(), whole * kHeaderBytes);
      ExpectSeqs(got, next);
      next += whole;
      EXPECT_EQ(20 - next, device_.StatusNumber(kQueued));
      EXPECT_EQ(whole, device_.StatusNumber(kDelivered));
      // What was not given cannot be answered.
      Headers replies;
      for (const WireHeader& h : got) replies.push_back(Good(h));
      replies.push_back(RemapTo(next, 0, 0));
      Give(replies, /*stale=*/1);
    }
  }
  ASSERT_EQ(16u, next);
  const Headers rest = Take(4);
  ExpectSeqs(rest, 16);
  for (const WireHeader& h : rest) Give({Good(h)});
  ExpectAllGood();
}

// The same in the second of the parts in which they are copied.
TEST_F(RemapBatch, WhatDoesNotFitBehindManyComesAgain) {
  uint64_t first = 0;
  for (const size_t room :
       {16 * kHeaderBytes, 18 * kHeaderBytes + 20, 31 * kHeaderBytes + 39}) {
    SCOPED_TRACE(room);
    const size_t whole = room / kHeaderBytes;
    reads_.clear();
    for (size_t i = 0; i < 40; ++i) reads_.push_back(Read(8 * i, 8));
    Edge edge(room);
    const Exchanged r =
        Exchange(channel_.get(), nullptr, 0, edge.data(), 40 * kHeaderBytes);
    EXPECT_EQ(0, r.error);
    ASSERT_EQ(whole * kHeaderBytes, r.given_bytes);
    Headers got(whole);
    memcpy(got.data(), edge.data(), whole * kHeaderBytes);
    ExpectSeqs(got, first);
    EXPECT_EQ(whole, device_.StatusNumber(kDelivered));
    Headers rest = Take(40 - whole);
    ExpectSeqs(rest, first + whole);
    got.insert(got.end(), rest.begin(), rest.end());
    Headers replies;
    for (const WireHeader& h : got) replies.push_back(Good(h));
    Give(replies);
    for (size_t i = 0; i < 40; ++i) ExpectGood(i);
    ExpectIdle();
    first += 40;
  }
}

// The memory of the replies ends in the middle: those before are taken, and
// nothing is given.
TEST_F(RemapBatch, RepliesUpToAFaultAreTaken) {
  Queue(40);
  const Headers got = Take(40);
  Headers replies;
  for (const WireHeader& h : got) replies.push_back(Good(h));
  Pending* waits = Read(8000, 8);
  Bytes in(4096);
  size_t done = 0;
  const struct {
    size_t whole, more;
  } ends[] = {{0, 20}, {1, 0}, {0, 1}, {1, 20}, {16, 0}, {18, 20}};
  for (const auto& end : ends) {
    SCOPED_TRACE(std::to_string(end.whole) + " and " +
                 std::to_string(end.more));
    const size_t room = end.whole * kHeaderBytes + end.more;
    Edge edge(room);
    memcpy(edge.data(), replies.data() + done, room);
    const Exchanged r =
        Exchange(channel_.get(), edge.data(), (end.whole + 2) * kHeaderBytes,
                 in.data(), in.size());
    EXPECT_EQ(end.whole == 0 ? EFAULT : 0, r.error);
    EXPECT_EQ(end.whole * kHeaderBytes, r.taken_bytes);
    EXPECT_EQ(0u, r.given_bytes) << "behind replies that were not taken";
    done += end.whole;
    EXPECT_EQ(40 - done, device_.StatusNumber(kDelivered));
  }
  Give(Headers(replies.begin() + ptrdiff_t(done), replies.end()));
  for (size_t i = 0; i < 40; ++i) ExpectGood(i);
  const Headers last = Take(1);
  Give({RemapTo(last[0].seq, 0, 77)});
  ExpectRead(waits, Content(0, 77, 8));
  EXPECT_EQ("41", device_.StatusField(kRemapped));
  ExpectIdle();
}

// Part of a header, then the rest of it with others behind it; both ways.
TEST_F(RemapBatch, HeadersMayBeCut) {
  for (const size_t cut : {1u, 13u, 39u}) {
    SCOPED_TRACE(cut);
    Queue(20);
    Bytes in(21 * kHeaderBytes);
    ASSERT_EQ(ssize_t(cut), channel_->Read(in.data(), cut));
    EXPECT_EQ("1", device_.StatusField(kDelivered));
    ASSERT_EQ(ssize_t(20 * kHeaderBytes - cut),
              channel_->Read(in.data() + cut, in.size() - cut));
    Headers got(20);
    memcpy(got.data(), in.data(), 20 * kHeaderBytes);
    ExpectSeqs(got, got[0].seq);
    Headers replies;
    for (const WireHeader& h : got) replies.push_back(Good(h));
    // A wrong one among those that come in parts.
    replies.insert(replies.begin(), RemapTo(got[19].seq + 1, 0, 0));
    const auto* out = reinterpret_cast<const uint8_t*>(replies.data());
    const size_t all = replies.size() * kHeaderBytes;
    ASSERT_EQ(ssize_t(cut), channel_->Write(out, cut));
    Exchanged r = Exchange(channel_.get(), out + cut, kHeaderBytes);
    EXPECT_EQ(kHeaderBytes, r.taken_bytes);
    EXPECT_EQ(1u, r.stale);
    r = Exchange(channel_.get(), out + cut + kHeaderBytes,
                 all - cut - kHeaderBytes);
    EXPECT_EQ(0, r.error);
    EXPECT_EQ(all - cut - kHeaderBytes, r.taken_bytes);
    EXPECT_EQ(0u, r.stale);
    for (size_t i = 0; i < 20; ++i) ExpectGood(i);
    reads_.clear();
    ExpectIdle();
  }
  // A place that cannot be, byte by byte.
  Queue(2);
  const Headers got = Take(2);
  const WireHeader wrong = RemapTo(got[0].seq, 2, 0);
  const auto* out = reinterpret_cast<const uint8_t*>(&wrong);
  for (size_t i = 0; i + 1 < kHeaderBytes; ++i) {
    ASSERT_EQ(1, channel_->Write(out + i, 1));
  }
  EXPECT_EQ(1u, Exchange(channel_.get(), out + 39, 1).stale);
  ExpectError(reads_[0], EIO);
  Give({Good(got[1])});
  ExpectGood(1);
  ExpectIdle();
}

// A good reply says how many bytes follow it, and here none may: it fails, with
// its data passed over, and no other does.
TEST_F(RemapBatch, DataBehindAReplyIsPassedOver) {
  Queue(20);
  const Headers got = Take(20);
  Bytes out;
  const auto put = [&](const WireHeader& h) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&h);
    out.insert(out.end(), bytes, bytes + sizeof(h));
  };
  put(Good(got[0]));
  put({got[1].seq, DM_USER_RESP_SUCCESS, 0, 0, 4096});
  out.resize(out.size() + 4096, 0xee);
  put(Good(got[2]));
  put({got[19].seq + 1, DM_USER_RESP_SUCCESS, 0, 0, 100});
  out.resize(out.size() + 100, 0xee);
  put({got[3].seq, DM_USER_RESP_SUCCESS, 0, 0, 1});
  out.resize(out.size() + 1, 0xee);
  // An error has no data, whatever it says.
  put({got[4].seq, DM_USER_RESP_ERROR, 0, 0, 4096});
  for (size_t i = 5; i < 20; ++i) put(Good(got[i]));
  const Exchanged r = Exchange(channel_.get(), out.data(), out.size());
  EXPECT_EQ(0, r.error);
  EXPECT_EQ(out.size(), r.taken_bytes);
  EXPECT_EQ(3u, r.stale);
  for (size_t i = 0; i < 20; ++i) {
    if (i == 1 || i == 3 || i == 4) {
      ExpectError(reads_[i], EIO);
    } else {
      ExpectGood(i);
    }
  }
  EXPECT_EQ("20", device_.StatusField(kServed));
  EXPECT_EQ("17", device_.StatusField(kRemapped));
  ExpectIdle();
}

// Requests that are given with the answers in one call, over and over.
TEST_F(RemapBatch, AnswersAndRequestsInOneCall) {
  Queue(10);
  Headers replies;
  size_t served = 0;
  while (served < 10) {
    Headers in(3);
    const Exchanged r =
        Exchange(channel_.get(), replies.data(), replies.size() * kHeaderBytes,
                 in.data(), in.size() * kHeaderBytes);
    ASSERT_EQ(0, r.error);
    ASSERT_EQ(replies.size() * kHeaderBytes, r.taken_bytes);
    in.resize(r.given_bytes / kHeaderBytes);
    ASSERT_EQ(std::min<size_t>(3, 10 - served), in.size());
    ExpectSeqs(in, served);
    served += in.size();
    replies.clear();
    for (const WireHeader& h : in) replies.push_back(Good(h));
  }
  Give(replies);
  ExpectAllGood();
}

// What was delivered and not answered goes to the next channel, once.
TEST_F(RemapBatch, TheNextChannelGetsTheRest) {
  Queue(20);
  const Headers got = Take(20);
  Headers replies;
  for (size_t i = 0; i < 20; i += 2) replies.push_back(Good(got[i]));
  Give(replies);
  channel_ = std::make_unique<Channel>("remap");
  ASSERT_EQ(0, channel_->SetFlags(kRemapFlags));
  const Headers again = Take(10);
  replies.clear();
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(got[2 * i + 1].seq, again[i].seq);
    replies.push_back(Good(again[i]));
  }
  Give(replies);
  ExpectAllGood();
  EXPECT_EQ("10", device_.StatusField(kGivenBack));
}

}  // namespace
}  // namespace dmu
