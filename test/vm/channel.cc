// SPDX-License-Identifier: Apache-2.0
//
// See channel.h.
#include "test/vm/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

namespace dmu {

Channel::Kind Channel::kind = Channel::Kind::kCalls;

Channel::Channel(const std::string& name, int flags)
    : fd_(open(("/dev/dm-user/" + name).c_str(), O_RDWR | O_CLOEXEC | flags)),
      flags_(flags) {}

Channel::~Channel() { Close(); }

void Channel::Close() {
  if (fd_ >= 0) {
    close(fd_);
  }
  fd_ = -1;
}

int Channel::SetFlags(uint64_t flags, uint64_t coalesce_bytes) {
  dm_user_channel set = {};
  if (kind == Kind::kUring) flags |= DM_USER_CHANNEL_BATCH;
  set.flags = flags;
  set.coalesce_bytes = coalesce_bytes;
  if (ioctl(fd_, DM_USER_IOC_SET_CHANNEL, &set) < 0) return errno;
  modes_ = flags;
  return 0;
}

int Channel::Info(dm_user_info* info) {
  return ioctl(fd_, DM_USER_IOC_INFO, info) < 0 ? errno : 0;
}

Uring* Channel::Ring() {
  if (uring_ == nullptr || uring_owner_ != getpid()) {
    // One that came with a fork belongs to the parent.
    (void)uring_.release();
    uring_ = std::make_unique<Uring>();
    uring_owner_ = getpid();
  }
  if (modes_ == 0) SetFlags(0);
  return uring_.get();
}

ssize_t Channel::UringRead(void* to, size_t bytes) {
  UringBatch command;
  command.batch.requests = reinterpret_cast<uintptr_t>(to);
  command.batch.requests_bytes = static_cast<uint32_t>(bytes);
  command.batch.timeout_ms = (flags_ & O_NONBLOCK) != 0 ? 0 : UINT32_MAX;
  if (!Ring()->Submit(fd_, &command)) return -EIO;
  const int result = Ring()->Await(&command, INT_MAX);
  return result == 0 && bytes > 0 ? -EAGAIN : result;
}

ssize_t Channel::UringWrite(const void* from, size_t bytes) {
  UringBatch command;
  command.batch.replies = reinterpret_cast<uintptr_t>(from);
  command.batch.replies_bytes = static_cast<uint32_t>(bytes);
  if (!Ring()->Submit(fd_, &command)) return -EIO;
  const int result = Ring()->Await(&command, INT_MAX);
  if (result < 0) return result;
  const bool refused = command.batch.stale > 0 && bytes == sizeof(WireHeader);
  return refused ? -EINVAL : static_cast<ssize_t>(command.batch.taken_bytes);
}

ssize_t Channel::Read(void* to, size_t bytes) {
  if (kind == Kind::kUring) return UringRead(to, bytes);
  const ssize_t n = read(fd_, to, bytes);
  return n < 0 ? -errno : n;
}

ssize_t Channel::Write(const void* from, size_t bytes) {
  if (kind == Kind::kUring) return UringWrite(from, bytes);
  const ssize_t n = write(fd_, from, bytes);
  return n < 0 ? -errno : n;
}

short Channel::Poll(int timeout_ms) {
  pollfd p = {fd_, POLLIN, 0};
  return poll(&p, 1, timeout_ms) > 0 ? p.revents : static_cast<short>(0);
}

bool Channel::NextHeader(WireHeader* header) {
  return Poll(10000) == POLLIN &&
         Read(header, sizeof(*header)) == sizeof(*header);
}

bool Channel::Next(WireRequest* request) {
  if (!NextHeader(&request->header)) {
    return false;
  }
  request->payload.clear();
  if (request->header.type != DM_USER_REQ_MAP_WRITE) {
    return true;
  }
  request->payload.resize(request->header.len);
  for (size_t done = 0; done < request->payload.size();) {
    const ssize_t n =
        Read(request->payload.data() + done, request->payload.size() - done);
    if (n <= 0) {
      return false;
    }
    done += static_cast<size_t>(n);
  }
  return true;
}

bool Channel::Reply(uint64_t seq, const std::vector<uint8_t>& payload) {
  // In the stream nobody looks at the length.
  WireHeader header = {seq, DM_USER_RESP_SUCCESS, 0, 0, payload.size()};
  if (kind == Kind::kUring) {
    std::vector<uint8_t> all;
    AppendReply(&all, seq, DM_USER_RESP_SUCCESS, payload);
    const ssize_t taken = Write(all.data(), all.size());
    if (taken < 0) errno = static_cast<int>(-taken);
    return taken == static_cast<ssize_t>(all.size());
  }
  iovec parts[2] = {
      {&header, sizeof(header)},
      {const_cast<uint8_t*>(payload.data()), payload.size()},
  };
  return writev(fd_, parts, 2) ==
         static_cast<ssize_t>(sizeof(header) + payload.size());
}

ssize_t Channel::ReplyType(uint64_t seq, uint64_t type) {
  const WireHeader header = {seq, type, 0, 0, 0};
  return Write(&header, sizeof(header));
}

void AppendReply(std::vector<uint8_t>* out, uint64_t seq, uint64_t type,
                 const std::vector<uint8_t>& data) {
  const WireHeader header = {seq, type, 0, 0, data.size()};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  out->insert(out->end(), bytes, bytes + sizeof(header));
  out->insert(out->end(), data.begin(), data.end());
}

bool ServeRam(Channel* channel, uint8_t* disk, size_t bytes) {
  constexpr size_t kInHandMax = 8;
  std::vector<WireHeader> in_hand;
  for (;;) {
    in_hand.clear();
    do {
      WireHeader h;
      ssize_t n = channel->Read(&h, sizeof(h));
      if (n == -ENOTBLK) {
        return true;
      }
      if (n != sizeof(h) || h.sector * 512 + h.len > bytes) {
        return false;
      }
      in_hand.push_back(h);
      if (h.type != DM_USER_REQ_MAP_WRITE) {
        continue;
      }
      uint8_t* at = disk + h.sector * 512;
      for (size_t done = 0; done < h.len; done += static_cast<size_t>(n)) {
        n = channel->Read(at + done, h.len - done);
        if (n == -ECANCELED) {
          // A suspend has taken it away; it comes again.
          in_hand.pop_back();
          break;
        }
        if (n <= 0) {
          return n == -ENOTBLK;
        }
      }
    } while (in_hand.size() < kInHandMax && channel->Poll(0) == POLLIN);

    for (; !in_hand.empty(); in_hand.pop_back()) {
      const WireHeader& h = in_hand.back();
      const uint8_t* at = disk + h.sector * 512;
      std::vector<uint8_t> payload;
      if (h.type == DM_USER_REQ_MAP_READ) {
        payload.assign(at, at + h.len);
      }
      // EINVAL: a suspend has taken it away.
      if (!channel->Reply(h.seq, payload) && errno != EINVAL) {
        return errno == ENOTBLK;
      }
    }
  }
}

RamServer::RamServer(const std::string& name, size_t bytes,
                     const uint8_t* initial)
    : channel_(name),
      data_(initial != nullptr ? std::vector<uint8_t>(initial, initial + bytes)
                               : std::vector<uint8_t>(bytes)),
      thread_([this] { Run(); }) {}

RamServer::~RamServer() {
  stop_ = true;
  thread_.join();
}

// Polls, so that it can be stopped with the target still there.
void RamServer::Run() {
  while (!stop_) {
    const short events = channel_.Poll(20);
    if (events & POLLERR) {
      return;
    }
    WireRequest request;
    if (!(events & POLLIN) || !channel_.Next(&request)) {
      continue;
    }
    const WireHeader& h = request.header;
    flags_seen_ |= h.flags;
    uint8_t* at = data_.data() + h.sector * 512;
    std::vector<uint8_t> payload;
    if (h.type == DM_USER_REQ_MAP_READ) {
      payload.assign(at, at + h.len);
    } else if (h.type == DM_USER_REQ_MAP_WRITE) {
      memcpy(at, request.payload.data(), request.payload.size());
    } else {
      memset(at, 0, h.len);
    }
    channel_.Reply(h.seq, payload);
  }
}

}  // namespace dmu
