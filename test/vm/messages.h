// SPDX-License-Identifier: Apache-2.0
//
// Batches of messages, for the kernel tests: what came, and what to answer.
#ifndef TEST_VM_MESSAGES_H_
#define TEST_VM_MESSAGES_H_

#include <gtest/gtest.h>
#include <string.h>

#include <cstdint>
#include <vector>

#include "test/vm/channel.h"
#include "test/vm/dm.h"

namespace dmu {

// The messages in a buffer; one that is cut fails the test. `headers_only`:
// user copy.
inline std::vector<WireRequest> ParseMessages(const std::vector<uint8_t>& bytes,
                                              bool headers_only = false) {
  std::vector<WireRequest> requests;
  for (size_t at = 0; at + sizeof(WireHeader) <= bytes.size();) {
    WireRequest request;
    memcpy(&request.header, bytes.data() + at, sizeof(WireHeader));
    at += sizeof(WireHeader);
    if (request.header.type == DM_USER_REQ_MAP_WRITE && !headers_only) {
      EXPECT_LE(at + request.header.len, bytes.size()) << "a message is cut";
      if (at + request.header.len > bytes.size()) break;
      const auto payload = bytes.begin() + static_cast<ptrdiff_t>(at);
      request.payload.assign(
          payload, payload + static_cast<ptrdiff_t>(request.header.len));
      at += request.header.len;
    }
    requests.push_back(request);
  }
  return requests;
}

// Good replies to all; reads get the pattern of their sector.
inline std::vector<uint8_t> GoodReplies(
    const std::vector<WireRequest>& requests) {
  std::vector<uint8_t> out;
  for (const WireRequest& request : requests) {
    const WireHeader& h = request.header;
    const bool read = h.type == DM_USER_REQ_MAP_READ;
    AppendReply(&out, h.seq, DM_USER_RESP_SUCCESS,
                read ? Pattern(h.len, static_cast<uint32_t>(h.sector))
                     : std::vector<uint8_t>());
  }
  return out;
}

}  // namespace dmu

#endif  // TEST_VM_MESSAGES_H_
