// SPDX-License-Identifier: Apache-2.0
#include "test/fake_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

namespace dmu {

int FakeKernel::Open() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) !=
      0) {
    return -1;
  }
  fd_.reset(fds[0]);
  ++opens_;
  daemon_closed_ = false;
  out_.clear();
  in_.clear();
  for (const auto& [seq, message] : outstanding_) Queue(message);
  return fds[1];
}

int FakeKernel::Reopen(void* context) {
  return static_cast<FakeKernel*>(context)->Open();
}

uint64_t FakeKernel::Send(uint64_t type, uint64_t sector, uint64_t len,
                          std::vector<uint8_t> payload, uint64_t flags) {
  Message message = {};
  message.header.seq = next_seq_++;
  message.header.type = type;
  message.header.flags = flags;
  message.header.sector = sector;
  message.header.len = len;
  message.payload = std::move(payload);
  Queue(message);
  const uint64_t seq = message.header.seq;
  outstanding_[seq] = std::move(message);
  return seq;
}

void FakeKernel::Queue(const Message& message) {
  uint8_t header[sizeof(dm_user_message)];
  memcpy(header, &message.header, sizeof(header));
  out_.insert(out_.end(), header, header + sizeof(header));
  out_.insert(out_.end(), message.payload.begin(), message.payload.end());
}

void FakeKernel::SendRaw(const std::vector<uint8_t>& bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
}

bool FakeKernel::Pump() {
  if (!fd_.valid()) return false;
  const bool sent = PumpOut();
  const bool received = PumpIn();
  return sent || received;
}

bool FakeKernel::PumpOut() {
  if (out_.empty()) return false;
  const size_t bytes = std::min({chunk_, out_.size(), size_t{1} << 16});
  const std::vector<uint8_t> piece(
      out_.begin(), out_.begin() + static_cast<ptrdiff_t>(bytes));
  const ssize_t put = send(fd_.get(), piece.data(), bytes, MSG_NOSIGNAL);
  if (put <= 0) return false;
  out_.erase(out_.begin(), out_.begin() + put);
  return true;
}

bool FakeKernel::PumpIn() {
  uint8_t piece[1 << 16];
  const ssize_t got = read(fd_.get(), piece, std::min(chunk_, sizeof(piece)));
  if (got == 0) daemon_closed_ = true;
  if (got <= 0) return false;
  in_.insert(in_.end(), piece, piece + got);
  Parse();
  return true;
}

void FakeKernel::Parse() {
  for (;;) {
    dm_user_message header;
    if (in_.size() < sizeof(header)) return;
    memcpy(&header, in_.data(), sizeof(header));
    const auto it = outstanding_.find(header.seq);
    if (it == outstanding_.end()) {
      violation_ = "a reply to seq " + std::to_string(header.seq) +
                   ", which is not outstanding";
      return;
    }
    const bool data = it->second.header.type == DM_USER_REQ_MAP_READ &&
                      header.type == DM_USER_RESP_SUCCESS;
    // What a reply says of its length, if anything, is the request's.
    if (header.len != 0 && (!data || header.len != it->second.header.len)) {
      violation_ = "a reply of " + std::to_string(header.len) + " bytes";
      return;
    }
    const size_t bytes = sizeof(header) + (data ? it->second.header.len : 0);
    if (in_.size() < bytes) return;
    Reply reply;
    reply.type = header.type;
    reply.data.assign(in_.begin() + sizeof(header),
                      in_.begin() + static_cast<ptrdiff_t>(bytes));
    in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(bytes));
    replies_[header.seq] = std::move(reply);
    outstanding_.erase(it);
  }
}

std::optional<FakeKernel::Reply> FakeKernel::TakeReply(uint64_t seq) {
  const auto it = replies_.find(seq);
  if (it == replies_.end()) return std::nullopt;
  Reply reply = std::move(it->second);
  replies_.erase(it);
  return reply;
}

}  // namespace dmu
